"""What a form sends: small, as fields of text; a file counts as the text in it."""

import asyncio
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qsl

from starlette.types import Receive

from mythos.serve.errors import ApiError, ClientGone

BYTES = 256 << 10
FIELDS = 32
SECONDS = 30.0  # for all of it to arrive


async def read_form(receive: Receive, headers: dict[bytes, bytes]) -> dict[str, str]:
    """The fields of a form, the first of each name. ApiError 400, 408, 413 or 415; ClientGone."""
    kind = headers.get(b"content-type", b"").decode("latin-1")
    body = await _body(receive)
    word = kind.partition(";")[0].strip().lower()
    try:
        if word == "application/x-www-form-urlencoded":
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
        elif word == "multipart/form-data":
            pairs = _parts(kind, body)
        else:
            raise ApiError(415, "this is not what a form sends", code="not_a_form")
    except ValueError:
        raise ApiError(400, "the form is malformed", code="bad_form") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    return fields


def _parts(kind: str, body: bytes) -> list[tuple[str, str]]:
    """The parts of a multipart body (RFC 7578). ValueError."""
    whole = BytesParser(policy=HTTP).parsebytes(
        b"content-type: " + kind.encode("latin-1") + b"\r\n\r\n" + body
    )
    parts = list(whole.iter_parts()) if whole.is_multipart() else []
    if whole.defects or not parts or len(parts) > FIELDS:
        raise ValueError
    pairs = []
    for part in parts:
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(data, bytes):
            raise ValueError
        pairs.append((name, data.decode()))
    return pairs


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    try:
        async with asyncio.timeout(SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > BYTES:
                    raise ApiError(413, "the form is too large", code="request_too_large")
    except TimeoutError:
        raise ApiError(408, "the form did not arrive in time", code="request_body_timeout") from None
    return body
