"""What an operator asked for is not done: why, in words for people, and a code for programs.

NotDone
    Refused: it must not be done now, or not at all.
        WrongQuestion: nobody could do it as it is asked.
        NotFound: what it is about does not exist.
        ByOthers: it is not for this manager to do.
    Unavailable: who should do it, or say it, cannot now.
        Unanswered: a node does not answer.
"""

from __future__ import annotations


class NotDone(Exception):  # noqa: N818 - the name says what is known
    """The text is the reason."""

    code = "not_done"

    def __init__(self, reason: str, *, code: str = "") -> None:
        """*code* is the one that a node gave; without it the class has one."""
        super().__init__(reason)
        self.code = code or self.code


class Refused(NotDone):
    """It must not be done now, or not at all."""

    code = "refused"


class WrongQuestion(Refused):
    """Nobody could do it as it is asked."""

    code = "bad_request"


class NotFound(Refused):
    """What it is about does not exist."""

    code = "not_found"


class ByOthers(Refused):
    """It is not for this manager to do."""

    code = "by_others"


class Unavailable(NotDone):
    """Who should do it, or say it, cannot now."""

    code = "unavailable"


class Unanswered(Unavailable):
    """A node does not answer, or nothing that could be read."""
