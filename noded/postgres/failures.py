"""What the world can do to whatever touches PostgreSQL's files and processes; anything else is our bug and ends the program."""

from __future__ import annotations

from noded.postgres.postmaster import PostmasterError
from noded.postgres.tools import ToolError

FAILURES = (ToolError, PostmasterError, OSError, ValueError)
