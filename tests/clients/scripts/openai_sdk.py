"""What a user of the openai package does, in either major version.

python openai_sdk.py BASE_URL KEY MODEL [limited=URL] [damaged=URL] [stopping=URL]
"""

import json
import sys

import openai
from openai import AsyncOpenAI, OpenAI
from steps import refusal, run

BASE_URL, KEY, MODEL = sys.argv[1:4]
OTHERS = dict(word.split("=", 1) for word in sys.argv[4:])
client = OpenAI(base_url=BASE_URL + "/v1", api_key=KEY, max_retries=0, timeout=120)
ASK = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["name", "large"],
    "additionalProperties": False,
}


def ask(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": ASK, "max_tokens": 12, **more})


def version():
    return {"version": openai.__version__}


def create():
    completion = ask()
    return {**completion.to_dict(), "request_id": completion._request_id}


async def create_async():
    async with AsyncOpenAI(base_url=BASE_URL + "/v1", api_key=KEY, max_retries=0) as own:
        completion = await own.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=12)
    return completion.to_dict()


def roles():
    messages = [
        {"role": "developer", "content": "Answer briefly."},
        *ASK,
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": [{"type": "text", "text": "And of Italy?"}]},
    ]
    return ask(messages=messages, temperature=0, seed=1).to_dict()


def all_fields():
    """What the package's own tests send, where it would change an answer, and a harmless one."""
    more = {
        "audio": {"format": "wav", "voice": "alloy"},
        "frequency_penalty": -2,
        "function_call": "none",
        "functions": [{"name": "name"}],
        "logit_bias": {"foo": 0},
        "modalities": ["text"],
        "moderation": {"model": "model"},
        "prediction": {"content": "string", "type": "content"},
        "presence_penalty": -2,
        "prompt_cache_key": "prompt-cache-key-1234",
        "reasoning_effort": "none",
        "store": True,
        "user": "user-1234",
        "verbosity": "low",
        "web_search_options": {"search_context_size": "low"},
        "unheard_of": 1,
    }
    response = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, max_tokens=12, extra_body=more
    )
    ignored = response.headers.get("mythos-ignored", "")
    return {**response.parse().to_dict(), "ignored": sorted(name.strip() for name in ignored.split(","))}


def stream():
    with ask(stream=True, stream_options={"include_usage": True}) as chunks:
        return {"chunks": [chunk.to_dict() for chunk in chunks]}


async def stream_async():
    async with AsyncOpenAI(base_url=BASE_URL + "/v1", api_key=KEY, max_retries=0) as own:
        chunks = await own.chat.completions.create(model=MODEL, messages=ASK, max_tokens=12, stream=True)
        return {"chunks": [chunk.to_dict() async for chunk in chunks]}


def stream_helper():
    """This helper raises when an answer was cut off, so it asks for one that ends."""
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, max_tokens=200, response_format=wanted
    ) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion()
    return {"kinds": sorted(set(kinds)), "final": final.to_dict()}


def tools():
    return ask(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=200).to_dict()


def tools_stream():
    pieces = []
    with client.chat.completions.stream(
        model=MODEL,
        messages=ASK,
        max_tokens=200,
        tools=[WEATHER],
        parallel_tool_calls=False,
        tool_choice={"type": "function", "function": {"name": "weather"}},
    ) as events:
        for event in events:
            if event.type == "tool_calls.function.arguments.delta":
                pieces.append(event.arguments_delta)
        final = events.get_final_completion()
    return {"pieces": pieces, "final": final.to_dict()}


def tool_result():
    call = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "weather", "arguments": '{"city":"Paris","unit":"C"}'}
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 C"},
    ]
    return ask(messages=messages, tools=[WEATHER], tool_choice="none").to_dict()


def structured():
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    completion = ask(response_format=wanted, max_tokens=200)
    return {**completion.to_dict(), "parsed": json.loads(completion.choices[0].message.content)}


def models():
    return {
        "listed": [model.to_dict(mode="json") for model in client.models.list()],
        "retrieved": client.models.retrieve(MODEL).to_dict(mode="json"),
    }


def small(base_url=BASE_URL, key=KEY, **changed):
    asked = {"model": MODEL, "max_tokens": 1, "messages": ASK, **changed}
    OpenAI(base_url=base_url + "/v1", api_key=key, max_retries=0, timeout=60).chat.completions.create(**asked)


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


def error_503():
    return refusal(lambda: small(base_url=OTHERS["stopping"]))


STEPS = [version, create, create_async, roles, all_fields, stream, stream_async, stream_helper]
STEPS += [tools, tools_stream, tool_result, structured, models]
STEPS += [error_400, error_401, error_403, error_404, error_413, error_429, error_500, error_503]
run(STEPS)
