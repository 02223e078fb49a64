"""The options every command takes: which cluster, how long to wait, the version.

A command is written as a function whose first parameter is a Target; `command` gives it the common options and turns them
into that value, so that they are spelled once.  Must stay cheap to import: `--help` runs through it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from endpointctl import output

DEFAULT_DATA_DIR = Path("~/.local/state/endpointd/local")


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


def _print_version(wanted: bool) -> None:
    if wanted:
        from daemonkit.version import VERSION

        output.line(f"endpointctl {VERSION}")
        raise typer.Exit


ApiOption = Annotated[
    str | None,
    typer.Option("--api", envvar="ENDPOINTD_API", metavar="URL", help="The manager's API (token from ENDPOINTD_TOKEN_FILE)."),
]
DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", envvar="ENDPOINTD_DATA_DIR", metavar="DIR", help="The local cluster's directory."),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        envvar="ENDPOINTD_TIMEOUT",
        metavar="SECONDS",
        min=0.0,
        help="Give up waiting after this time (exit code 3).",
    ),
]
VersionOption = Annotated[
    bool,
    typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
]


def command(app: typer.Typer, name: str | None = None, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function (target, ...) as a command of *app* that also takes the common options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(
            *,
            api: str | None,
            data_dir: Path,
            timeout_s: float | None,
            version: bool,
            **arguments: Any,
        ) -> None:
            del version
            directory = data_dir.expanduser().absolute()
            function(Target(api=api, data_dir=directory, timeout_s=timeout_s), **arguments)

        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        ]
        common = [
            _keyword("api", ApiOption, None),
            _keyword("data_dir", DataDirOption, DEFAULT_DATA_DIR),
            _keyword("timeout_s", TimeoutOption, None),
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
