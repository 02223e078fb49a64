"""The settings that containers make for themselves: from the shipped description, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from cluster_manager.settings import FailoverSettings
from daemonkit.logs import LogSettings
from daemonkit.settings import SettingsError, load_settings
from deployment import containers
from deployment.certificates import KeyPair, names_of
from deployment.cluster import Cluster, Door, PooledDoor
from deployment.containers import ClusterFile, describe
from deployment.keyring import read_pair
from endpointd.settings import LimitSettings, complaints

ROOT = Path(__file__).parents[2]
NET = {"ENDPOINTD_NET": "172.30.64"}


@pytest.fixture
def file() -> ClusterFile:
    return load_settings(ROOT / "config" / "compose.toml", ClusterFile)


@pytest.fixture
def cluster(file: ClusterFile) -> Cluster:
    return describe(file, NET)


def test_the_shipped_description_says_the_defaults(file: ClusterFile) -> None:
    assert file.failover == FailoverSettings()
    assert describe(file, NET).limits == LimitSettings()
    for table in ("cluster", "proxy", "writer", "reader", "tls", "servers", "logs"):
        assert getattr(file, table) == type(getattr(file, table))(), table


def test_the_manager_looks_after_the_nodes_that_the_environment_names(cluster: Cluster) -> None:
    settings = containers.of_manager(cluster, {"ENDPOINTD_NODES": "n1, n2,n3,n4"})
    assert [node.name for node in settings.nodes] == ["n1", "n2", "n3", "n4"]
    assert settings.nodes[3].host == "172.30.64.14"
    assert settings.specs()[0].noded.port == containers.NODED_PORT
    assert settings.http.allowed_hosts == ("manager",)
    assert [node.name for node in containers.of_manager(cluster, {}).nodes] == ["n1", "n2", "n3"]


def test_every_node_of_the_file_has_settings(cluster: Cluster) -> None:
    for number in range(1, 6):
        settings = containers.of_node(cluster, f"n{number}")
        assert settings.node.name == f"n{number}"
        assert settings.postgres.host == containers.EVERYWHERE
        assert settings.postgres.settings["shared_buffers"] == "128MB"
        assert settings.logs == LogSettings(style="json")


def test_the_proxy_is_called_after_its_container(cluster: Cluster) -> None:
    settings = containers.of_proxy(cluster, "abc")
    assert settings.proxy.name == "proxy-abc"
    assert settings.feed.urls == ("http://172.30.64.5:6480",)
    assert settings.reader.fallback_to_writer


def test_nodes_and_endpoints_are_certified_each_where_it_reads(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATA", "TLS_NODES", "TLS_PROXY"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(containers, name, tmp_path / name)
    now = datetime.now(UTC)
    made = containers.certify(cluster, now)
    texts = [path.read_text() for path in made]
    assert sorted(path.name for path in (tmp_path / "TLS_PROXY").iterdir()) == ["ca.crt", "endpoints.pem"]
    assert sorted(path.name for path in (tmp_path / "TLS_NODES").iterdir()) == ["ca.crt", *(f"n{n}.pem" for n in range(1, 6))]
    pairs = {path.stem: read_pair(path) for path in made}
    assert names_of(_some(pairs["n2"])) == {"n2.local.endpointd.internal", "172.30.64.12"}
    assert names_of(_some(pairs["endpoints"])) >= {"proxy", "writer.local.endpointd.internal", "127.0.0.1"}
    # An endpoint's is made anew in a year, the nodes' not before the authority.
    assert containers.certify(cluster, now + timedelta(days=370)) == made
    assert [path.read_text() == text for path, text in zip(made, texts, strict=True)] == [True] * 5 + [False]
    assert (tmp_path / "TLS_PROXY" / "ca.crt").read_text() == (tmp_path / "TLS_NODES" / "ca.crt").read_text()


def _some(pair: KeyPair | None) -> KeyPair:
    assert pair is not None
    return pair


def test_tls_is_spoken_where_there_are_certificates(file: ClusterFile, cluster: Cluster) -> None:
    node = containers.of_node(cluster, "n2", has_tls=True)
    assert node.postgres.tls is not None
    assert node.postgres.tls.certificate == Path("/etc/endpointd/tls/n2.pem")
    proxy = containers.of_proxy(cluster, "abc", tls=file.tls, servers=file.servers)
    assert (proxy.tls.mode, proxy.servers.tls, proxy.servers.ca) == ("prefer", "verify", Path("/etc/endpointd/tls/ca.crt"))
    assert list(complaints(proxy)) == []
    plain = containers.of_proxy(cluster, "abc")
    assert (plain.tls.mode, plain.servers.tls) == ("off", "off")


def test_rules_of_the_file_reach_the_endpoints(file: ClusterFile) -> None:
    door = Door(rules=("host all all all reject",), client_address="application_name")
    proxy = containers.of_proxy(describe(msgspec.structs.replace(file, reader=door), NET), "abc")
    assert (proxy.reader.rules, proxy.reader.client_address) == (door.rules, "application_name")
    assert proxy.writer.rules == ()


def test_the_lines_of_containers_are_for_machines_unless_the_operator_wants_otherwise(file: ClusterFile) -> None:
    said = msgspec.convert({"level": "debug"}, containers.ContainerLogs)
    assert describe(msgspec.structs.replace(file, logs=said), NET).logs == LogSettings(level="debug", style="json")
    said = msgspec.convert({"style": "console"}, containers.ContainerLogs)
    assert describe(msgspec.structs.replace(file, logs=said), NET).logs == LogSettings()


def test_pooled_endpoints_are_there_if_the_file_has_their_tables(file: ClusterFile, cluster: Cluster) -> None:
    assert containers.of_proxy(cluster, "abc").pooled == {}
    with pytest.raises(SettingsError, match=r"no endpoint pooled-writer; a table \[pooled_writer\] opens it"):
        containers.psql_command(cluster, "pooled-writer", [])
    wanted = msgspec.structs.replace(file, pooled_writer=PooledDoor(pool_size=7), pooled_reader=PooledDoor())
    described = describe(wanted, NET)
    found = {
        name: (each.host, each.port, each.pool_size) for name, each in containers.of_proxy(described, "abc").pooled.items()
    }
    assert found == {"pooled-writer": (containers.EVERYWHERE, 6434, 7), "pooled-reader": (containers.EVERYWHERE, 6435, 20)}
    assert containers.psql_command(described, "pooled-reader", []) == ["psql", "postgresql://postgres@proxy:6435/postgres"]


def test_what_the_shipped_file_says_of_pooled_endpoints_can_be_used(tmp_path: Path) -> None:
    shipped = containers.CLUSTER_FILE.name
    text = (ROOT / "config" / shipped).read_text()
    for line in ("[pooled_writer]", "rules = []", "pool_size = 20 ", "[pooled_reader]", "pool_size = 20\n"):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line, 1)
    (tmp_path / shipped).write_text(text)
    assert load_settings(tmp_path / shipped, ClusterFile).pooled_reader == PooledDoor()


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ("writer", "postgresql://postgres@proxy:6432/postgres"),
        ("reader", "postgresql://postgres@proxy:6433/postgres"),
        ("n2", "postgresql://postgres@172.30.64.12:5432/postgres"),
    ],
)
def test_psql_goes_to_an_endpoint_or_a_node(cluster: Cluster, place: str, uri: str) -> None:
    assert containers.psql_command(cluster, place, ["-c", "SELECT 1"]) == ["psql", uri, "-c", "SELECT 1"]


def test_what_cannot_be_is_refused_in_words(file: ClusterFile, cluster: Cluster) -> None:
    with pytest.raises(SettingsError, match=r'compose\.toml: there is no node "n9", only n1'):
        containers.of_node(cluster, "n9")
    with pytest.raises(SettingsError, match="ENDPOINTD_NET"):
        describe(file, {"ENDPOINTD_NET": "10.1.2.0/24"})
