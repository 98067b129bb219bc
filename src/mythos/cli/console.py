"""`mythos console`: the web console in the foreground."""

import os
import signal
import socket

from mythos.cli.local import SESSION, new_session_key
from mythos.cli.output import emit, json_wanted, show
from mythos.cli.vault import opened
from mythos.console.app import create_console_app
from mythos.serve.apart import running
from mythos.serve.listening import BindError, bind
from mythos.serve.vault_front import VaultService
from mythos.store.listeners import announced

PORT = 8430
TOLD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def run(port: int) -> int:
    """Serve the pages until a signal comes. The key that is printed signs in as the operator, here only."""
    records, _ = opened()
    secret, digest = new_session_key()
    service = VaultService(records.store, records.clock, {digest: SESSION})
    signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)  # in every thread to come: they are waited for
    with (
        _bound(port) as listener,
        running(create_console_app(service), listener) as base_url,
        announced(records.home, "console", base_url),
    ):
        if json_wanted():
            emit({"base_url": base_url, "api_key": secret, "pid": os.getpid()})
        else:
            show("the console, for this key and those of `mythos key new`; Ctrl-C stops")
            print(f"url = {base_url}/")
            print(f"api_key = {secret}", flush=True)
        signal.sigwait(TOLD)
    return 0


def _bound(port: int) -> socket.socket:
    try:
        return bind("127.0.0.1", port or PORT)
    except BindError:
        if port:
            raise
        return bind("127.0.0.1", 0)
