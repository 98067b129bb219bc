"""Errors on the wire, in the envelope of whichever client asks."""

from enum import StrEnum

import orjson


class Dialect(StrEnum):
    ANTHROPIC = "anthropic"
    OPENAI = "openai"


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    421: "permission_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal with its HTTP status.

    `code` is a stable word to branch on, `param` the field at fault, `headers` go with the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}

    def status_for(self, dialect: Dialect) -> int:
        # 529 is one vendor's own status; the other's clients know 503.
        return 503 if self.status == 529 and dialect is Dialect.OPENAI else self.status


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


def bad(path: str, reason: str, code: str | None = None) -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, f"{path}: {reason}", code=code, param=path)


def not_found_model(name: str) -> ApiError:
    """The one answer for a tier that does not exist and for one the caller may not know."""
    return ApiError(404, f"model: {clean(name)}", code="model_not_found", param="model")


def clean(text: str, limit: int = 128) -> str:
    """Text of a caller that goes back to it: printable and bounded."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


def envelope(error: ApiError, dialect: Dialect, request_id: str) -> bytes:
    """The JSON body of an error."""
    own_fault = error.status >= 500
    if dialect is Dialect.OPENAI:
        kind = _OPENAI_TYPES.get(error.status, "server_error" if own_fault else "invalid_request_error")
        return orjson.dumps(
            {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
        )
    inner: dict[str, object] = {
        "type": _ANTHROPIC_TYPES.get(error.status, "api_error" if own_fault else "invalid_request_error"),
        "message": error.message,
    }
    if error.code is not None:
        inner["details"] = {"error_code": error.code}
    return orjson.dumps({"type": "error", "error": inner, "request_id": request_id})
