"""Tools and output schemas: whatever the model, what comes out parses and fits (M26, M27, M42, M43)."""

import json

import jsonschema
import pytest

from mythos.engine.grammar import CALL_CLOSE, CALL_OPEN
from mythos.serve.calls import CallParser
from tests.serve.live import ask, chat
from tests.serve.sse import check_stream

COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "dark": {"type": "boolean"}},
    "required": ["colour", "dark"],
}
LEVEL = {
    "type": "object",
    "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["level"],
}
SCHEMAS = {"paint": COLOUR, "set-level": LEVEL}
TOOLS = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
FUNCTIONS = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()
]


def post(live, body, path="/v1/messages"):
    with live.http() as http:
        got = http.post(path, json=body)
    assert got.status_code == 200, got.text
    return got


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "paint"}])
@pytest.mark.parametrize("stream", [False, True])
def test_M26_forced_tools_are_called_with_fitting_input(live, choice, stream):
    for seed in range(4):
        body = ask(tools=TOOLS, tool_choice=choice, max_tokens=600, stream=stream, temperature=1 - seed / 10)
        got = post(live, body)
        if stream:
            heard = check_stream(got.text)
            blocks, reason = heard.blocks, heard.stop_reason
        else:
            blocks, reason = got.json()["content"], got.json()["stop_reason"]
        assert blocks and all(block["type"] == "tool_use" for block in blocks)
        if reason == "tool_use":
            for block in blocks:
                assert choice["type"] == "any" or block["name"] == "paint"
                jsonschema.validate(block["input"], SCHEMAS[block["name"]])
        else:
            assert reason == "max_tokens"


def test_M26_parallel_calls_can_be_forbidden(live):
    choice = {"type": "any", "disable_parallel_tool_use": True}
    for _ in range(4):
        got = post(live, ask(tools=TOOLS, tool_choice=choice, max_tokens=200, temperature=1)).json()
        assert len(got["content"]) == 1 and got["stop_reason"] == "tool_use"


def test_M27_output_schema(live):
    output = {"format": {"type": "json_schema", "schema": COLOUR}}
    for stream in (False, True):
        got = post(live, ask(output_config=output, max_tokens=200, stream=stream, temperature=1))
        if stream:
            heard = check_stream(got.text)
            text, reason = heard.text, heard.stop_reason
        else:
            text, reason = got.json()["content"][0]["text"], got.json()["stop_reason"]
        assert reason == "end_turn"
        jsonschema.validate(json.loads(text), COLOUR)


def test_M27_tools_and_an_output_schema_at_once(live):
    output = {"format": {"type": "json_schema", "schema": LEVEL}}
    for _ in range(6):
        got = post(live, ask(tools=TOOLS, output_config=output, max_tokens=400, temperature=1)).json()
        if got["stop_reason"] == "end_turn":
            jsonschema.validate(json.loads(got["content"][0]["text"]), LEVEL)
        elif got["stop_reason"] == "tool_use":
            for block in got["content"]:
                jsonschema.validate(block["input"], SCHEMAS[block["name"]])


def test_M43_cut_short_in_a_call_the_reason_is_max_tokens(live):
    body = ask(tools=TOOLS, tool_choice={"type": "tool", "name": "paint"}, max_tokens=60)
    got = post(live, body).json()
    assert got["stop_reason"] == "max_tokens"
    assert got["content"][0]["type"] == "tool_use" and isinstance(got["content"][0]["input"], dict)
    assert check_stream(post(live, {**body, "stream": True}).text).stop_reason == "max_tokens"


def test_O1_tools_in_the_other_form(live):
    for choice in ("required", {"type": "function", "function": {"name": "set-level"}}):
        body = chat(tools=FUNCTIONS, tool_choice=choice, max_tokens=200, parallel_tool_calls=False)
        got = post(live, body, "/v1/chat/completions").json()["choices"][0]
        assert got["finish_reason"] == "tool_calls" and got["message"]["content"] is None
        (call,) = got["message"]["tool_calls"]
        assert call["type"] == "function" and call["id"].startswith("call_")
        function = call["function"]
        jsonschema.validate(json.loads(function["arguments"]), SCHEMAS[function["name"]])


def test_O2_streamed_tool_calls(live):
    body = chat(tools=FUNCTIONS, tool_choice="required", max_tokens=200, stream=True)
    body["parallel_tool_calls"] = False
    lines = post(live, body, "/v1/chat/completions").text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    calls = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["id"] and calls[0]["function"]["name"] in SCHEMAS
    arguments = "".join(call["function"]["arguments"] for call in calls)
    jsonschema.validate(json.loads(arguments), SCHEMAS[calls[0]["function"]["name"]])
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "wanted",
    [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": COLOUR}}],
)
def test_O1_response_format(live, wanted):
    body = chat(response_format=wanted, max_tokens=300, temperature=1.5)
    got = post(live, body, "/v1/chat/completions").json()["choices"][0]
    if got["finish_reason"] == "stop":
        value = json.loads(got["message"]["content"])
        assert isinstance(value, dict)
        if wanted["type"] == "json_schema":
            jsonschema.validate(value, COLOUR)


def test_M27_a_schema_too_complex_to_follow_never_ends_half_way(live):
    """The decoder may give up on it in the middle: that is an error, not an end of turn."""
    schema = {"type": "string", "pattern": "^(.{0,500}){50}x$"}
    body = ask(output_config={"format": {"type": "json_schema", "schema": schema}}, max_tokens=400)
    with live.http() as http:
        got = http.post("/v1/messages", json=body)
        assert got.status_code == 400 and "schema" in got.json()["error"]["message"]
        heard = check_stream(http.post("/v1/messages", json={**body, "stream": True}).text)
        assert heard.error is not None and heard.error["type"] == "invalid_request_error"
        assert http.post("/v1/messages", json=ask()).status_code == 200


CALLS = [
    ("paint", '{"colour": "red", "note": "}</tool_call> \\" {"}'),
    ("set-level", '{"level": 3, "in": {"a": [1, {"b": []}]}}'),
]
WHOLE = "Let me < see <tool_ca." + "\n".join(
    f'{CALL_OPEN}{{"name": "{name}", "input": {arguments}}}{CALL_CLOSE}' for name, arguments in CALLS
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 1000])
def test_M42_calls_are_told_from_text_wherever_the_pieces_break(size):
    parser = CallParser()
    parts = [p for i in range(0, len(WHOLE), size) for p in parser.feed(WHOLE[i : i + size])]
    parts += parser.flush()
    assert not parser.open
    text = "".join(piece for kind, piece in parts if kind == "text")
    assert text == "Let me < see <tool_ca."
    calls, names = [], []
    for kind, piece in parts:
        if kind == "call":
            names.append(piece)
            calls.append("")
        elif kind == "args":
            calls[-1] += piece
    assert list(zip(names, calls, strict=True)) == CALLS
    assert [kind for kind, _ in parts].count("end") == 2


def test_M42_the_possible_start_of_a_call_is_text_in_the_end():
    parser = CallParser()
    assert parser.feed("a <tool_") == [("text", "a ")]
    assert parser.flush() == [("text", "<tool_")]
