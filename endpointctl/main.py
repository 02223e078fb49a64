"""The command `endpointctl`: puts the groups together and turns how they end into exit codes.

Each group of commands is one file; what they need is imported when they run, so that `--help` stays quick and imports no
daemon.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from daemonkit.exits import ExitCode, Failure, WrongUsage
from endpointctl import (
    certifying,
    configuring,
    connecting,
    examining,
    keeping,
    lifecycle,
    nodes,
    output,
    rehearsing,
    restarting,
    sessions,
    steering,
    watching,
)
from endpointctl.options import COMMON, VersionOption, help_if_bare

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's base of every complaint about arguments; it has no public name that stayed the same over its versions."""
_ANY_ERROR: type[Exception] = _USAGE_ERROR.__mro__[1]
_TOO_MANY = re.compile(r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)", re.DOTALL)
_OPTIONS_SHOWN = 4
_INTERRUPTED = 130
"""What newer versions of Typer return for ^C instead of raising; it is none of the contract's codes."""

app = typer.Typer(
    name="endpointctl",
    help="Operate a PostgreSQL cluster with a writer and a reader endpoint.",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback(invoke_without_command=True)
def _common(context: typer.Context, version: VersionOption = False) -> None:  # pyright: ignore[reportUnusedFunction]
    del version
    help_if_bare(context)


for _group in (
    lifecycle,
    watching,
    sessions,
    connecting,
    keeping,
    certifying,
    steering,
    rehearsing,
    nodes,
    configuring,
    restarting,
    examining,
):
    _group.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code of the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    answers = output.answers()
    try:
        result = app(args=words, prog_name="endpointctl", standalone_mode=False)
    except BrokenPipeError:
        return _unheard()
    except (Failure, _ANY_ERROR, typer.Abort, KeyboardInterrupt, OSError) as error:
        failure = _failure(error)
    else:
        if result != _INTERRUPTED:
            return result if isinstance(result, int) else ExitCode.DONE
        failure = Failure("interrupted")
    output.line(f"endpointctl: {failure.line}", err=True)
    if _wants_json(words) and output.answers() == answers:
        try:
            output.json_line(json.dumps(failure.document(format_version=output.FORMAT_VERSION)))
        except BrokenPipeError:
            _unheard()
        except OSError:
            pass  # a full disk: the line and the exit code have said it
    return failure.exit_code


def _unheard() -> ExitCode:
    """The reader of our output has seen enough; Python must not complain about it at exit either."""
    sys.stdout = None
    return ExitCode.DONE


def _wants_json(words: Sequence[str]) -> bool:
    """Return whether the command was asked for JSON, though it may have ended before its arguments were understood."""
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own


def _failure(error: BaseException) -> Failure:
    """Return how a command that raised *error* ends."""
    match error:
        case Failure():
            return error
        case _ if isinstance(error, _USAGE_ERROR):
            return _usage(error)
        case _ if isinstance(error, _ANY_ERROR):
            return Failure(_text(error))
        case OSError():
            # A full disk, a file that may not be read: what the system says, and where.
            where = f"{error.filename}: " if error.filename is not None else ""
            return Failure(f"{where}{error.strerror or error}")
        case _:
            return Failure("interrupted")


def _usage(error: Exception) -> WrongUsage:
    """Return what is wrong with the arguments, which options take a value where one stands alone, and whose help to read."""
    context = getattr(error, "ctx", None)
    if context is None:
        return WrongUsage(_text(error), hint="see `endpointctl --help`")
    text = _text(error)
    if (found := _TOO_MANY.fullmatch(text)) is not None:
        text = f"unexpected: {found[1]}"
        if takers := _takers(context.command.params):
            text += f"; values are given by {', '.join(takers)}"
    return WrongUsage(text, hint=f"see `{context.command_path} --help`")


def _takers(parameters: Sequence[Any]) -> list[str]:
    """Return the options of a command that take a value, beside those that every command has; only a node's if it takes one."""
    own = [one for one in parameters if one.param_type_name == "option" and not one.is_flag and one.name not in COMMON]
    named = [one for one in own if one.metavar == "NODE"] or own
    return [f"{one.opts[0]} {one.metavar or ''}".strip() for one in named[:_OPTIONS_SHOWN]]


def _text(error: Exception) -> str:
    describe = getattr(error, "format_message", None)
    text = describe() if callable(describe) else str(error)
    return " ".join(str(text).split()).rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
