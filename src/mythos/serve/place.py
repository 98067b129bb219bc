"""Where a request comes from and which key it brings: the same for every listener of ours."""

from collections.abc import Mapping

from starlette.types import Scope

from mythos.serve.errors import ApiError

_NAMES = ("127.0.0.1", "localhost", "[::1]")


def check_place(headers: Mapping[bytes, bytes], scope: Scope) -> None:
    """ApiError unless the Host is one of our names with our port, and a browser's Origin that same place."""
    port = (scope.get("server") or ("", 0))[1]
    ours = {f"{name}:{port}" for name in _NAMES} | (set(_NAMES) if port == 80 else set())
    host = _header(headers, b"host").lower()
    if host not in ours:
        raise ApiError(421, "the Host header does not name this server", code="wrong_host")
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() != f"http://{host}":
        raise ApiError(403, "requests from other origins are not answered", code="wrong_origin")
    if _header(headers, b"sec-fetch-site").lower() in ("cross-site", "same-site"):
        raise ApiError(403, "requests from other sites are not answered", code="wrong_origin")


def credential(headers: Mapping[bytes, bytes]) -> str:
    """The key in `x-api-key` or `Authorization: Bearer`; "" for none."""
    key = _header(headers, b"x-api-key").strip()
    if key:
        return key
    scheme, _, token = _header(headers, b"authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _header(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
