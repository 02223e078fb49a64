"""Who is silent is named, after rounds of the listener's own, and who has never spoken is told apart."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.watchdog import Silence, Watchdog

SPEAKER = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
    for line in sys.stdin:
        channel.sendto(line.strip().encode(), sys.argv[1])
        print("said", flush=True)
"""


class Speaker:
    """A process that says what it is told to."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SPEAKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def say(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "said\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def spoke(rounds: int) -> Silence:
    return Silence(rounds, has_spoken=True)


def mute(rounds: int) -> Silence:
    return Silence(rounds, has_spoken=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notify"


async def test_silence_is_counted_and_who_has_never_spoken_is_told_apart(path: Path) -> None:
    watchdog = Watchdog(path)
    watchdog.listen()
    with closing(watchdog), closing(Speaker(path)) as one, closing(Speaker(path)) as other:

        async def end_round() -> tuple[Silence, Silence]:
            await asyncio.sleep(0)  # the loop hears what was said
            await asyncio.sleep(0)
            silences = watchdog.end_round({one.pid, other.pid})
            return silences[one.pid], silences[other.pid]

        assert await end_round() == (mute(0), mute(0))
        one.say("WATCHDOG=1")
        other.say("READY=1")
        assert await end_round() == (spoke(0), mute(1))
        assert await end_round() == (spoke(1), mute(2))
        other.say("WATCHDOG=1")
        assert await end_round() == (spoke(2), spoke(0))
        one.say("WATCHDOG=1")
        assert await end_round() == (spoke(0), spoke(1))
        assert watchdog.end_round({other.pid}) == {other.pid: spoke(2)}
        assert await end_round() == (mute(0), spoke(3)), "who was away for a round is forgotten"


async def test_a_round_in_which_nobody_listened_is_held_against_nobody(path: Path) -> None:
    watchdog = Watchdog(path)
    watchdog.listen()
    with closing(watchdog), closing(Speaker(path)) as one:
        one.say("WATCHDOG=1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert watchdog.end_round({one.pid, 1}) == {one.pid: spoke(0), 1: mute(0)}
        watchdog.close()
        for _ in range(50):
            assert watchdog.end_round({one.pid, 1}) == {one.pid: spoke(0), 1: mute(0)}
        watchdog.listen()
        assert watchdog.end_round({one.pid, 1}) == {one.pid: spoke(1), 1: mute(1)}


async def test_a_path_that_was_taken_away_is_listened_on_again(path: Path) -> None:
    watchdog = Watchdog(path)
    watchdog.listen()
    with closing(watchdog):
        path.unlink()
        watchdog.listen()
        with closing(Speaker(path)) as one:
            one.say("WATCHDOG=1")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert watchdog.end_round({one.pid}) == {one.pid: spoke(0)}
