"""The vendors' own clients against our server (M50, M64, O6): each call they make, each error they raise."""

import anthropic
import jsonschema
import openai
import pytest

from tests.serve.live import NEW, OLD, serve

TOOL = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(params=[None, OLD, NEW])
def claude(live, request):
    """The client as it comes, and with either version forced."""
    headers = {"anthropic-version": request.param} if request.param else {}
    with anthropic.Anthropic(
        base_url=live.base_url, api_key=live.key, max_retries=0, default_headers=headers
    ) as client:
        yield client


@pytest.fixture
def gpt(live):
    with openai.OpenAI(base_url=f"{live.base_url}/v1", api_key=live.stored, max_retries=0) as client:
        yield client


def test_anthropic_create_stream_count(claude):
    message = claude.messages.create(model="small", max_tokens=5, messages=HI)
    assert message.stop_reason in ("max_tokens", "end_turn") and message.usage.output_tokens <= 5
    assert message._request_id.startswith("req_")
    with claude.messages.stream(model="small", max_tokens=5, messages=HI) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(block.text for block in final.content) == text
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == message.usage.input_tokens
    counted = claude.messages.count_tokens(model="small", messages=HI)
    assert counted.input_tokens == message.usage.input_tokens


def test_anthropic_tools_and_structured_output(claude):
    tools = [{"name": "weather", "description": "of a city", "input_schema": TOOL}]
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    messages = list(HI)
    with claude.messages.stream(
        model="small", max_tokens=200, messages=messages, tools=tools, tool_choice=choice
    ) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    (call,) = final.content
    jsonschema.validate(call.input, TOOL)
    messages += [
        {"role": "assistant", "content": final.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]},
    ]
    answer = claude.messages.create(model="small", max_tokens=200, messages=messages, tools=tools)
    assert answer.stop_reason in ("end_turn", "max_tokens", "tool_use")
    wanted = {"format": {"type": "json_schema", "schema": TOOL}}
    answer = claude.messages.create(model="small", max_tokens=200, messages=HI, output_config=wanted)
    assert answer.stop_reason == "end_turn"
    assert answer.content[0].text in ('{"city": "Oslo"}', '{"city": "Rome"}')


def test_anthropic_models(claude):
    assert [model.id for model in claude.models.list(limit=1)] == ["small", "large"]  # follows the pages
    assert claude.models.retrieve("large").lifecycle == "active"


def test_M50_anthropic_errors(live, claude):
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="claude-x", max_tokens=1, messages=HI)
    assert missing.value.type == "not_found_error" and missing.value.request_id.startswith("req_")
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="small", max_tokens=-1, messages=HI)
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="sk-mythos-wrong").models.list()
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.batches.list()


async def _async_stream(live) -> str:
    async with (
        anthropic.AsyncAnthropic(base_url=live.base_url, api_key=live.key) as client,
        client.messages.stream(model="small", max_tokens=5, messages=HI) as stream,
    ):
        return "".join([text async for text in stream.text_stream])


def test_anthropic_async(live):
    import asyncio

    assert asyncio.run(_async_stream(live))


def test_openai_create_stream_tools(gpt):
    answer = gpt.chat.completions.create(model="small", max_tokens=5, messages=HI, seed=1)
    assert answer.choices[0].finish_reason in ("length", "stop") and answer.usage.completion_tokens <= 5
    assert answer._request_id.startswith("req_")
    stream = gpt.chat.completions.create(
        model="small", max_tokens=5, messages=HI, seed=1, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage
    tools = [{"type": "function", "function": {"name": "weather", "parameters": TOOL, "strict": True}}]
    with gpt.chat.completions.stream(
        model="small",
        max_tokens=200,
        messages=HI,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
    ) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert call.function.parsed_arguments["city"] in ("Oslo", "Rome")


def test_openai_parsed_output(gpt):
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        inhabitants: int

    answer = gpt.chat.completions.create(
        model="small",
        max_tokens=400,
        messages=HI,
        temperature=1,
        seed=4,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": City.model_json_schema(), "strict": True},
        },
    )
    if answer.choices[0].finish_reason == "stop":
        City.model_validate_json(answer.choices[0].message.content)


def test_O4_openai_models(gpt):
    assert [model.id for model in gpt.models.list()] == ["small", "large"]
    assert gpt.models.retrieve("small").owned_by == "tiny"


def test_O3_openai_errors(gpt):
    with pytest.raises(openai.NotFoundError) as missing:
        gpt.chat.completions.create(model="gpt-x", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        gpt.chat.completions.create(model="small", messages=HI, n=2)
    with pytest.raises(openai.AuthenticationError):
        gpt.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        gpt.responses.create(model="small", input="Hi")


def test_M44_the_clients_raise_on_an_error_in_the_stream(tiny):
    from tests.serve.live import ENDLESS

    with tiny.engine() as engine, serve(tiny, engine) as live:
        claude = anthropic.Anthropic(base_url=live.base_url, api_key=live.key, max_retries=0)
        endless = claude.messages.stream(model="small", messages=HI, **ENDLESS)
        with pytest.raises(anthropic.APIStatusError) as failed, endless as stream:
            for _ in stream:
                live.service.cancel_running()
        assert failed.value.type == "overloaded_error"
        gpt = openai.OpenAI(base_url=f"{live.base_url}/v1", api_key=live.key, max_retries=0)
        wanted = {"type": "json_schema", "json_schema": {"name": "x", **ENDLESS["output_config"]["format"]}}
        stream = gpt.chat.completions.create(
            model="small", messages=HI, max_tokens=1000, response_format=wanted, stream=True
        )
        with pytest.raises(openai.APIError):
            for _ in stream:
                live.service.cancel_running()
