"""Reading a request's body: bounded in size, in time and in shape."""

import asyncio
import json
from typing import Any

import orjson
from starlette.types import Receive

from mythos.serve.errors import ApiError, ClientGone
from mythos.serve.settings import Settings

INLINE = 64 * 1024  # larger bodies are parsed off the event loop


async def read_json(
    receive: Receive, headers: dict[bytes, bytes], settings: Settings
) -> tuple[dict[str, Any], int]:
    """The body as a JSON object, and its size in bytes. ApiError 400, 408 or 413; ClientGone."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ApiError(400, "content-encoding: compressed request bodies are not accepted")
    body = await _read(receive, headers, settings)
    if len(body) <= INLINE:
        return parse_object(body, settings.json_depth), len(body)
    return await asyncio.to_thread(parse_object, body, settings.json_depth), len(body)


async def _read(receive: Receive, headers: dict[bytes, bytes], settings: Settings) -> bytes:
    too_large = ApiError(
        413, f"Request exceeds the maximum size of {settings.body_bytes} bytes", code="request_too_large"
    )
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:20]) > settings.body_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > settings.body_bytes:
                    raise too_large
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(
            408,
            f"the request body did not arrive within {settings.body_seconds:g} seconds",
            code="request_body_timeout",
        ) from None


def parse_object(body: bytes, depth: int) -> dict[str, Any]:
    """Strict JSON: UTF-8, no NaN, no lone surrogates, no duplicate keys, nested at most `depth` deep."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise _malformed(f"{error.msg.split(':')[0]} at {at}") from None
    if not isinstance(value, dict):
        raise _malformed("it must be an object")
    _check_depth(value, depth)
    try:
        json.loads(body, object_pairs_hook=_unique)
    except (RecursionError, ValueError) as error:
        raise _malformed(str(error)) from None
    return value


def _malformed(why: str) -> ApiError:
    return ApiError(400, f"The request body is not valid JSON: {why}", code="malformed_json")


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("an object has two members of the same name")


def _check_depth(value: Any, depth: int) -> None:
    level: list[Any] = [value]
    for _ in range(depth):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                below.extend(v for v in item if isinstance(v, dict | list))
        if not below:
            return
        level = below
    raise _malformed(f"it is nested deeper than {depth}")
