"""The question before what cannot be undone.

Asked on standard error, because standard output may be for a program.  Who cannot answer is told how to say yes beforehand.
"""

from __future__ import annotations

import sys

import typer

from daemonkit.exits import Failure
from endpointctl import output


def confirm(question: str, *, yes: bool) -> None:
    """Return if it is confirmed: by *yes*, or by the answer to *question*. Raises Failure: nothing is to be done."""
    if yes:
        return
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise Failure("not confirmed, so nothing was done") from None
        output.line("", err=True)
        raise Failure("nobody can be asked, so nothing was done", hint="--yes answers beforehand") from None
