"""How a server starts and ends: loopback only, drained on SIGTERM (DESIGN 4.11)."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import httpx
import pytest

from mythos.records.errors import MythosError
from mythos.serve.server import bind, run_server
from tests.serve.live import ENDLESS, ask, serve
from tests.serve.sse import check_stream

PROGRAM = textwrap.dedent("""
    import hashlib, sys, pathlib, time
    from mythos.engine.backend import Eager
    from mythos.records.principal import OPERATOR
    from mythos.serve.server import run_server
    from mythos.serve.service import Service
    from mythos.serve.settings import Settings
    from tests.tiny import tiny_home

    class Paced(Eager):
        def decode(self, segments, layers=()):
            time.sleep(float(sys.argv[3]))
            return super().decode(segments, layers)

    tiny = tiny_home(pathlib.Path(sys.argv[1]))
    with tiny.engine(backend=Paced) as engine:
        keys = {hashlib.sha256(b"k").hexdigest(): OPERATOR}
        settings = Settings(drain_seconds=float(sys.argv[2]))
        service = Service(tiny.home, tiny.store, tiny.clock, tiny.family, engine, settings, keys)
        run_server(service, on_ready=lambda url: print(url, flush=True))
    print("cleaned up", flush=True)
""")


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.1", "example.com", "", "127.0.0.1.evil.example"]
)
def test_nothing_but_loopback_is_served(live, host):
    with pytest.raises(MythosError) as refused:
        run_server(live.service, host=host)
    assert "loopback" in refused.value.message and refused.value.cure


def test_a_port_in_use_is_named_with_its_cure(live):
    with pytest.raises(MythosError) as refused:
        bind("127.0.0.1", live.port)
    assert str(live.port) in refused.value.message and "--port" in refused.value.cure


@pytest.mark.parametrize(
    ("sent", "drain"), [(signal.SIGTERM, 30.0), (signal.SIGINT, 30.0), (signal.SIGTERM, 0.3)]
)
def test_a_signal_drains_running_answers_and_ends_quietly(tmp_path, sent, drain):
    """What can end in time does; what takes a minute at least, by its pace, is cut after 0.3 seconds."""
    pace, tokens = (0.0, 400) if drain > 1 else (0.06, 1024)
    environment = os.environ | {"MYTHOS_KEYS": str(tmp_path / "keys")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(drain), str(pace)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        body = ask(stream=True, **ENDLESS) | {"max_tokens": tokens}
        http = httpx.Client(base_url=url, headers={"x-api-key": "k", "anthropic-version": "2023-06-01"})
        with http, http.stream("POST", "/v1/messages", json=body, timeout=60) as got:
            pieces = got.iter_text()
            text = next(pieces)
            process.send_signal(sent)
            address = ("127.0.0.1", httpx.URL(url).port)
            with pytest.raises(ConnectionRefusedError):
                while True:  # until nothing listens any more; a request might be cut just as the port closes
                    socket.create_connection(address).close()
                    time.sleep(0.01)
            text += "".join(pieces)
        heard = check_stream(text)
        if drain > 1:
            assert heard.error is None and heard.usage["output_tokens"] == tokens
        else:
            assert heard.error is not None and heard.error["type"] == "overloaded_error"
        assert process.wait(30) == 0
        assert process.stdout.read() == "cleaned up\n"
    finally:
        process.kill()
        process.wait()


def test_many_clients_at_once(tiny, engine):
    """Streams of several clients, some of which leave: every one that stays gets its own whole answer."""
    with serve(tiny, engine) as live:
        texts: dict[int, str] = {}

        def client(number: int) -> None:
            body = ask(stream=True, max_tokens=40, temperature=0)
            body["messages"] = [{"role": "user", "content": f"Count from {number % 4}"}]
            with live.http() as http, http.stream("POST", "/v1/messages", json=body) as got:
                if number % 3 == 2:
                    return
                texts[number] = "".join(got.iter_text())

        threads = [threading.Thread(target=client, args=(n,)) for n in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(texts) == 16
        answers = {n: check_stream(text).text for n, text in texts.items()}
        for n, text in answers.items():
            assert text == answers[min(m for m in answers if m % 4 == n % 4)]
        deadline = time.monotonic() + 20
        while (live.service.running or live.service.reading_out) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert live.service.limits.account("local").running == 0
