"""What was put right lately, for people: each text stays for a while after it was said last."""

from __future__ import annotations

TOLD_S = 300.0


class Told:
    """Texts, and when each was said last, in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}

    @property
    def texts(self) -> tuple[str, ...]:
        """Those that are still told."""
        return tuple(self._said_at)

    def say(self, text: str, now: float) -> None:
        """Tell *text* from *now* on."""
        self._said_at[text] = now

    def expire(self, now: float) -> None:
        """Tell no longer what was said long ago."""
        self._said_at = {text: at for text, at in self._said_at.items() if now - at < TOLD_S}

    def clear(self) -> None:
        """Tell nothing any more."""
        self._said_at.clear()
