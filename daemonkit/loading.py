"""Loading a daemon's modules in two thirds of the time: a dead daemon is back the sooner.

Three things cost a third of a start, and nobody uses them here: the garbage collector, which goes again and again through
modules that stay for good; the machine's certificate authorities, which aiohttp reads when it is imported (no daemon speaks
HTTPS to strangers); and rich, which structlog imports for tracebacks in colour.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Generator

AUTHORITIES = "SSL_CERT_FILE"
"""The environment variable that tells OpenSSL where authorities are."""


@contextlib.contextmanager
def lean() -> Generator[None]:
    """Import within this block what a daemon is made of; afterwards the collector no longer looks at it.

    Everything else is as it was: the environment, which children inherit, and what may be imported.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        with _authorities_elsewhere(), _hidden("rich"):
            yield
    finally:
        gc.freeze()
        if was_collecting:
            gc.enable()


@contextlib.contextmanager
def _authorities_elsewhere() -> Generator[None]:
    given = os.environ.get(AUTHORITIES)
    os.environ[AUTHORITIES] = os.devnull
    try:
        yield
    finally:
        if given is None:
            del os.environ[AUTHORITIES]
        else:
            os.environ[AUTHORITIES] = given


@contextlib.contextmanager
def _hidden(package: str) -> Generator[None]:
    """Have *package* look as if it were not installed, unless it is in use already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment] - as the documentation of `import` says it is done
    try:
        yield
    finally:
        del sys.modules[package]
