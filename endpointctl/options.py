"""The options every command takes: which cluster, how long to wait, the version.

A command is written as a function whose first parameter is a Target; `command` gives it the common options and turns them
into that value, so that they are spelled once.  Must stay cheap to import: `--help` runs through it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import urlsplit

import typer

from endpointctl import output

REQUEST_TIMEOUT_S = 5.0
"""For one question to the manager."""
TIMEOUT_S_MAX = 604_800.0
"""A week."""
DEFAULT_DATA_DIR = Path("~/.local/state/endpointd/local")


_NODE_NAME = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which cluster a command is about, and how long it may take."""

    api: str | None
    """URL of the manager when the operator named one; otherwise the data directory tells."""
    data_dir: Path
    timeout_s: float | None
    """None: each command has its own default."""

    def timeout_or(self, default_s: float) -> float:
        """Return the operator's time limit, or *default_s* if none was given."""
        return default_s if self.timeout_s is None else self.timeout_s


def seconds(value: float | None) -> float | None:
    """Return *value*, a time to wait. Raises BadParameter: nothing can be done in no time, and not everything is a number."""
    if value is not None and not 0.0 < value <= TIMEOUT_S_MAX:
        raise typer.BadParameter(f"{value:g} is not a time in seconds, more than 0 and at most {TIMEOUT_S_MAX:g}")
    return value


def within(low: int, high: int) -> Callable[[int | None], int | None]:
    """Return a check for a whole number from *low* to *high*. The check raises BadParameter."""

    def check(value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            shown = str(value) if abs(value) < 10**12 else "such a number"
            raise typer.BadParameter(f"{shown} is outside {low} to {high}")
        return value

    return check


def number_within(low: float, high: float) -> Callable[[float | None], float | None]:
    """Return a check for a number from *low* to *high*. It raises BadParameter; nan passes a comparison with either end."""

    def check(value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is not a number; {low:g} to {high:g} are accepted")
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value:g} is outside {low:g} to {high:g}")
        return value

    return check


def postgres_uri(value: str | None) -> str | None:
    """Return *value*. Raises BadParameter if it is not a URI of PostgreSQL."""
    if value is not None and not value.startswith(("postgresql://", "postgres://")):
        raise typer.BadParameter("it is no URI such as postgresql://user:password@host:port/database")
    return value


def not_empty(value: Any) -> Any:
    """Return *value*. Raises BadParameter if it is an empty text."""
    if value is not None and not str(value).strip():
        raise typer.BadParameter("it must not be empty")
    return value


def node_name(value: str | None) -> str | None:
    """Return *value*. Raises BadParameter if no node can be called that."""
    if value is not None and not _NODE_NAME.fullmatch(value):
        raise typer.BadParameter(f'"{value}" is no node\'s name: 1 to 40 characters of a-z, 0-9 and hyphen')
    return value


def url(value: str | None) -> str | None:
    """Return *value*. Raises BadParameter if it is not the URL of a manager."""
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good:
        raise typer.BadParameter(f'"{value}" is no URL such as http://127.0.0.1:6480')
    return value


def group(help_text: str) -> typer.Typer:
    """Return a group of commands which says what it has when no command is named."""
    made = typer.Typer(help=help_text, rich_markup_mode=None)

    @made.callback(invoke_without_command=True)
    def show_help(context: typer.Context) -> None:  # pyright: ignore[reportUnusedFunction]
        help_if_bare(context)

    return made


def help_if_bare(context: typer.Context) -> None:
    """Print the help of *context*'s group and end well if no command of it is named."""
    if context.invoked_subcommand is None:
        output.lines(context.get_help().splitlines())
        raise typer.Exit


def _print_version(wanted: bool) -> None:
    if wanted:
        from daemonkit.version import VERSION

        output.line(f"endpointctl {VERSION}")
        raise typer.Exit


ApiOption = Annotated[
    str | None,
    typer.Option(
        "--api",
        envvar="ENDPOINTD_API",
        metavar="URL",
        callback=url,
        help="The manager's API (token from ENDPOINTD_TOKEN_FILE).",
    ),
]
DataDirOption = Annotated[
    str,
    typer.Option(
        "--data-dir", envvar="ENDPOINTD_DATA_DIR", metavar="DIR", callback=not_empty, help="The local cluster's directory."
    ),
]
VersionOption = Annotated[
    bool,
    typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
]


COMMON = frozenset({"api", "data_dir", "timeout_s", "version"})
"""The parameters that every command has."""


def _timeout_option(waits_s: float | None) -> object:
    unless_given = f" {waits_s:g} unless given." if waits_s is not None else ""
    return Annotated[
        float | None,
        typer.Option(
            "--timeout",
            envvar="ENDPOINTD_TIMEOUT",
            metavar="SECONDS",
            callback=seconds,
            help=f"Give up waiting after this time (exit code 3).{unless_given}",
        ),
    ]


def command(
    app: typer.Typer, name: str | None = None, *, waits_s: float | None = None, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function (target, ...) as a command of *app* that also takes the common options.

    *waits_s* is its own default for --timeout, for the help; None if it has none.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(
            *,
            api: str | None,
            data_dir: str,
            timeout_s: float | None,
            version: bool,
            **arguments: Any,
        ) -> None:
            del version
            directory = Path(data_dir).expanduser().absolute()
            function(Target(api=api, data_dir=directory, timeout_s=timeout_s), **arguments)

        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        ]
        common = [
            _keyword("api", ApiOption, None),
            _keyword("data_dir", DataDirOption, str(DEFAULT_DATA_DIR)),
            _keyword("timeout_s", _timeout_option(waits_s), None),
            _keyword("version", VersionOption, False),
        ]
        parameters = [*own, *common]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        app.command(name, **settings)(run)
        return function

    return register


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
