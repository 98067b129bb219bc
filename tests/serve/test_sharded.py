"""A server whose tier is split over two processes: the same surface, gate and receipts."""

import json

import pytest

from mythos.records.bundle import VERIFIED
from mythos.records.dsse import peek
from mythos.store.operator_key import operator_keys
from tests.receipts.world import both
from tests.serve.live import ENDLESS, ask, serve
from tests.tiny import tiny_home


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    return tiny_home(tmp_path)


def test_answers_have_receipts_and_a_killed_rank_is_told(tiny):
    with tiny.engine() as engine, serve(tiny, engine) as live, live.http() as http:
        alone = http.post("/v1/messages", json=ask(temperature=0)).json()
    with tiny.engine(ranks=2) as engine, serve(tiny, engine) as live, live.http() as http:
        got = http.post("/v1/messages", json=ask(temperature=0))
        assert got.json()["content"] == alone["content"]
        document = http.get(f"/v1/receipts/{got.headers['mythos-receipt']}").content
        assert both(document, operator_keys(tiny.home).public_key().public_bytes_raw().hex()) == VERIFIED
        assert peek(json.loads(document)["receipt"].encode())["backend"] == "sharded-int8-x2"

        (runner,) = engine._runners.values()
        (process,) = runner.loaded.ranks.processes
        with http.stream("POST", "/v1/messages", json=ask(stream=True, **ENDLESS)) as stream:
            lines = stream.iter_lines()
            while "content_block_delta" not in next(lines):
                pass
            process.kill()
            told = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
        assert told[-1]["type"] == "error"
        assert told[-1]["error"]["message"].startswith("Rank 1 of 2 has ended (killed by signal 9).")
        again = http.post("/v1/messages", json=ask(temperature=0))
        assert again.json()["content"] == alone["content"]
