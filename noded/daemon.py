"""The door of the noded's program, by which `ps` knows it: loads the rest, and runs it."""

from __future__ import annotations

import sys

from daemonkit.loading import lean


def main(arguments: list[str] | None = None) -> int:
    """Run the noded until it is told to stop, and return its exit status."""
    with lean():
        from noded.assembly import NODED
    return NODED.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
