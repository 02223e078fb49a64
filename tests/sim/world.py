"""Simulated time: one heap of timed events, one source of randomness, and processes that can die or freeze.

Knows nothing of clusters.  An event belongs to an owner, which is a program that can be killed (its events vanish) or frozen
(they wait for the thaw).  A task is a generator that yields how many milliseconds to wait, or a lock to take; it is killed
with its owner.  Nothing here reads a clock or depends on the order of a set, so that a seed replays exactly.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Generator
from random import Random
from typing import Any

Waits = Generator["float | Lock", None, Any]

TRACE_LINES = 70
"""How many lines of the trace a failure shows."""


class Violation(Exception):  # noqa: N818 - it is what a checker finds
    """A property does not hold. The checker's name comes first."""

    def __init__(self, checker: str, text: str) -> None:
        super().__init__(f"{checker}: {text}")
        self.checker = checker
        self.text = text

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str]]:
        """Travel between processes."""
        return Violation, (self.checker, self.text)


class Owner:
    """A program: whoever owns events."""

    __slots__ = ("dead", "frozen", "parked")

    def __init__(self) -> None:
        self.dead = False
        self.frozen = False
        self.parked: list[tuple[Callable[..., None], tuple[Any, ...]]] = []


class Lock:
    """One task at a time, in the order of arrival."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held = False
        self.waiting: deque[Task] = deque()

    def release(self) -> None:
        """Hand the lock to whoever waits longest."""
        self.held = False
        while self.waiting:
            task = self.waiting.popleft()
            if not task.owner.dead and not task.ended:
                self.held = True
                task.world.after(0.0, task.owner, task.step)
                return


class Task:
    """A generator under way."""

    __slots__ = ("ended", "generator", "on_end", "owner", "world")

    def __init__(self, world: World, owner: Owner, generator: Waits, on_end: Callable[[Any], None] | None) -> None:
        self.world = world
        self.owner = owner
        self.generator = generator
        self.on_end = on_end
        self.ended = False

    def step(self) -> None:
        """Run to the next wait."""
        if self.ended:
            return
        try:
            waits = next(self.generator)
        except StopIteration as end:
            self.ended = True
            if self.on_end is not None:
                self.on_end(end.value)
            return
        if isinstance(waits, Lock):
            if waits.held:
                waits.waiting.append(self)
            else:
                waits.held = True
                self.world.after(0.0, self.owner, self.step)
        else:
            self.world.after(waits, self.owner, self.step)

    def cancel(self) -> None:
        """End it where it waits."""
        if not self.ended:
            self.ended = True
            self.generator.close()


class World:
    """Time, chance and the trace."""

    __slots__ = ("_heap", "_sequence", "counts", "lines", "now", "rng", "steps", "verbose")

    def __init__(self, seed: int, *, verbose: bool = False, chance: Random | None = None) -> None:
        self.now = 0.0
        self.rng = chance if chance is not None else Random(seed)
        self.steps = 0
        self.counts: Counter[str] = Counter()
        """How often what is worth counting occurred."""
        self.verbose = verbose
        self.lines: deque[tuple[float, int, str, tuple[Any, ...]]] = deque(maxlen=TRACE_LINES)
        self._heap: list[tuple[float, int, Owner | None, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def after(self, delay_ms: float, owner: Owner | None, call: Callable[..., None], *arguments: Any) -> None:
        """Have *call* made after *delay_ms*, unless *owner* is dead by then."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_ms, self._sequence, owner, call, arguments))

    def spawn(self, owner: Owner, generator: Waits, on_end: Callable[[Any], None] | None = None) -> Task:
        """Start a task now."""
        task = Task(self, owner, generator, on_end)
        self.after(0.0, owner, task.step)
        return task

    def freeze(self, owner: Owner) -> None:
        """Stop *owner*; what happens to it from now on waits."""
        owner.frozen = True

    def thaw(self, owner: Owner) -> None:
        """Let *owner* go on, with what waited first."""
        if not owner.frozen:
            return
        owner.frozen = False
        parked, owner.parked = owner.parked, []
        for call, arguments in parked:
            self.after(0.0, owner, call, *arguments)

    def run_until(self, end_ms: float) -> None:
        """Let time pass until *end_ms*."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            self.now, _, owner, call, arguments = heapq.heappop(heap)
            if owner is not None:
                if owner.dead:
                    continue
                if owner.frozen:
                    owner.parked.append((call, arguments))
                    continue
            self.steps += 1
            call(*arguments)
        self.now = end_ms

    def say(self, text: str, *arguments: Any) -> None:
        """Add a line to the trace; *arguments* are put in only if somebody reads it."""
        self.lines.append((self.now, self.steps, text, arguments))
        if self.verbose:
            print(format_line(self.lines[-1]))

    def trace(self) -> str:
        """Return the last lines."""
        return "\n".join(format_line(line) for line in self.lines)

    def jitter(self, low_ms: float, high_ms: float) -> float:
        """Return a random duration."""
        return low_ms + (high_ms - low_ms) * self.rng.random()


def format_line(line: tuple[float, int, str, tuple[Any, ...]]) -> str:
    """Return a line of the trace for people."""
    at, step, _, _ = line
    return f"{at:10.1f} ms  #{step:<7} {text_of(line)}"


def text_of(line: tuple[float, int, str, tuple[Any, ...]]) -> str:
    """Return what a line of the trace says."""
    _, _, text, arguments = line
    return text.format(*arguments) if arguments else text
