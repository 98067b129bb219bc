"""The anthropic package, current and previous major version, against a server on loopback."""

import json

import jsonschema
import pytest

pytestmark = pytest.mark.clients

CLIENTS = ("anthropic-2.12.0", "anthropic-1.17.0")
USAGE = {
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "service_tier",
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["name", "large"],
    "additionalProperties": False,
}


@pytest.fixture(params=CLIENTS)
def seen(request, sdk):
    """What each step of scripts/anthropic_sdk.py saw in one client."""
    return sdk(request.param, "anthropic_sdk.py")


def check_message(message):
    assert message["id"].startswith("msg_")
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "opus")
    assert set(message["usage"]) >= USAGE
    assert message["usage"]["output_tokens"] > 0


def text_of(message):
    return "".join(block["text"] for block in message["blocks"])


def test_version(request, seen):
    assert request.node.callspec.params["seen"] == f"anthropic-{seen('version')['version']}"


@pytest.mark.parametrize("step", ["create", "create_async", "conversation", "tool_result"])
def test_create(seen, step):
    message = seen(step)
    check_message(message)
    assert message["stop_reason"] in ("end_turn", "max_tokens")
    assert [block["type"] for block in message["blocks"]] in ([], ["text"])
    if step == "create":
        assert message["request_id"].startswith("req_")


def test_fields_without_effect_are_named(seen):
    message = seen("all_fields")
    check_message(message)
    assert set(message["ignored"]) >= {
        "beta:another",
        "beta:one-2026-01-01",
        "container",
        "diagnostics",
        "inference_geo",
        "output_config.effort",
        "thinking",
        "thinking.display",
        "tools.allowed_callers",
        "tools.defer_loading",
        "tools.eager_input_streaming",
        "tools.input_examples",
    }


def test_cached_prompt(seen):
    first, second = seen("cached")["usages"]
    read = second["cache_read_input_tokens"]
    assert read > 0
    total = first["input_tokens"] + first["cache_read_input_tokens"] + first["cache_creation_input_tokens"]
    assert second["input_tokens"] + read + second["cache_creation_input_tokens"] == total


def test_stream_events(seen):
    events = seen("stream_events")["events"]
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    deltas = [kind for kind in kinds if kind == "content_block_delta"]
    block = ["content_block_start", *deltas, "content_block_stop"]
    assert kinds == ["message_start", *block, "message_delta", "message_stop"] and deltas
    assert events[0]["message"]["content"] == [] and events[0]["message"]["stop_reason"] is None
    end = next(event for event in events if event["type"] == "message_delta")
    assert end["delta"]["stop_reason"] in ("end_turn", "max_tokens")


@pytest.mark.parametrize("step", ["stream_helper", "stream_async"])
def test_stream_helper(seen, step):
    message = seen(step)
    check_message(message)
    assert text_of(message) == message["streamed"]


def test_stop_sequence(seen):
    message = seen("stopped")
    assert message["stop_reason"] == "stop_sequence" and message["stop_sequence"] == message["word"]
    assert message["word"] not in text_of(message)


def test_tools(seen):
    message = seen("tools")
    check_message(message)
    assert message["stop_reason"] == "tool_use"
    uses = [block for block in message["blocks"] if block["type"] == "tool_use"]
    assert uses
    for use in uses:
        assert use["name"] == "weather" and use["id"].startswith("toolu_")
        jsonschema.validate(use["input"], WEATHER)


def test_tools_stream(seen):
    message = seen("tools_stream")
    assert message["stop_reason"] == "tool_use"
    uses = [block for block in message["blocks"] if block["type"] == "tool_use"]
    for use in uses:
        jsonschema.validate(use["input"], WEATHER)
    if len(uses) == 1:
        assert json.loads("".join(message["pieces"])) == uses[0]["input"]


def test_structured_output(seen):
    message = seen("structured")
    assert message["stop_reason"] == "end_turn"
    jsonschema.validate(message["parsed"], CITY)


def test_count_tokens(seen):
    usage = seen("create")["usage"]
    assert seen("count_tokens")["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_models(seen):
    models = seen("models")
    assert [model["id"] for model in models["listed"]] == ["opus"] and models["page"] == 1
    assert models["retrieved"] == models["listed"][0]
    assert models["retrieved"]["type"] == "model" and models["retrieved"]["max_tokens"] > 0


@pytest.mark.parametrize(
    ("step", "names", "kind"),
    [
        ("error_400", {"BadRequestError"}, "invalid_request_error"),
        ("error_401", {"AuthenticationError"}, "authentication_error"),
        ("error_403", {"PermissionDeniedError"}, "permission_error"),
        ("error_404", {"NotFoundError"}, "not_found_error"),
        ("error_413", {"ContentTooLargeError", "RequestTooLargeError"}, "request_too_large"),
        ("error_429", {"RateLimitError"}, "rate_limit_error"),
        ("error_500", {"InternalServerError"}, "api_error"),
        ("error_529", {"OverloadedError"}, "overloaded_error"),
    ],
)
def test_errors(seen, step, names, kind):
    error = seen(step)
    assert error["class"] in names, error
    assert error["status"] == int(step.removeprefix("error_"))
    assert error["body"]["type"] == "error" and error["body"]["error"]["type"] == kind
    assert error["request_id"] == error["body"]["request_id"] and error["request_id"].startswith("req_")
