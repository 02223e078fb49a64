"""What these tests share."""

from __future__ import annotations

from tests.sockets import takes_its_sockets_along

__all__ = ["takes_its_sockets_along"]
