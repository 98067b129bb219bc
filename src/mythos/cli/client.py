"""A small client of our own server: chat completions as server-sent events over the standard library's HTTP.

The vendors' SDKs speak to the same address; this one exists so that the command line needs none of them.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from mythos.cli.output import CommandError, Exit

PATIENCE = 600.0  # seconds without a byte: a long prefill on a slow machine, not a dead server
BURST = 1000.0  # tokens per second; above it the network delivered them together, it is no speed
CODES = {401: Exit.REFUSED, 403: Exit.REFUSED, 404: Exit.NOT_BUILT}
CODES |= dict.fromkeys((429, 503, 529), Exit.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask and as whom."""

    base_url: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer. Seconds count from sending the request; `tokens` are the server's count."""

    tier: str
    text: str
    finish: str
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    first_token: float
    seconds: float
    receipt: str = ""

    @property
    def speed(self) -> float:
        """Tokens per second after the first; of the whole answer when all of it arrived in one burst."""
        rest = self.seconds - self.first_token
        measured = self.tokens > 1 and (self.tokens - 1) < BURST * rest
        return (self.tokens - 1) / rest if measured else self.tokens / self.seconds


def tiers(server: Server) -> list[str]:
    """The tiers this key may see, in the server's order."""
    return [row["id"] for row in _get(server, "/v1/models")["data"]]


def healthy(server: Server, timeout: float = 2.0) -> bool:
    try:
        with _request(server, "GET", "/healthz", None, timeout) as response:
            return response.status == 200
    except CommandError:
        return False


def ask(
    server: Server,
    tier: str,
    messages: list[dict[str, str]],
    on_text: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Answer:
    """Ask and wait for the whole answer; `on_text` gets each piece as it arrives.

    Options are fields of the chat completions request; those that are None are left out. Leaving early (an
    exception from `on_text`, Ctrl-C) closes the connection, by which the server cancels the generation.
    """
    body = {"model": tier, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: value for name, value in options.items() if value is not None}
    sent = time.monotonic()
    first, pieces, finish, usage, done = 0.0, [], "", {}, False
    with _request(server, "POST", "/v1/chat/completions", body, PATIENCE) as response:
        receipt = response.getheader("mythos-receipt", "")
        for data in _events(response):
            if data == "[DONE]":
                done = True
                break
            chunk = json.loads(data)
            if "error" in chunk:
                raise CommandError(
                    f"the answer broke off: {chunk['error'].get('message', 'no reason given')}"
                )
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                text = choice["delta"].get("content") or ""
                if text:
                    first = first or time.monotonic() - sent
                    pieces.append(text)
                    on_text(text)
                finish = choice.get("finish_reason") or finish
    if not done:
        raise CommandError(
            "the connection closed in the middle of the answer",
            "`mythos doctor` shows whether the server still runs",
            Exit.UNREACHABLE,
        )
    seconds = time.monotonic() - sent
    return Answer(
        tier=tier,
        text="".join(pieces),
        finish=finish,
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        tokens=usage.get("completion_tokens", 0),
        first_token=first or seconds,
        seconds=seconds,
        receipt=receipt,
    )


def receipt(server: Server, receipt_id: str) -> bytes:
    """The document of a receipt that this key may read."""
    with _request(server, "GET", f"/v1/receipts/{quote(receipt_id, safe='')}", None, 30.0) as response:
        return response.read()


def _get(server: Server, path: str) -> dict[str, Any]:
    with _request(server, "GET", path, None, 10.0) as response:
        return json.loads(response.read())


class _Reply:
    """A response that closes its connection on leaving the `with` block, read to the end or not."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response

    def __enter__(self) -> http.client.HTTPResponse:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._response.close()


def _request(server: Server, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> _Reply:
    """Send; returns the response of a success, raises CommandError for everything else."""
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc, timeout=timeout)
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        if response.status == 200:
            return _Reply(connection, response)
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise _unreachable(server, error) from error
    except BaseException:
        connection.close()
        raise
    connection.close()
    raise _refused(response.status, text)


def _unreachable(server: Server, error: Exception) -> CommandError:
    reason = str(error) or type(error).__name__
    return CommandError(
        f"no answer from {server.base_url}: {reason}", "start it: mythos up", Exit.UNREACHABLE
    )


def _refused(status: int, body: bytes) -> CommandError:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the server answered with HTTP status {status}"
    cures = {
        401: "the session may have ended: start `mythos up` again",
        404: "`mythos models` shows the tiers that exist",
        429: "wait a moment and ask again",
    }
    return CommandError(message, cures.get(status, ""), CODES.get(status, Exit.FAILED))


def _events(response: http.client.HTTPResponse) -> Iterator[str]:
    """The data of each server-sent event (WHATWG HTML, section 9.2), joined over its lines."""
    lines: list[str] = []
    try:
        for raw in response:
            line = raw.decode("utf-8").rstrip("\r\n")
            if line.startswith("data:"):
                lines.append(line[5:].removeprefix(" "))
            elif not line and lines:
                yield "\n".join(lines)
                lines = []
    except (OSError, http.client.HTTPException):
        return  # the caller sees a stream without its end
