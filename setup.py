"""What pyproject.toml cannot say: the native relay engine is built where that is possible, and done without elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("endpointd/relay/native")

setup(
    ext_modules=[
        Extension(
            "endpointd.relay._native",
            sorted(str(path) for path in SOURCES.glob("*.c")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-pthread", *os.environ.get("ENDPOINTD_CFLAGS", "").split()],
            extra_link_args=["-pthread", *os.environ.get("ENDPOINTD_CFLAGS", "").split()],
            py_limited_api=True,  # one build serves Python 3.11 and everything newer
            optional=True,  # no compiler, or another system: the asyncio engine serves
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
