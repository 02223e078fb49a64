"""The certificates of a local cluster: made once, made anew when they are due, and never half."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from deployment import keyring as files
from deployment.certificates import KeyPair, certificates_in, is_signed_by
from deployment.local.directory import make_directories, make_root
from deployment.local.layout import Layout
from deployment.local.plan import make_plan
from deployment.local.tls import (
    is_any_due,
    keyring,
    make_certificates,
    server_names,
    show_certificates,
)
from endpointd.settings import TlsSettings
from endpointd.wire.identity import load_server_identity

PLAN = make_plan(node_count=3, base_port=20_000, pg_bin="/nowhere")
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cluster")
    make_root(made)
    make_directories(made)
    return made


def contents(layout: Layout) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(layout.tls.iterdir())}


def fits(layout: Layout) -> bool:
    """Whether the proxy can use it, and a client that trusts ca.crt believes the endpoints' certificate."""
    identity = load_server_identity(TlsSettings(mode="prefer", certificate=layout.server_pair, key=layout.server_pair))
    authority, server = KeyPair(layout.authority.read_text()), KeyPair(layout.server_pair.read_text())
    trusted = certificates_in(layout.trusted.read_text())
    return identity is not None and is_signed_by(server, authority) and authority.certificate_pem in trusted


def test_they_are_made_once_and_private(layout: Layout) -> None:
    make_certificates(layout, PLAN, NOW)
    made = contents(layout)
    assert set(made) == {"ca.pem", "ca.crt", "server.pem"}
    assert [path.stat().st_mode & 0o777 for path in (layout.authority, layout.trusted, layout.server_pair)] == [
        0o600,
        0o644,
        0o600,
    ]
    assert "PRIVATE" not in made["ca.crt"]
    make_certificates(layout, PLAN, NOW + dt.timedelta(days=300))
    assert contents(layout) == made
    assert fits(layout)
    assert set(show_certificates(layout, PLAN)[-1].names) == set(server_names(PLAN))
    assert "writer.local.endpointd.internal" in server_names(PLAN)


def test_what_is_due_or_lacks_a_name_is_made_anew_by_the_same_authority(layout: Layout) -> None:
    make_certificates(layout, PLAN, NOW)
    before = contents(layout)
    make_certificates(layout, PLAN, NOW + dt.timedelta(days=370))
    after = contents(layout)
    assert (after["ca.pem"], after["ca.crt"]) == (before["ca.pem"], before["ca.crt"])
    assert after["server.pem"] != before["server.pem"]
    five = make_plan(node_count=5, base_port=20_000, pg_bin="/nowhere")
    make_certificates(layout, five, NOW)
    assert "n5.local.endpointd.internal" in show_certificates(layout, five)[-1].names


def test_a_new_authority_leaves_the_former_one_trusted_while_it_counts(layout: Layout) -> None:
    make_certificates(layout, PLAN, NOW)
    before = contents(layout)
    make_certificates(layout, PLAN, NOW, authority_anew=True)
    after = contents(layout)
    assert after["ca.crt"].endswith(before["ca.crt"])
    assert [each.name for each in show_certificates(layout, PLAN)] == ["authority", "former authority", "endpoints"]
    assert fits(layout)
    make_certificates(layout, PLAN, NOW + dt.timedelta(days=4000))
    assert [each.name for each in show_certificates(layout, PLAN)] == ["authority", "endpoints"]


def test_nodes_have_certificates_of_their_own_where_postgresql_has_tls(layout: Layout) -> None:
    plan = make_plan(node_count=3, base_port=20_000, pg_bin="/nowhere", has_tls=True)
    make_certificates(layout, PLAN, NOW)
    assert is_any_due(layout, plan, NOW)
    make_certificates(layout, plan, NOW)
    assert not is_any_due(layout, plan, NOW)
    shown = show_certificates(layout, plan)
    assert [each.name for each in shown] == ["authority", "endpoints", "node n1", "node n2", "node n3", "proxy"]
    assert set(shown[-2].names) == {"n3.local.endpointd.internal", "localhost", "127.0.0.1", "::1"}
    assert {each.path.stat().st_mode & 0o777 for each in shown[1:]} == {0o600}
    assert shown[-1].certificate.common_name == "endpointd_proxy"
    before = contents(layout)
    make_certificates(layout, plan, NOW, anew=True)
    after = contents(layout)
    assert {name for name in after if after[name] == before[name]} == {"ca.pem", "ca.crt"}
    assert not keyring(layout, plan).is_due(NOW)
    assert keyring(layout, plan).is_due(NOW + dt.timedelta(days=3640))


def test_a_new_authority_is_trusted_before_it_certifies(layout: Layout) -> None:
    make_certificates(layout, PLAN, NOW)
    before = contents(layout)
    authority = keyring(layout, PLAN).establish(NOW, anew=True)
    after = contents(layout)
    assert after["server.pem"] == before["server.pem"]
    assert after["ca.crt"] == authority.certificate_pem + before["ca.crt"]
    make_certificates(layout, PLAN, NOW)
    assert fits(layout)


class Died(Exception):  # noqa: N818
    """The program was killed."""


@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("authority_anew", [False, True])
def test_whatever_is_interrupted_is_completed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, after: int, authority_anew: bool
) -> None:
    if authority_anew:
        make_certificates(layout, PLAN, NOW)
    real, left = files.write_durably, [after]

    def dying(path: Path, data: bytes, mode: int = 0o600) -> None:
        if not left[0]:
            raise Died
        left[0] -= 1
        real(path, data, mode)

    monkeypatch.setattr(files, "write_durably", dying)
    with pytest.raises(Died):
        make_certificates(layout, PLAN, NOW, authority_anew=authority_anew)
    monkeypatch.setattr(files, "write_durably", real)
    make_certificates(layout, PLAN, NOW)
    assert fits(layout)


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_text("x"), lambda path: path.chmod(0o644)]
)
@pytest.mark.parametrize("name", ["ca.pem", "ca.crt", "server.pem"])
def test_damage_is_made_good(layout: Layout, name: str, damage: Callable[[Path], None]) -> None:
    make_certificates(layout, PLAN, NOW)
    damage(layout.tls / name)
    make_certificates(layout, PLAN, NOW)
    assert fits(layout)
