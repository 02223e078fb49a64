"""What `doctor` looks at on the machine itself: user namespaces, file limits, memory, clocks.

Facts come from the kernel (/proc, /sys, the process's own limits); each function says in one line how it is and what to do.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from enum import StrEnum
from pathlib import Path

import msgspec

from deployment.local.layout import Layout

FILES_GOOD = 4096
FILES_MIN = 1024
"""A node of three takes some hundred, the proxy two for each session."""
MEMORY_GOOD_BYTES = 1 << 30
MEMORY_MIN_BYTES = 256 << 20
SLOW_CLOCKS = ("jiffies", "refined-jiffies", "acpi_pm", "hpet")
FUTURE_S = 60.0
"""Files written this far in the future say that the wall clock was set back."""

_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_MEMORY = Path("/proc/meminfo")


class Grade(StrEnum):
    """How a finding is."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "problem"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    subject: str
    grade: Grade
    text: str


def examine_machine(layout: Layout) -> list[Finding]:
    """Return what is to be said about this machine."""
    return [_namespaces(), _files(), _memory(), _clock(layout)]


def _namespaces() -> Finding:
    """Only root needs one, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return Finding(subject="user", grade=Grade.GOOD, text="an ordinary user: no user namespace is needed")
    unshare = shutil.which("unshare")
    if unshare is None:
        text = "we are root, and there is no unshare (util-linux); run as an ordinary user"
        return Finding(subject="user", grade=Grade.BAD, text=text)
    done = subprocess.run([unshare, "-U", "true"], capture_output=True, timeout=10, check=False)
    if done.returncode != 0:
        text = (
            "we are root, and the kernel makes no user namespace (kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        )
        return Finding(subject="user", grade=Grade.BAD, text=f"{text}; run as an ordinary user")
    return Finding(subject="user", grade=Grade.GOOD, text="root, and user namespaces can be made")


def _files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= FILES_GOOD:
        told = "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard} per process"
        return Finding(subject="open files", grade=Grade.GOOD, text=told)
    grade = Grade.NOTE if hard >= FILES_MIN else Grade.BAD
    text = f"only {hard} per process: the proxy needs two for each session; raise it (ulimit -Hn, LimitNOFILE=)"
    return Finding(subject="open files", grade=grade, text=text)


def _memory() -> Finding:
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, KeyError):
        return Finding(subject="memory", grade=Grade.NOTE, text=f"{_MEMORY} does not say how much is available")
    grade = Grade.GOOD if free >= MEMORY_GOOD_BYTES else Grade.NOTE if free >= MEMORY_MIN_BYTES else Grade.BAD
    hint = "" if grade is Grade.GOOD else "; PostgreSQL servers are what the kernel ends first"
    return Finding(subject="memory", grade=grade, text=f"{free >> 20} MB available{hint}")


def _clock(layout: Layout) -> Finding:
    """Durations are taken on the monotonic clock; the wall clock is for people and certificates."""
    ahead = max((_written(path) for path in layout.manager.glob("*")), default=0.0) - time.time()
    if ahead > FUTURE_S:
        text = f"files of the cluster were written {ahead:.0f} s in the future: the clock was set back; times in logs lie"
        return Finding(subject="clock", grade=Grade.NOTE, text=text)
    try:
        source = _CLOCK_SOURCE.read_text().strip()
    except OSError:
        source = "unknown"
    if source in SLOW_CLOCKS:
        text = f'the kernel reads its clock from "{source}", which is slow; PostgreSQL and the proxy ask often'
        return Finding(subject="clock", grade=Grade.NOTE, text=text)
    return Finding(subject="clock", grade=Grade.GOOD, text=f"source {source}")


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
