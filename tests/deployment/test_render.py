"""Whatever cluster is described, each daemon's own reader gets from its file what was rendered for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_manager.settings import FailoverSettings, WantedDurability
from cluster_manager.settings import read_settings as read_manager
from daemonkit.logs import LogSettings
from daemonkit.settings import load_settings
from daemonkit.toml import to_toml
from deployment.cluster import Cluster, Node, PostgresSettings
from deployment.render import Machine, manager_settings, noded_settings, proxy_settings
from endpointd.settings import LimitSettings
from endpointd.settings import read_settings as read_proxy
from noded.settings import NodedSettings
from pgtopology.node import NODES_MAX, Address

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
NODE_NAME = LABEL.filter(lambda name: name not in ("writer", "reader"))
ADDRESS = st.builds(Address, host=st.sampled_from(["127.0.0.1", "::1", "db-1.example.com"]), port=st.integers(1, 65535))
PORT = st.integers(1, 65535)
SECONDS = st.floats(0, 86400)
PATH = st.lists(TEXT.filter(lambda text: text.strip("/.~ ") != ""), max_size=3).map(lambda parts: Path("/", *parts))
NODE = st.builds(Node, name=NODE_NAME, zone=TEXT, postgres=ADDRESS, noded=ADDRESS, tier=st.integers(0, 15))
CLUSTER = st.builds(
    Cluster,
    name=LABEL,
    zone=TEXT,
    durability=st.sampled_from(WantedDurability),
    nodes=st.lists(NODE, min_size=1, max_size=NODES_MAX, unique_by=lambda node: node.name).map(tuple),
    manager=ADDRESS,
    manager_names=st.lists(TEXT, max_size=2).map(tuple),
    dns_port=PORT,
    writer=ADDRESS,
    reader=ADDRESS,
    proxy_port=PORT,
    postgres=st.builds(
        PostgresSettings, settings=st.dictionaries(TEXT, TEXT, max_size=3), hba=st.lists(TEXT, max_size=2).map(tuple)
    ),
    failover=st.builds(
        FailoverSettings, soft_interval_s=SECONDS, hold_after=st.integers(0, 64), hold_window_s=SECONDS, hold_s=SECONDS
    ),
    max_lag_ms=st.integers(0, 86_400_000),
    fallback_to_writer=st.booleans(),
    limits=st.builds(
        LimitSettings,
        sessions_max=st.integers(1, 1_000_000),
        hold_s=st.floats(0.001, 3600),
        per_user_max=st.none() | st.integers(1, 9),
    ),
    logs=st.builds(LogSettings, level=st.sampled_from(["debug", "error"]), style=st.sampled_from(["console", "json"])),
).filter(lambda cluster: len({cluster.writer.port, cluster.reader.port, cluster.proxy_port}) == 3)
"""A proxy's three ports differ, as its settings want it."""
MACHINE = st.builds(Machine, listen=st.sampled_from(["127.0.0.1", "::"]), data=PATH, secrets=PATH)


@pytest.fixture(scope="session")
def read_back(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Return what *read* makes of the file of *written*."""
    path = tmp_path_factory.mktemp("round") / "settings.toml"

    def back(written: msgspec.Struct, read: Callable[[Path], object]) -> object:
        path.write_text(to_toml(written), encoding="utf-8")
        return read(path)

    return back


@given(cluster=CLUSTER, machine=MACHINE, sockets=PATH, pg_bin=st.none() | PATH)
def test_every_daemon_reads_what_was_rendered(
    read_back: Callable[..., object], cluster: Cluster, machine: Machine, sockets: Path, pg_bin: Path | None
) -> None:
    manager = manager_settings(cluster, machine)
    assert read_back(manager, read_manager) == manager
    proxy = proxy_settings(cluster, "proxy-1", machine, feed_token=machine.secrets / "feed-token")
    assert read_back(proxy, read_proxy) == proxy
    for node in cluster.nodes:
        noded = noded_settings(cluster, node, machine, socket_dir=sockets, pg_bin=pg_bin)
        assert read_back(noded, lambda path: load_settings(path, NodedSettings)) == noded


@given(cluster=CLUSTER, machine=MACHINE)
def test_the_programs_find_one_another(cluster: Cluster, machine: Machine) -> None:
    manager = manager_settings(cluster, machine)
    proxy = proxy_settings(cluster, "p", machine, feed_token=machine.secrets / "feed")
    assert proxy.feed.urls == (f"http://{cluster.manager}",)
    assert manager.http.port == cluster.manager.port
    assert (manager.endpoints.writer.port, manager.endpoints.reader.port) == (proxy.writer.port, proxy.reader.port)
    for node, spec in zip(cluster.nodes, manager.specs(), strict=True):
        noded = noded_settings(cluster, node, machine, socket_dir=Path("/s"))
        assert (noded.postgres.port, noded.http.port) == (spec.address.port, spec.noded.port)
        assert noded.http.token_file == manager.nodeds.token_file
        assert noded.http.verifiers_file == manager.http.verifiers_file == proxy.http.verifiers_file
