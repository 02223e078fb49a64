"""Certificates are made anew while the cluster runs, before they end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deployment.local.directory import make_directories, make_root
from deployment.local.layout import Layout
from deployment.local.plan import make_plan
from deployment.local.tls import make_certificates, show_certificates
from supervisor.renewing import renew

PLAN = make_plan(node_count=3, base_port=20_000, pg_bin="/nowhere", has_tls=True)
NOW = datetime.now(UTC)


def made(folder: Path, age_days: int) -> Layout:
    layout = Layout(folder / "cluster")
    make_root(layout)
    make_directories(layout)
    make_certificates(layout, PLAN, NOW - timedelta(days=age_days))
    return layout


def shown(layout: Layout) -> dict[str, str]:
    return {each.name: each.certificate.sha256 for each in show_certificates(layout, PLAN)}


async def test_what_ends_soon_is_made_anew_once(tmp_path: Path) -> None:
    layout = made(tmp_path, 370)
    before = shown(layout)
    assert await renew(layout, PLAN, NOW)
    after = shown(layout)
    assert {name for name in after if after[name] == before[name]} == {"authority"}
    assert not await renew(layout, PLAN, NOW)
    assert shown(layout) == after


async def test_a_new_authority_is_trusted_before_anything_of_it_is_shown(tmp_path: Path) -> None:
    layout = made(tmp_path, 3640)
    before = shown(layout)
    renewing = asyncio.create_task(renew(layout, PLAN, NOW, taken_up_s=1.0))
    while "former authority" not in shown(layout):
        await asyncio.sleep(0.01)
        assert not renewing.done()
    assert shown(layout)["node n1"] == before["node n1"]
    assert await renewing
    after = shown(layout)
    assert after["former authority"] == before["authority"]
    assert not set(before.values()) & {sha for name, sha in after.items() if name != "former authority"}
