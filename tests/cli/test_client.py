"""The small client against servers that misbehave, over real sockets."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mythos.cli.client import Answer, Server, ask, healthy, tiers
from mythos.cli.output import CommandError, Exit


@pytest.fixture
def answering():
    """`answering(status, body)` starts a server that gives this reply to everything."""
    servers = []

    def start(status: int, body: bytes, length: int | None = None) -> Server:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("content-length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Server(f"http://127.0.0.1:{server.server_port}", "key")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def events(*data: object) -> bytes:
    texts = (d if isinstance(d, str) else json.dumps(d) for d in data)
    return "".join(f"data: {text}\r\n\r\n" for text in texts).encode()


def piece(text: str, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2,
                                  "prompt_tokens_details": {"cached_tokens": 4}}}  # fmt: skip


def test_an_answer_arrives_in_pieces(answering):
    server = answering(200, b": ping\r\n\r\n" + events(piece("Pa"), piece("ris", "stop"), USAGE, "[DONE]"))
    pieces: list[str] = []
    answer = ask(server, "t", [], pieces.append)
    assert pieces == ["Pa", "ris"] and answer.text == "Paris" and answer.finish == "stop"
    assert (answer.prompt_tokens, answer.cached_tokens, answer.tokens) == (9, 4, 2)
    assert 0 < answer.first_token <= answer.seconds


def test_speed_leaves_out_the_wait_unless_all_came_at_once():
    def answer(tokens: int, first: float, seconds: float) -> Answer:
        return Answer("t", "", "stop", 9, 0, tokens, first, seconds)

    assert answer(11, 1.0, 2.0).speed == pytest.approx(10)
    assert answer(10, 1.0, 1.0001).speed == pytest.approx(10, rel=0.01)
    assert answer(1, 0.5, 0.5).speed == 2 and answer(0, 0.5, 0.5).speed == 0


@pytest.mark.parametrize("body", [b"", events(piece("Pa")), events(piece("Pa"))[:-9]])
def test_a_stream_without_its_end_is_an_error(answering, body):
    with pytest.raises(CommandError) as caught:
        ask(answering(200, body), "t", [])
    assert caught.value.code is Exit.UNREACHABLE


def test_a_connection_lost_in_the_middle_is_an_error(answering):
    with pytest.raises(CommandError) as caught:
        ask(answering(200, events(piece("Pa")), length=10_000), "t", [])
    assert caught.value.code is Exit.UNREACHABLE


def test_an_error_inside_the_stream(answering):
    with pytest.raises(CommandError, match="out of luck"):
        ask(answering(200, events(piece("Pa"), {"error": {"message": "out of luck"}})), "t", [])


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4), (404, 3), (429, 5), (500, 1), (503, 5)])
def test_statuses_become_exit_codes(answering, status, code):
    for body in (json.dumps({"error": {"message": "because"}}).encode(), b"<html>", b"[]", b""):
        with pytest.raises(CommandError) as caught:
            ask(answering(status, body), "t", [])
        assert caught.value.code == code and caught.value.message


def test_nobody_there():
    nobody = Server("http://127.0.0.1:1", "key")
    assert not healthy(nobody)
    with pytest.raises(CommandError) as caught:
        tiers(nobody)
    assert caught.value.code is Exit.UNREACHABLE and "mythos up" in caught.value.cure


def test_the_key_stays_out_of_representations():
    assert "secret" not in repr(Server("http://127.0.0.1:1", "secret"))
