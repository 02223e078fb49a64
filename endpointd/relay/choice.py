"""Which engine serves: the native one if it was built, unless the settings say otherwise."""

from __future__ import annotations

from endpointd.relay.asyncio_engine import AsyncioEngine
from endpointd.relay.engine import Engine
from endpointd.settings import WantedEngine

HOW_TO_BUILD = "install a C compiler and Python's headers (Debian, Ubuntu: apt-get install gcc python3-dev) and install again"


def why_not_native() -> str | None:
    """Return why there is no native engine in this installation; None if there is."""
    try:
        import endpointd.relay.native_engine  # noqa: F401 - whether it can be imported is the question
    except ModuleNotFoundError:
        return f"it was not built when endpointd was installed: {HOW_TO_BUILD}"
    except ImportError as error:
        return f"it cannot be loaded: {error}"
    return None


def make_engine(wanted: WantedEngine) -> Engine:
    """Return the engine that serves. Raises ImportError if it has to be the native one and there is none."""
    if wanted == "asyncio" or (wanted == "auto" and why_not_native() is not None):
        return AsyncioEngine()
    from endpointd.relay.native_engine import NativeEngine

    return NativeEngine()
