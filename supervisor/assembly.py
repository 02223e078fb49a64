"""The supervisor's program: `endpointctl up` starts it, and hands it the lock on the data directory as an open descriptor.

Started by anybody else, as by a service manager, it takes the lock itself.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from daemonkit.exits import Failure
from daemonkit.parentage import become_subreaper
from daemonkit.program import Daemon, NotNow, Running
from daemonkit.settings import load_settings
from deployment.local.directory import lock, read_plan
from deployment.local.layout import Layout
from deployment.local.plan import SUPERVISOR_PROGRAM, Plan
from deployment.local.settings_files import SupervisorSettings
from supervisor.supervising import Supervisor

LOCK_VARIABLE = "ENDPOINTD_LOCK_FD"
"""The environment variable with the number of the descriptor that holds the lock. No child of ours inherits it."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the supervisor cannot begin without."""

    layout: Layout
    plan: Plan
    lock: int
    """The descriptor, which nobody needs to look at: the lock is held as long as it is open."""


def read_settings(path: Path) -> SupervisorSettings:
    """Return the settings in *path*. Raises SettingsError."""
    return load_settings(path, SupervisorSettings)


def hold(settings: SupervisorSettings) -> Held:
    """Return the cluster in the directory of *settings*, locked. Raises NotNow."""
    layout = Layout(settings.data_dir)
    try:
        descriptor = _handed_over(layout)
        if descriptor is None:
            descriptor = lock(layout)
        if descriptor is None:
            raise NotNow(f"{layout.root} is locked: another supervisor, `up` or `down` is at work there")
        plan = read_plan(layout)
    except (OSError, Failure) as error:
        raise NotNow(error.line if isinstance(error, Failure) else str(error)) from error
    if plan is None:
        raise NotNow(f"{layout.root} holds no cluster")
    return Held(layout, plan, descriptor)


def _handed_over(layout: Layout) -> int | None:
    """Return the descriptor of the data directory that we were started with, or None."""
    number = os.environ.pop(LOCK_VARIABLE, "")
    if not number.isdecimal():
        return None
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(int(number)), layout.root.stat()):
            os.set_inheritable(int(number), False)
            return int(number)
    return None


async def serve(running: Running[SupervisorSettings], held: Held) -> None:
    """Supervise until told to stop. Raises OSError or Failure if it cannot listen."""
    become_subreaper()
    running.on_reload(lambda _: {})
    await Supervisor(held.layout, held.plan, running.life).run()


SUPERVISOR = Daemon(
    name="endpointd-supervisor",
    description="The supervisor of a local cluster's processes.",
    log_name=lambda _: SUPERVISOR_PROGRAM,
    read=read_settings,
    prepare=hold,
    serve=serve,
    is_parent=True,
    mendable=(OSError, Failure),
    cannot="the supervisor cannot serve",
)
