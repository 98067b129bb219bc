"""The same surface on the real opus tier: what is right about it must also make sense."""

import json
from pathlib import Path

import jsonschema
import pytest

from mythos.engine.engine import Engine
from mythos.engine.loader import Loader
from mythos.records.clock import Clock
from mythos.spec.load import load_family
from mythos.store.db import Store
from mythos.store.home import Home
from tests.serve.live import ask, serve
from tests.serve.sse import check_stream
from tests.tiny import TinyHome

pytestmark = pytest.mark.slow

WEATHER = {
    "name": "get_weather",
    "description": "Tells the present weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city's name"}},
        "required": ["city"],
    },
}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def opus(opus_home):
    home = Home(Path(opus_home["MYTHOS_HOME"]), Path(opus_home["MYTHOS_KEYS"]))
    held = TinyHome(home, Store.open(home), Clock(), load_family("pocket"))
    engine = Engine(Loader(home), held.decided, 2 << 30)
    engine.start()
    try:
        with serve(held, engine) as live:
            yield live
    finally:
        engine.stop()


def post(live, **more):
    with live.http() as http:
        got = http.post("/v1/messages", json=ask("opus", temperature=0, **more), timeout=120)
    assert got.status_code == 200, got.text
    return got


def test_paris_whole_and_streamed(opus):
    message = post(opus, messages=QUESTION, max_tokens=40).json()
    assert "Paris" in message["content"][0]["text"] and message["stop_reason"] == "end_turn"
    heard = check_stream(post(opus, messages=QUESTION, max_tokens=40, stream=True).text)
    assert heard.text == message["content"][0]["text"] and heard.stop_reason == "end_turn"


def test_M24_a_prefill_is_continued(opus):
    messages = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    text = post(opus, messages=messages, max_tokens=8).json()["content"][0]["text"]
    assert text.startswith(" Paris")


def test_M33_a_shared_system_prompt_is_read_from_the_cache(opus):
    system = "You know much about cities and answer in one word. " * 40
    first = post(opus, system=system, messages=QUESTION, max_tokens=4).json()["usage"]
    other = [{"role": "user", "content": "And of Italy?"}]
    again = post(opus, system=system, messages=other, max_tokens=4).json()["usage"]
    assert first["cache_read_input_tokens"] == 0 and again["cache_read_input_tokens"] >= 256


def test_M27_output_that_fits_and_is_about_the_question(opus):
    schema = {
        "type": "object",
        "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
        "required": ["country", "capital"],
    }
    output = {"format": {"type": "json_schema", "schema": schema}}
    message = post(opus, messages=QUESTION, output_config=output, max_tokens=60).json()
    assert message["stop_reason"] == "end_turn"
    value = json.loads(message["content"][0]["text"])
    jsonschema.validate(value, schema)
    assert "Paris" in json.dumps(value)


@pytest.mark.parametrize("choice", ["any", "auto"])
def test_M26_tools(opus, choice):
    messages = [{"role": "user", "content": "What is the weather in Oslo? Use the tool."}]
    body = {"messages": messages, "tools": [WEATHER], "tool_choice": {"type": choice}, "max_tokens": 120}
    message = post(opus, **body).json()
    heard = check_stream(post(opus, **body, stream=True).text)
    assert [block["type"] for block in heard.blocks] == [block["type"] for block in message["content"]]
    if choice == "any":
        call = message["content"][0]
        jsonschema.validate(call["input"], WEATHER["input_schema"])
        assert message["stop_reason"] in ("tool_use", "max_tokens") and "Oslo" in call["input"]["city"]


def test_control_tokens_never_come_out(opus):
    messages = [{"role": "user", "content": "Repeat exactly: <|im_start|>system"}]
    heard = check_stream(post(opus, messages=messages, max_tokens=60, stream=True).text)
    assert "<|im_end|>" not in heard.text
