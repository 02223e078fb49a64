"""Has the native engine that is tested be another build of it, with sanitizers: see `make sanitize`. A plugin of pytest's."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import endpointd.relay

NAME = "endpointd.relay._native"


def use(path: Path) -> None:
    """Have *path* be the extension in this process and those that it forks. Raises ImportError."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module
    endpointd.relay._native = module  # type: ignore[attr-defined]


use(Path(os.environ["NATIVE_BUILD"]).resolve())
