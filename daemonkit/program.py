"""One skeleton for all daemons: how a program begins, what refuses it, and how it reads its settings again.

    PROGRAM --config FILE [--check] | --version

| exit status | when |
|---|---|
| 0 | it was told to stop, and did |
| 1 | it failed, or cannot work now and may at the next start: one line says why |
| 2 | its arguments, its settings or a file they name are wrong: one line, `PROGRAM: reason` |

A process is known by its command line (module and settings file), to `ps` and to whoever supervises it.  At SIGHUP the settings
are read again: the level and style of the logs are taken up here, what else a program can take up it says itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from prometheus_client import Counter

from daemonkit.lifecycle import EXIT_FAILED, EXIT_USAGE, Lifecycle, run
from daemonkit.logs import LogSettings, configure_logs, get_logger
from daemonkit.settings import SettingsError
from daemonkit.version import VERSION

UMASK = 0o077
"""Everything our programs write is private to the user."""


class NotNow(Exception):  # noqa: N818 - it is about the moment, not about an error of ours
    """The machine refuses what may be had at the next start; the text is one line."""


class HasLogs(Protocol):
    """Settings of any daemon."""

    @property
    def logs(self) -> LogSettings:
        """Table [logs]."""
        ...


S = TypeVar("S", bound=HasLogs)
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon(Generic[S, R]):
    """What differs between our daemons."""

    name: str
    """On the command line."""
    description: str
    log_name: Callable[[S], str]
    """By which its log lines are known."""
    read: Callable[[Path], S]
    """Return the settings. Raises SettingsError."""
    prepare: Callable[[S], R]
    """Return what it cannot begin without. Raises SettingsError or NotNow."""
    serve: Callable[[Running[S], R], Awaitable[None]]
    """Do the work until told to stop."""
    check: Callable[[S], Sequence[str]] | None = None
    """Find out whether it could serve, for --check, touching nothing; return what is to be known all the same.

    Raises SettingsError.
    """
    mendable: tuple[type[Exception], ...] = ()
    """What `serve` raises that an operator can mend, such as a port that is taken: a line in the log, and no traceback."""
    cannot: str = "cannot serve"
    """The event of that line."""
    is_parent: bool = False
    """Whether it waits for children itself, at SIGCHLD."""
    reloads: Counter | None = None
    """Attempts to read the settings anew, by outcome, of a program that has metrics."""
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None
    """Add what its command line takes besides."""

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the program, and return its exit status."""
        parser = new_parser(self.name, self.description)
        parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (TOML)")
        if self.check is not None:
            parser.add_argument("--check", action="store_true", help="say whether all that it is given can be used, and end")
        self.arguments(parser)
        given = parser.parse_args(arguments)
        config: Path = given.config
        os.umask(UMASK)
        try:
            settings = self.read(config)
            if self.check is not None and given.check:
                notes = self.check(settings)
                for line in ("can be used", *(f"note: {note}" for note in notes)):
                    print(f"{config}: {line}")  # noqa: T201 - it is what was asked for
                return 0
            resources = self.prepare(settings)
        except (SettingsError, NotNow) as error:
            complain(self.name, error)
            return EXIT_USAGE if isinstance(error, SettingsError) else EXIT_FAILED
        self.log_as(settings)
        is_refused = False

        async def live(life: Lifecycle) -> None:
            nonlocal is_refused
            try:
                await self.serve(Running(self, settings, config, life, given), resources)
            except* self.mendable as group:
                is_refused = True
                for error in _leaves(group):
                    get_logger().error(self.cannot, reason=str(error))

        status = run(live, is_parent=self.is_parent)
        return EXIT_FAILED if is_refused else status

    def log_as(self, settings: S) -> None:
        """Log as *settings* say, under the name that the program began with."""
        configure_logs(program=self.log_name(settings), level=settings.logs.level, style=settings.logs.style)


class Running(Generic[S]):
    """What a daemon knows of itself while it runs."""

    def __init__(self, daemon: Daemon[S, R], settings: S, config: Path, life: Lifecycle, given: argparse.Namespace) -> None:
        self.settings = settings
        """As they were at the start."""
        self.life = life
        self.config = config
        """The file that they are read from."""
        self.given = given
        """Its command line."""
        self._read = daemon.read
        self._reloads = daemon.reloads
        self._log_name = daemon.log_name(settings)
        self._logs = settings.logs

    def log_under(self, name: str) -> None:
        """Be known by *name* in the log from now on."""
        self._log_name = name
        configure_logs(program=name, level=self._logs.level, style=self._logs.style)

    def on_reload(self, take_up: Callable[[S], Mapping[str, object]]) -> None:
        """At each SIGHUP give *take_up* the settings as they are then; what it returns is told in the log.

        If they cannot be used (SettingsError) everything stays as it was.
        """

        def count(outcome: str) -> None:
            if self._reloads is not None:
                self._reloads.labels(outcome).inc()

        def reload() -> None:
            try:
                new = self._read(self.config)
                told = take_up(new)
            except SettingsError:
                count("failed")
                raise
            self._logs = new.logs
            configure_logs(program=self._log_name, level=new.logs.level, style=new.logs.style)
            count("done")
            get_logger().info("settings read anew", **told)

        self.life.on_reload(reload)


def new_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments of the program *name*, which tells the version."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--version", action="version", version=f"{name} {VERSION}")
    return parser


def complain(name: str, error: Exception) -> None:
    """Say on standard error why the program *name* does not begin: there are no logs yet."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{name}: {error}\n")


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error
