"""Whatever comes first is told, and nothing of the rest is left."""

from __future__ import annotations

import asyncio

import pytest

from daemonkit.racing import first_of


async def test_the_first_that_ends_is_told_and_the_others_are_ended() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("slow")

    async def quick() -> None:
        await asyncio.sleep(0)

    assert await first_of(slow(), quick()) == 1
    assert ended == ["slow"]


async def test_of_several_that_have_ended_the_first_counts() -> None:
    async def done() -> None:
        pass

    assert await first_of(done(), done()) == 0


async def test_when_the_time_is_over_none_is_told() -> None:
    assert await first_of(asyncio.Event().wait(), timeout_s=0.01) is None


async def test_what_it_raises_is_raised() -> None:
    async def wrong() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await first_of(asyncio.Event().wait(), wrong())
