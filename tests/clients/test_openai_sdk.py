"""The openai package, current and previous major version, against a server on loopback."""

import json

import jsonschema
import pytest

from tests.clients.test_anthropic_sdk import CITY, WEATHER

pytestmark = pytest.mark.clients

CLIENTS = ("openai-3.54.0", "openai-2.54.0")


@pytest.fixture(params=CLIENTS)
def seen(request, sdk):
    """What each step of scripts/openai_sdk.py saw in one client."""
    return sdk(request.param, "openai_sdk.py")


def check_completion(completion):
    assert completion["object"] == "chat.completion" and completion["model"] == "opus"
    assert completion["id"].startswith("chatcmpl")
    usage = completion["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    (choice,) = completion["choices"]
    assert choice["index"] == 0 and choice["message"]["role"] == "assistant"
    return choice


def test_version(request, seen):
    assert request.node.callspec.params["seen"] == f"openai-{seen('version')['version']}"


@pytest.mark.parametrize("step", ["create", "create_async", "roles", "tool_result"])
def test_create(seen, step):
    completion = seen(step)
    choice = check_completion(completion)
    assert choice["finish_reason"] in ("stop", "length")
    assert isinstance(choice["message"]["content"], str)
    if step == "create":
        assert completion["request_id"].startswith("req_")


def test_fields_without_effect_are_named(seen):
    completion = seen("all_fields")
    check_completion(completion)
    assert set(completion["ignored"]) == {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "moderation",
        "prediction",
        "presence_penalty",
        "reasoning_effort",
        "store",
        "unheard_of",
        "verbosity",
        "web_search_options",
    }


@pytest.mark.parametrize("step", ["stream", "stream_async"])
def test_stream(seen, step):
    chunks = seen(step)["chunks"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    with_choice = [chunk for chunk in chunks if chunk["choices"]]
    assert with_choice[0]["choices"][0]["delta"]["role"] == "assistant"
    assert with_choice[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert all(chunk["choices"][0].get("finish_reason") is None for chunk in with_choice[:-1])
    if step == "stream":  # asked for its usage
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["prompt_tokens"] > 0


def test_stream_helper(seen):
    helper = seen("stream_helper")
    assert "content.delta" in helper["kinds"]
    choice = helper["final"]["choices"][0]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), CITY)


def check_calls(choice):
    assert choice["finish_reason"] == "tool_calls"
    for call in choice["message"]["tool_calls"]:
        assert call["type"] == "function" and call["function"]["name"] == "weather" and call["id"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    return choice["message"]["tool_calls"]


def test_tools(seen):
    assert check_calls(check_completion(seen("tools")))


def test_tools_stream(seen):
    streamed = seen("tools_stream")
    calls = check_calls(streamed["final"]["choices"][0])
    if len(calls) == 1:
        assert "".join(streamed["pieces"]) == calls[0]["function"]["arguments"]


def test_structured_output(seen):
    completion = seen("structured")
    assert check_completion(completion)["finish_reason"] == "stop"
    jsonschema.validate(completion["parsed"], CITY)


def test_models(seen):
    models = seen("models")
    assert [model["id"] for model in models["listed"]] == ["opus"]
    assert models["retrieved"] == models["listed"][0] and models["retrieved"]["object"] == "model"


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("error_400", "BadRequestError"),
        ("error_401", "AuthenticationError"),
        ("error_403", "PermissionDeniedError"),
        ("error_404", "NotFoundError"),
        ("error_413", "APIStatusError"),  # the package has no class of its own for it
        ("error_429", "RateLimitError"),
        ("error_500", "InternalServerError"),
        ("error_503", "InternalServerError"),
    ],
)
def test_errors(seen, step, name):
    error = seen(step)
    assert error["class"] == name, error
    assert error["status"] == int(step.removeprefix("error_"))
    assert set(error["body"]) == {"message", "type", "param", "code"} and error["body"]["message"]
    assert error["request_id"].startswith("req_")
