"""Listening on loopback, and HTTP/1.1 with bounds on how slowly and how much of a request's head may come."""

import asyncio
import ipaddress
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.serve.errors import ApiError, Dialect, envelope

HEADER_SECONDS = 10.0  # for a request's line and headers to arrive
HEADER_BYTES = 64 * 1024


class BindError(MythosError):
    """The address cannot be served on."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on loopback. BindError when `host` is anything else: no one is enrolled yet."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BindError(
            f"{host} is not a loopback address, and no one is enrolled who could be served elsewhere",
            "Use 127.0.0.1. To reach it from elsewhere, use an SSH tunnel to this machine.",
        )
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
        bound.listen(2048)
    except (OSError, OverflowError) as error:
        bound.close()
        raise BindError(
            f"cannot listen on {host}:{port}: {error}",
            "Choose another port with --port, or 0 for any free one.",
        ) from None
    return bound


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds on how slowly and how much of a request's head may come."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False  # whatever the logging of the process: paths hold what callers write

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # asyncio does this only for sockets that name their protocol; without it a client's delayed
            # acknowledgement holds every answer back for 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # a client that takes nothing more is dropped
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > HEADER_BYTES:
            self._refuse(ApiError(431, "the request's headers are too large"))

    def on_headers_complete(self) -> None:
        self._head_done()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._head_bytes = 0

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "the request is not valid HTTP"))

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if self._head_bytes == 0:  # nothing was asked: nothing is answered
            self.transport.close()
            return
        self._refuse(ApiError(408, f"the request's headers did not arrive within {HEADER_SECONDS:g} seconds"))

    def _refuse(self, error: ApiError) -> None:
        """An error before there is a request: the envelope, then the connection's end."""
        self._head_done()
        if self.transport.is_closing():
            return
        request_id = new_id("req")
        body = envelope(error, Dialect.ANTHROPIC, request_id)
        head = (
            f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nrequest-id: {request_id}\r\nx-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
