"""The last document on disk, so that names are answered by a manager that was restarted while its store is out of reach.

It is a copy and never decides anything: only DNS reads it, and whatever the store says replaces it, also what looks older.
"""

from __future__ import annotations

from pathlib import Path

from daemonkit.kept import Kept
from pgtopology.codec import decode, encode
from pgtopology.document import Topology


def kept_document(path: Path) -> Kept[Topology]:
    """Return the copy of the document in *path*."""
    return Kept(path, "document", encode=encode, decode=lambda data: decode(data, Topology))
