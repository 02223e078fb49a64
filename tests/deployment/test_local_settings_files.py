"""The settings files `up` writes are accepted by the strict loaders of the very daemons that read them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cluster_manager.settings import FailoverSettings, ManagerSettings
from daemonkit.exits import WrongUsage
from daemonkit.principals import Scope
from daemonkit.settings import load_settings
from daemonkit.toml import to_toml
from deployment.cluster import PostgresSettings
from deployment.local.directory import write_settings
from deployment.local.layout import Layout
from deployment.local.plan import DEFAULT_BASE_PORT, make_plan
from deployment.local.preferences import (
    Preferences,
    ReaderPreferences,
    TlsPreferences,
    WriterPreferences,
    load_preferences,
)
from deployment.local.settings_files import preferences_in_force, settings_files, why_refused
from endpointctl.options import DEFAULT_DATA_DIR
from endpointd.settings import ServersSettings, read_settings
from endpointd.settings import Settings as ProxySettings
from noded.settings import NodedSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / 'a "quoted" plächen')
    found.settings.mkdir(parents=True)
    return found


def _write(layout: Layout, preferences: Preferences) -> None:
    plan = make_plan(node_count=3, base_port=6400, pg_bin="/opt/pg/bin")
    write_settings(settings_files(plan, layout, preferences))


def test_the_sample_for_prometheus_names_every_program_of_a_default_cluster() -> None:
    text = (ROOT / "config" / "prometheus.yml").read_text()
    plan = make_plan(node_count=3, base_port=DEFAULT_BASE_PORT, pg_bin="/bin")
    wanted = [plan.manager_port, plan.proxy_port, *(node.noded_port for node in plan.nodes)]
    assert [int(port) for port in re.findall(r'"127\.0\.0\.1:(\d+)"', text)] == wanted
    default = Layout(Path("/home/YOU") / DEFAULT_DATA_DIR.relative_to("~"))
    assert re.findall(r"credentials_file: (.*)", text) == [str(default.token_of(Scope.SCRAPE))]


def test_every_daemon_accepts_its_file(layout: Layout) -> None:
    _write(layout, Preferences())
    noded = load_settings(layout.settings_file("n2"), NodedSettings)
    assert (noded.node.name, noded.postgres.port, noded.http.port) == ("n2", 6411, 6461)
    assert noded.node.dir == layout.node("n2")
    manager = load_settings(layout.settings_file("cluster_manager"), ManagerSettings)
    assert [node.name for node in manager.nodes] == ["n1", "n2", "n3"]
    assert manager.endpoints.writer.port == 6432


def test_what_the_operator_prefers_reaches_the_nodes(layout: Layout, tmp_path: Path) -> None:
    chosen = tmp_path / "p.toml"
    chosen.write_text(
        '[postgres]\nsettings = { work_mem = "8MB" }\nhba = ["host all all ::1/128 scram-sha-256"]\n[logs]\nlevel = "debug"\n'
    )
    _write(layout, load_preferences(chosen))
    noded = load_settings(layout.settings_file("n1"), NodedSettings)
    assert noded.postgres.settings == {"work_mem": "8MB"}
    assert noded.postgres.hba == ("host all all ::1/128 scram-sha-256",)
    assert noded.logs.level == "debug"


def test_the_rules_for_failovers_reach_the_manager_and_are_its_own_by_default(layout: Layout, tmp_path: Path) -> None:
    _write(layout, Preferences())
    assert load_settings(layout.settings_file("cluster_manager"), ManagerSettings).failover == FailoverSettings()
    chosen = tmp_path / "p.toml"
    chosen.write_text("[failover]\nsoft_interval_s = 0\nhold_after = 5\nhold_s = 1.5\n")
    _write(layout, load_preferences(chosen))
    manager = load_settings(layout.settings_file("cluster_manager"), ManagerSettings)
    assert manager.failover == FailoverSettings(soft_interval_s=0, hold_after=5, hold_s=1.5)


def test_pooled_endpoints_are_two_ports_above_the_others_and_stay_when_asked_for_once(layout: Layout, tmp_path: Path) -> None:
    chosen = tmp_path / "p.toml"
    chosen.write_text('[pooled_writer]\npool_size = 7\nrules = ["host all all all scram-sha-256"]\n[pooled_reader]\n')
    preferences = load_preferences(chosen)
    _write(layout, preferences)
    proxy = read_settings(layout.settings_file("endpointd"))
    assert {name: (each.port, each.pool_size) for name, each in proxy.pooled.items()} == {
        "pooled-writer": (6434, 7),
        "pooled-reader": (6435, 20),
    }
    plan = make_plan(node_count=3, base_port=6400, pg_bin="/bin")
    assert preferences_in_force(layout, plan) == preferences


def test_preferences_written_to_a_file_are_the_same(tmp_path: Path) -> None:
    chosen = Preferences(
        postgres=PostgresSettings(settings={"a.b": 'x"y'}, hba=("host all all ::1/128 trust",)),
        failover=FailoverSettings(hold_after=0),
        reader=ReaderPreferences(max_lag_ms=0),
    )
    path = tmp_path / "p.toml"
    path.write_text(to_toml(chosen))
    assert load_preferences(path) == chosen


def test_the_example_of_preferences_means_the_defaults() -> None:
    assert load_preferences(ROOT / "config" / "local.toml") == Preferences()


def test_everything_the_example_mentions_is_understood(tmp_path: Path) -> None:
    lines = (ROOT / "config" / "local.toml").read_text().splitlines()
    active = [line.removeprefix("# ") if line.startswith("# ") and " = " in line else line for line in lines]
    path = tmp_path / "all.toml"
    path.write_text("\n".join(active))
    assert load_preferences(path).cluster.base_port == 6400


def test_a_misspelt_preference_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("[postgres]\nsetings = {}\n")
    with pytest.raises(WrongUsage, match="setings"):
        load_preferences(path)


def test_every_proxy_has_ports_files_and_a_socket_of_its_own_and_the_processes_that_were_chosen(
    layout: Layout, tmp_path: Path
) -> None:
    chosen = tmp_path / "p.toml"
    chosen.write_text('[proxy]\nworkers = "auto"\ndrain_timeout_s = 5.0\n')
    plan = make_plan(node_count=3, base_port=6400, pg_bin="/bin", proxy_count=2)
    for path, text in settings_files(plan, layout, load_preferences(chosen)).items():
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    first, second = (load_settings(layout.settings_file(proxy.program), ProxySettings) for proxy in plan.proxies)
    assert [(one.writer.port, one.reader.port, one.http.port) for one in (first, second)] == [
        (6432, 6433, 6490),
        (6436, 6437, 6491),
    ]
    assert [one.proxy.name for one in (first, second)] == ["proxy-1", "proxy-2"]
    assert first.proxy.takeover != second.proxy.takeover
    assert first.proxy.cache != second.proxy.cache
    assert {one.proxy.workers for one in (first, second)} == {"auto"}
    in_force = preferences_in_force(layout, plan).proxy
    assert (in_force.workers, in_force.drain_timeout_s) == ("auto", 5.0)


def test_the_proxy_knows_where_the_manager_is(layout: Layout) -> None:
    _write(layout, Preferences())
    proxy = tomllib.loads(layout.settings_file("endpointd").read_text())
    assert proxy["feed"]["urls"] == ["http://127.0.0.1:6480"]
    assert (proxy["writer"]["port"], proxy["reader"]["port"]) == (6432, 6433)


def test_nodes_and_proxy_speak_tls_where_postgresql_has_it(layout: Layout) -> None:
    plan = make_plan(node_count=3, base_port=6400, pg_bin="/opt/pg/bin", has_tls=True)
    write_settings(settings_files(plan, layout, Preferences(servers=ServersSettings(tls="verify"))))
    node = load_settings(layout.settings_file("n2"), NodedSettings)
    assert node.postgres.tls is not None
    assert node.postgres.tls.certificate == node.postgres.tls.key == layout.tls / "n2.pem"
    assert node.vouching is None
    proxy = read_settings(layout.settings_file("endpointd"))
    assert (proxy.servers.tls, proxy.servers.ca, proxy.servers.certificate) == ("verify", layout.trusted, None)
    _write(layout, Preferences())
    assert load_settings(layout.settings_file("n2"), NodedSettings).postgres.tls is None


VOUCHED = Preferences(
    writer=WriterPreferences(rules=("hostssl shop ann all cert map=m", "host all all all scram-sha-256")),
    reader=ReaderPreferences(rules=("host shop /^svc_ all trust",), client_address="application_name", max_lag_ms=7),
    tls=TlsPreferences(user_maps=("m a ann",)),
)


def test_rules_reach_the_proxy_and_whom_it_vouches_for_the_nodes(layout: Layout) -> None:
    plan = make_plan(node_count=3, base_port=6400, pg_bin="/opt/pg/bin", has_tls=True)
    write_settings(settings_files(plan, layout, VOUCHED))
    node = load_settings(layout.settings_file("n3"), NodedSettings)
    assert node.vouching is not None
    assert node.vouching.logins == ("shop ann", "shop /^svc_")
    proxy = read_settings(layout.settings_file("endpointd"))
    assert (proxy.servers.tls, proxy.servers.certificate) == ("verify", layout.tls / "proxy.pem")
    assert node.vouching.sources == (proxy.servers.source,)
    assert (proxy.tls.client_ca, proxy.tls.user_maps) == (layout.trusted, ("m a ann",))
    assert proxy.reader.client_address == "application_name"
    # A node that is added gets the same.
    in_force = preferences_in_force(layout, plan)
    assert (in_force.writer, in_force.reader) == (VOUCHED.writer, VOUCHED.reader)
    assert settings_files(plan, layout, in_force) == settings_files(plan, layout, VOUCHED)


def test_rules_that_the_proxy_would_refuse_are_refused_before_anything_starts(layout: Layout) -> None:
    without = make_plan(node_count=3, base_port=6400, pg_bin="/opt/pg/bin")
    within = make_plan(node_count=3, base_port=6400, pg_bin="/opt/pg/bin", has_tls=True)
    assert why_refused(within, layout, VOUCHED) is None
    assert "built with TLS" in (why_refused(without, layout, VOUCHED) or "")
    wrong = Preferences(writer=WriterPreferences(rules=("host all all all sesame",)))
    assert "is no method" in (why_refused(within, layout, wrong) or "")
    assert why_refused(without, layout, Preferences()) is None
