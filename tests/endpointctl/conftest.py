"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from endpointctl.local.directory import leave_no_sockets
from endpointctl.local.layout import Layout


@pytest.fixture(autouse=True)
def _takes_its_sockets_along(request: pytest.FixtureRequest) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Remove what a cluster laid out in a long temporary path has of directories below /tmp."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None and folder.is_dir():
        for root in (folder, *folder.iterdir()):
            leave_no_sockets(Layout(root))
