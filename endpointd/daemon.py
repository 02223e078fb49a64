"""The door of the proxy's program, by which `ps` knows it: loads the rest, and runs it."""

from __future__ import annotations

import sys

from daemonkit.loading import lean


def main(arguments: list[str] | None = None) -> int:
    """Run the proxy until it is told to stop, and return its exit status."""
    with lean():
        from endpointd.assembly import PROXY
    return PROXY.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
