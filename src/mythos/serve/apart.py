"""Running an application on a listener of its own: that of assets, and that of the public area."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from mythos.records.errors import MythosError
from mythos.serve.listening import Protocol

IDLE_SECONDS = 30  # a connection may wait for its next request


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def app_server(app: ASGIApp, on_ready: Callable[[], None]) -> uvicorn.Server:
    """A server of `app`, not yet running: no access log, no name of itself."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",  # else a stranger writes a line to the operator's terminal with each bad request
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=10,
    )
    return _Server(config, on_ready)


@contextmanager
def running(app: ASGIApp, listener: socket.socket) -> Iterator[str]:
    """Answer on `listener` from a thread until the block ends; yields the base URL."""
    ready = threading.Event()
    server = app_server(app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    try:
        while not ready.wait(0.1):
            if not thread.is_alive():
                raise MythosError("the server did not start")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
