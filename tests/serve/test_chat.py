"""Chat completions (O1-O3, O6)."""

import json
import math

import pytest

from tests.serve.live import chat

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def post(live, body):
    with live.http(version=None) as http:
        return http.post("/v1/chat/completions", json=body)


def chunks_of(text: str) -> list[dict]:
    """The chunks of a stream, whose form is checked."""
    assert text.endswith("data: [DONE]\n\n")
    rows = text.split("\n\n")[:-2]
    assert all(row.startswith("data: {") and "\n" not in row for row in rows)
    return [json.loads(row[6:]) for row in rows]


def test_O1_a_whole_completion(live):
    got = post(live, chat(seed=3, temperature=1))
    body = got.json()
    assert body["id"].startswith("chatcmpl_") and body["object"] == "chat.completion"
    assert body["model"] == "small" and body["choices"][0]["finish_reason"] in ("length", "stop")
    assert body["choices"][0]["message"]["role"] == "assistant"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    again = post(live, chat(seed=3, temperature=1)).json()
    assert again["choices"][0]["message"] == body["choices"][0]["message"]
    assert "x-ratelimit-remaining-requests" in got.headers


def test_O2_a_stream(live):
    body = chat(seed=3, temperature=1)
    whole = post(live, body).json()
    for usage in (False, True):
        got = post(live, {**body, "stream": True, "stream_options": {"include_usage": usage}})
        assert got.headers["content-type"].startswith("text/event-stream")
        chunks = chunks_of(got.text)
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
        if usage:
            last = chunks.pop()
            assert last["choices"] == [] and last["usage"]["completion_tokens"] == 8
            assert all(chunk["usage"] is None for chunk in chunks)
        else:
            assert all("usage" not in chunk for chunk in chunks)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        assert text == whole["choices"][0]["message"]["content"]
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons[-1] == whole["choices"][0]["finish_reason"] and not any(reasons[:-1])


def test_O1_logprobs(live):
    body = chat(logprobs=True, top_logprobs=3, temperature=0, max_tokens=6)
    rows = post(live, body).json()["choices"][0]["logprobs"]["content"]
    assert rows
    for row in rows:
        assert len(row["top_logprobs"]) == 3 and row["logprob"] <= 0
        assert row["logprob"] == max(top["logprob"] for top in row["top_logprobs"])  # greedy
        assert sum(math.exp(top["logprob"]) for top in row["top_logprobs"]) <= 1.0001
        assert bytes(row["bytes"]).decode("utf-8", "replace") == row["token"]
    chunks = chunks_of(post(live, {**body, "stream": True}).text)
    streamed = [
        r for c in chunks if (c["choices"][0]["logprobs"]) for r in c["choices"][0]["logprobs"]["content"]
    ]
    assert [r["token"] for r in streamed] == [r["token"] for r in rows]


ACCEPTED = {
    "all roles": (
        chat(
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
                {"role": "user", "content": "Hi", "name": "me"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            ],
            tools=[TOOL],
        ),
        "",
    ),
    "developer only": (chat(messages=[{"role": "developer", "content": "string"}]), ""),
    "assistant last": (
        chat(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        "",
    ),
    "new token limit": (chat(max_completion_tokens=3), ""),
    "no token limit": ({k: v for k, v in chat(stop="\r").items()}, ""),
    "zero": (chat(max_tokens=0), ""),
    "book-keeping": (chat(user="u", metadata={"a": "b"}, prompt_cache_key="k", service_tier="auto"), ""),
    "without effect": (
        chat(reasoning_effort="low", verbosity="low", store=True, frequency_penalty=1, logit_bias={"5": 1}),
        "frequency_penalty, logit_bias, reasoning_effort, store, verbosity",
    ),
    "nulls": (chat(stop=None, seed=None, tools=None, response_format=None, n=None, logprobs=None), ""),
    "text format": (chat(response_format={"type": "text"}, modalities=["text"], n=1), ""),
    "tools not to be used": (chat(tools=[TOOL], tool_choice="none"), ""),
    "tool without parameters": (
        chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none"),
        "",
    ),
    "negative seed": (chat(seed=-9007199254740991), ""),
    "unknown": (chat(banana=1), "banana"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_O1_accepted(live, name):
    body, ignored = ACCEPTED[name]
    got = post(live, body)
    assert got.status_code == 200, got.text
    assert got.headers.get("mythos-ignored", "") == ignored


REFUSED = {
    "no model": ({"messages": [{"role": "user", "content": "a"}]}, "model"),
    "no messages": ({"model": "small"}, "messages"),
    "empty": (chat(messages=[]), "messages"),
    "role": (chat(messages=[{"role": "function", "content": "a"}]), "messages.0.role"),
    "image": (
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        "messages.0.content.0",
    ),
    "n": (chat(n=2), "n"),
    "audio": (chat(modalities=["text", "audio"]), "modalities"),
    "temperature": (chat(temperature=3), "temperature"),
    "top_p": (chat(top_p=-0.1), "top_p"),
    "nan": (chat(temperature="NaN"), "temperature"),
    "max_tokens": (chat(max_tokens=-1), "max_tokens"),
    "seed": (chat(seed=1.5), "seed"),
    "five stops": (chat(stop=list("abcde")), "stop"),
    "empty stop": (chat(stop=""), "stop.0"),
    "top_logprobs alone": (chat(top_logprobs=2), "top_logprobs"),
    "top_logprobs": (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    "unanswered call": (
        chat(
            messages=[
                {"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "user", "content": "b"},
            ]
        ),
        "messages.1",
    ),
    "unasked result": (
        chat(messages=[{"role": "tool", "tool_call_id": "call_1", "content": "x"}]),
        "messages.0.tool_call_id",
    ),
    "arguments": (
        chat(
            messages=[
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}
            ]
        ),
        "messages.0.tool_calls.0.function.arguments",
    ),
    "required without tools": (chat(tool_choice="required"), "tool_choice"),
    "unknown tool": (
        chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        "tool_choice.function.name",
    ),
    "tool type": (chat(tools=[{"type": "web_search"}]), "tools.0.type"),
    "format": (chat(response_format={"type": "yaml"}), "response_format.type"),
    "schema": (
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}},
            }
        ),
        "response_format.json_schema.schema/uniqueItems",
    ),
    "stream": (chat(stream="true"), "stream"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_O3_refused_in_the_envelope(live, name):
    body, param = REFUSED[name]
    got = post(live, body)
    assert got.status_code == 400, got.text
    assert set(got.json()) == {"error"}
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["param"] == param
