"""Whatever is sent, the answer is one of the documented ones: never a 5xx, never an exception."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mythos.engine.grammar import SchemaError, json_schema_grammar
from mythos.serve.chat_in import read_chat
from mythos.serve.errors import ApiError
from mythos.serve.messages_in import NEW_VERSION, OLD_VERSION, read_messages
from tests.serve.live import ask, chat
from tests.serve.sse import check_stream
from tests.serve.test_chat import ACCEPTED as CHATS
from tests.serve.test_messages_request import ACCEPTED as MESSAGES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_WORDS = """type text role user assistant system content tool_use tool_result id name input tool_use_id auto
any tool enabled json_schema schema format object properties $ref # not anyOf function ephemeral 0 -1"""
WORDS = st.sampled_from(_WORDS.split())


def paths(value, at=()):
    """Every place inside a JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*at, key))


def changed(value, at, new):
    """A copy of `value` with `new` at the place `at`; None there takes the place out."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and new is None and isinstance(copy, dict):
        copy.pop(at[0])
    else:
        copy[at[0]] = changed(copy[at[0]], at[1:], new)
    return copy


@st.composite
def mutants(draw, bodies):
    """A valid request with up to three places changed or dropped."""
    body = json.loads(json.dumps(draw(st.sampled_from(bodies))))
    for _ in range(draw(st.integers(1, 3))):
        where = [path for path in paths(body) if path]
        if not where:
            break
        body = changed(body, draw(st.sampled_from(where)), draw(st.none() | JSON | WORDS))
    return body


ALL_MESSAGES = mutants([body for body, _ in MESSAGES.values()])
ALL_CHATS = mutants([body for body, _ in CHATS.values()])


@settings(max_examples=300, deadline=None)
@given(body=ALL_MESSAGES, version=st.sampled_from([OLD_VERSION, NEW_VERSION]), strict=st.booleans())
def test_M20_M29_any_messages_body_is_read_or_refused(body, version, strict):
    try:
        read_messages(body, version, strict)
    except ApiError as error:
        assert error.status == 400 and error.message


@settings(max_examples=300, deadline=None)
@given(body=ALL_CHATS, strict=st.booleans())
def test_O1_any_chat_body_is_read_or_refused(body, strict):
    try:
        read_chat(body, strict)
    except ApiError as error:
        assert error.status == 400 and error.message


_KEYWORDS = """type enum const minimum maximum minLength maxLength pattern format required minItems maxItems
minProperties maxProperties multipleOf $ref uniqueItems title"""
SCHEMA = st.recursive(
    st.dictionaries(
        st.sampled_from(_KEYWORDS.split()),
        JSON
        | st.sampled_from(["string", "object", "array", "integer", "^a*$", "#", "#/properties/a", "date"])
        | st.just(["string", "null"]),
        max_size=3,
    )
    | st.booleans(),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            "items": inner,
            "anyOf": st.lists(inner, max_size=2),
            "allOf": st.lists(inner, max_size=2),
            "oneOf": st.lists(inner, max_size=2),
            "additionalProperties": inner,
            "$defs": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            "type": st.sampled_from(["object", "array"]),
        },
    ),
    max_leaves=6,
)


@settings(max_examples=250, deadline=None)
@given(schema=SCHEMA | JSON)
def test_M27_any_schema_compiles_or_is_refused_with_a_place(schema):
    try:
        json_schema_grammar(schema)
    except SchemaError as error:
        assert error.reason and (error.path == "" or error.path.startswith("/"))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"])
def test_no_5xx_over_http(live, path, data):
    bodies = ALL_CHATS if "chat" in path else ALL_MESSAGES
    body = data.draw(bodies)
    if isinstance(body, dict) and isinstance(body.get("max_tokens"), int):
        body["max_tokens"] = min(body["max_tokens"], 4)
    with live.http() as http:
        got = http.post(path, content=json.dumps(body).encode())
    assert got.status_code in (200, 400, 404), got.text
    if got.status_code != 200:
        assert got.json()["error"]["message"]
    elif got.headers["content-type"].startswith("text/event-stream") and "chat" not in path:
        check_stream(got.text)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(noise=st.binary(max_size=200) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_as_a_body(live, noise):
    with live.http() as http:
        assert http.post("/v1/messages", content=noise).status_code == 400


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_any_text_can_be_asked_and_is_echoed_in_no_header_raw(live, text):
    messages = [{"role": "user", "content": text}]
    with live.http() as http:
        assert http.post("/v1/messages", json=ask(messages=messages, max_tokens=1)).status_code == 200
        got = http.post("/v1/chat/completions", json=chat(text, **{text: 1, "max_tokens": 1}))
        assert got.status_code in (200, 400, 404)
