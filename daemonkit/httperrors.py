"""The answers of an HTTP server: JSON, and one shape for every error."""

from __future__ import annotations

import msgspec
from aiohttp import web

BODY_BYTES_MAX = 1 << 20
"""Of a request."""


class ApiError(Exception):
    """A request that is refused, with the answer its sender gets."""

    def __init__(self, status: int, code: str, message: str, **detail: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """For programs: lower case, stable."""
        self.message = message
        """For people."""
        self.detail = detail

    def response(self) -> web.Response:
        """Return the answer."""
        error = {"code": self.code, "message": self.message, **self.detail}
        return json_response(msgspec.json.encode({"error": error}), self.status)


def json_response(body: bytes | msgspec.Struct, status: int = 200) -> web.Response:
    """Return the answer that carries *body*: JSON already, or a Struct to be made so."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return web.Response(body=data, status=status, content_type="application/json")


def translated(error: web.HTTPException, request: web.Request) -> ApiError:
    """Return our shape of an error that the HTTP library raised."""
    match error.status:
        case 404:
            return ApiError(404, "not_found", f"there is nothing at {request.path}")
        case 405:
            return ApiError(405, "method_not_allowed", f"{request.method} is not possible at {request.path}")
        case 413:
            return ApiError(413, "body_too_large", f"the body is larger than {BODY_BYTES_MAX} bytes")
        case status:
            return ApiError(status, "bad_request" if status < 500 else "internal_error", error.reason)
