"""What the world can do to whatever touches PostgreSQL's files and processes; anything else is our bug and ends the program."""

from __future__ import annotations

from noded.postmaster import PostmasterError
from noded.tools import ToolError

FAILURES = (ToolError, PostmasterError, OSError, ValueError)
