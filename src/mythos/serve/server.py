"""Running the application: loopback only, with deadlines for headers, and a graceful end."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import uvicorn

from mythos.serve.app import create_app
from mythos.serve.listening import BindError, Protocol, bind
from mythos.serve.service import Service

IDLE_SECONDS = 30  # a connection may wait for its next request

log = logging.getLogger("mythos.serve")

__all__ = ["BindError", "bind", "make_server", "run_server"]


def run_server(
    service: Service,
    host: str = "127.0.0.1",
    port: int = 0,
    on_ready: Callable[[str], None] = lambda base_url: None,
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then let running answers finish. Blocks; call it on the main thread.

    `on_ready` gets the base URL when requests are accepted. Port 0 takes a free one. BindError for an address
    that is not this machine's loopback, or in use.
    """
    bound = bind(host, port)
    name = f"[{host}]" if ":" in host else host
    base_url = f"http://{name}:{bound.getsockname()[1]}"
    server = make_server(service, lambda: on_ready(base_url), aliases)
    with bound:
        asyncio.run(server.serve(sockets=[bound]))


def make_server(
    service: Service, on_ready: Callable[[], None] = lambda: None, aliases: Mapping[str, str] | None = None
) -> uvicorn.Server:
    """The uvicorn server of `service`, not yet running."""
    config = uvicorn.Config(
        create_app(service, aliases),
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,  # no access log: paths and queries may hold what callers wrote
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(service.settings.drain_seconds) + 10,
    )
    return _Server(config, service, on_ready)


class _Server(uvicorn.Server):
    """uvicorn's server, with our end: drain, then error events, then quiet; no signal is raised again."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.draining = True
        loop = asyncio.get_running_loop()
        end = loop.call_later(self._service.settings.drain_seconds, self._service.cancel_running)
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        watched = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in watched}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:  # asked twice: do not wait for running answers
            self._service.cancel_running()
        self.should_exit = True
