"""For tests that lay out local clusters: import the fixture into their conftest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployment.local.directory import leave_no_sockets
from deployment.local.layout import Layout


@pytest.fixture(autouse=True)
def takes_its_sockets_along(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove what a cluster laid out in a long temporary path has of directories below /tmp."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None and folder.is_dir():
        for root in (folder, *folder.iterdir()):
            leave_no_sockets(Layout(root))
