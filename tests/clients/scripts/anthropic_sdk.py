"""What a user of the anthropic package does, in either major version.

python anthropic_sdk.py BASE_URL KEY MODEL [limited=URL] [damaged=URL] [stopping=URL]
"""

import json
import sys

import anthropic
from anthropic import Anthropic, AsyncAnthropic
from steps import refusal, run

BASE_URL, KEY, MODEL = sys.argv[1:4]
OTHERS = dict(word.split("=", 1) for word in sys.argv[4:])
client = Anthropic(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120)
ASK = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["name", "large"],
    "additionalProperties": False,
}
ONE_TOOL = {"type": "any", "disable_parallel_tool_use": True}


def facts(message):
    return {
        "id": message.id,
        "type": message.type,
        "role": message.role,
        "model": message.model,
        "stop_reason": message.stop_reason,
        "blocks": [block.to_dict() for block in message.content],
        "usage": message.usage.to_dict(),
    }


def version():
    return {"version": anthropic.__version__}


def create():
    message = client.messages.create(model=MODEL, max_tokens=12, messages=ASK)
    return {**facts(message), "request_id": message._request_id}


async def create_async():
    async with AsyncAnthropic(base_url=BASE_URL, api_key=KEY, max_retries=0) as own:
        return facts(await own.messages.create(model=MODEL, max_tokens=12, messages=ASK))


def conversation():
    messages = [
        *ASK,
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
    ]
    system = [{"type": "text", "text": "Answer briefly.", "cache_control": {"type": "ephemeral"}}]
    return facts(client.messages.create(model=MODEL, max_tokens=12, system=system, messages=messages))


def all_fields():
    """What the package's own tests send at most, with a tool whose schema is one."""
    more = {
        "cache_control": {"type": "ephemeral", "ttl": "5m"},
        "container": {
            "id": "id",
            "skills": [{"skill_id": "pdf", "type": "anthropic", "version": "latest"}],
        },
        "diagnostics": {"previous_message_id": "previous_message_id"},
        "inference_geo": "inference_geo",
        "metadata": {"user_id": "13803d75-b4b5-4c3e-b2a2-6f21399b021b"},
        "output_config": {"effort": "low", "format": {"schema": {"foo": "bar"}, "type": "json_schema"}},
        "service_tier": "auto",
        "speed": "standard",
        "thinking": {"type": "adaptive", "display": "updates"},  # as a newer client asks
        "tools": [
            {
                **WEATHER,
                "allowed_callers": ["direct"],
                "cache_control": {"type": "ephemeral", "ttl": "5m"},
                "defer_loading": True,
                "eager_input_streaming": True,
                "input_examples": [{"city": "Paris", "unit": "C"}],
                "strict": True,
                "type": "custom",
            }
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    }
    response = client.messages.with_raw_response.create(
        model=MODEL,
        max_tokens=12,
        messages=ASK,
        stop_sequences=["string"],
        extra_headers={"anthropic-beta": "one-2026-01-01,another"},
        extra_body=more,
    )
    ignored = response.headers.get("mythos-ignored", "")
    return {**facts(response.parse()), "ignored": sorted(name.strip() for name in ignored.split(","))}


def cached():
    long = [{"role": "user", "content": "The story so far: " + "one thing and then another; " * 120}]
    usages = [client.messages.create(model=MODEL, max_tokens=1, messages=long).usage for _ in range(2)]
    return {"usages": [usage.to_dict() for usage in usages]}


def stream_events():
    with client.messages.create(model=MODEL, max_tokens=12, messages=ASK, stream=True) as stream:
        events = [event.to_dict() for event in stream]
    return {"events": events}


def stream_helper():
    with client.messages.stream(model=MODEL, max_tokens=12, messages=ASK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    return {**facts(final), "streamed": text}


async def stream_async():
    async with (
        AsyncAnthropic(base_url=BASE_URL, api_key=KEY, max_retries=0) as own,
        own.messages.stream(model=MODEL, max_tokens=12, messages=ASK) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    return {**facts(final), "streamed": text}


def stopped():
    first = client.messages.create(model=MODEL, max_tokens=12, messages=ASK).content[0].text
    word = first[1:3]
    message = client.messages.create(model=MODEL, max_tokens=12, messages=ASK, stop_sequences=[word])
    return {**facts(message), "word": word, "stop_sequence": message.stop_sequence}


def tools():
    message = client.messages.create(
        model=MODEL, max_tokens=200, messages=ASK, tools=[WEATHER], tool_choice=ONE_TOOL
    )
    return facts(message)


def tools_stream():
    pieces = []
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    with client.messages.stream(
        model=MODEL, max_tokens=200, messages=ASK, tools=[WEATHER], tool_choice=choice
    ) as stream:
        for event in stream:
            if event.type == "input_json":
                pieces.append(event.partial_json)
        final = stream.get_final_message()
    return {**facts(final), "pieces": pieces}


def tool_result():
    use = {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {"city": "Paris", "unit": "C"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_01", "content": "sunny, 21 C"}
    messages = [*ASK, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    return facts(
        client.messages.create(
            model=MODEL, max_tokens=12, messages=messages, tools=[WEATHER], tool_choice={"type": "none"}
        )
    )


def structured():
    message = client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=ASK,
        output_config={"format": {"type": "json_schema", "schema": CITY}},
    )
    return {**facts(message), "parsed": json.loads(message.content[0].text)}


def count_tokens():
    return {"input_tokens": client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens}


def models():
    page = client.models.list(limit=1)
    return {
        "listed": [model.to_dict(mode="json") for model in client.models.list()],
        "page": len(page.data),
        "retrieved": client.models.retrieve(MODEL).to_dict(mode="json"),
    }


def small(base_url=BASE_URL, key=KEY, **changed):
    asked = {"model": MODEL, "max_tokens": 1, "messages": ASK, **changed}
    Anthropic(base_url=base_url, api_key=key, max_retries=0, timeout=60).messages.create(**asked)


def error_400():
    return refusal(lambda: small(max_tokens=-1))


def error_401():
    return refusal(lambda: small(key="sk-mythos-nobody"))


def error_403():
    return refusal(lambda: small(extra_headers={"Origin": "http://elsewhere.example"}))


def error_404():
    return refusal(lambda: small(model="nothing"))


def error_413():
    return refusal(lambda: small(messages=[{"role": "user", "content": "x" * (33 * 2**20)}]))


def error_429():
    def twice():
        small(base_url=OTHERS["limited"])
        small(base_url=OTHERS["limited"])

    return refusal(twice)


def error_500():
    return refusal(lambda: small(base_url=OTHERS["damaged"]))


def error_529():
    return refusal(lambda: small(base_url=OTHERS["stopping"]))


STEPS = [version, create, create_async, conversation, all_fields, cached, stream_events, stream_helper]
STEPS += [stream_async, stopped, tools, tools_stream, tool_result, structured, count_tokens, models]
STEPS += [error_400, error_401, error_403, error_404, error_413, error_429, error_500, error_529]
run(STEPS)
