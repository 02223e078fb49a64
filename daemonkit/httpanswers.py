"""What an HTTP answer of ours may be, and what it proves when there is none or it refuses: shared by our clients.

What went wrong is told apart by what it proves: a refused connection shows that the machine lives and the program does not; a
timeout shows nothing; an answer that refuses comes from a living program.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

CONNECT_TIMEOUT_S = 1.0
ANSWER_BYTES_MAX = 16 << 20
LINE_BYTES_MAX = 4 << 20


class HttpError(Exception):
    """A request was not answered as hoped.

    HttpUnavailable: no answer (connection refused, broken, unreachable).
        HttpTimeout: not in time.
    HttpRefused: the peer answered with an error.
    """


class HttpUnavailable(HttpError):  # noqa: N818 - the name says what is known, not that it is an error
    """The peer did not answer."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        """Whether the machine refused the TCP connection: it lives, and nothing listens there."""


class HttpTimeout(HttpUnavailable):
    """The peer did not answer in time, or its stream fell silent."""


class HttpRefused(HttpError):  # noqa: N818 - as above
    """The peer answered with an error."""

    def __init__(self, status: int, code: str, message: str, body: bytes) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        """From the error's own shape; empty if it did not have it."""
        self.message = message
        self.body = body
        """The whole answer, for the detail fields."""


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _ErrorAnswer(msgspec.Struct, frozen=True):
    error: _Error = _Error()


_error_decoder = msgspec.json.Decoder(_ErrorAnswer)


def refusal(status: int, body: bytes) -> HttpRefused:
    """Return the error that an answer with *status* and *body* is."""
    try:
        error = _error_decoder.decode(body).error
    except (msgspec.DecodeError, RecursionError):
        error = _Error(message=body[:200].decode("utf-8", "replace").strip())
    return HttpRefused(status, error.code, error.message, body)


class LineSplitter:
    """Makes lines of a stream that comes in pieces."""

    def __init__(self, what: str) -> None:
        """*what* is the request, for errors."""
        self._what = what
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that *piece* completes, without their ends and without empty ones.

        Raises HttpUnavailable for a line that is longer than we are willing to hold.
        """
        *complete, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise HttpUnavailable(f"{self._what}: a line is longer than {LINE_BYTES_MAX} bytes")
        return [line for line in complete if line]


class Requests(ABC):
    """What our clients have in common: the two requests of which the whole answer is wanted."""

    async def get(self, path: str, *, timeout_s: float) -> bytes:
        """Return the answer to GET *path*. Raises HttpError."""
        return await self._request("GET", path, b"", timeout_s)

    async def post(self, path: str, body: bytes = b"", *, timeout_s: float) -> bytes:
        """Return the answer to POST *path* with *body*, which is JSON. Raises HttpError."""
        return await self._request("POST", path, body, timeout_s)

    @abstractmethod
    async def _request(self, method: str, path: str, body: bytes, timeout_s: float) -> bytes: ...
