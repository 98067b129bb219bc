"""The chat completions request (POST /v1/chat/completions): checked, and reduced to `Asked`."""

from typing import Any

from mythos.engine.request import Lane
from mythos.serve.asked import ASSISTANT, SYSTEM, USER, Asked, Tool, Turn, call_text, result_text
from mythos.serve.body import parse_object
from mythos.serve.errors import ApiError, bad, clean
from mythos.serve.fields import (
    Ignored,
    as_bool,
    as_int,
    as_list,
    as_number,
    as_object,
    as_str,
    one_of,
    required,
)
from mythos.serve.tools_in import MAX_TOOLS, description_of, tool_name

MAX_MESSAGES = 100_000
MAX_STOPS = 4
MAX_STOP_CHARS = 1_000
MAX_LOGPROBS = 20

_ACTED_UPON = {
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "seed",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "stream",
    "stream_options",
    "modalities",
    "service_tier",
}
# Bookkeeping of the caller's own: nothing is lost when nothing is done with it.
_HARMLESS = {
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
}
# What would have changed the answer: named in a header when set.
_NO_EFFECT = {
    "reasoning_effort",
    "verbosity",
    "store",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "prediction",
    "functions",
    "function_call",
    "web_search_options",
    "moderation",
    "audio",
}
_SERVICE_TIERS = {"auto", "default", "flex", "priority", "scale", "fast"}
_ROLES = {"developer", "system", "user", "assistant", "tool"}


def read_chat(body: dict[str, Any], strict: bool) -> Asked:
    """The request in `body`. ApiError 400 names the field at fault."""
    ignored = Ignored(strict)
    ignored.unknown(body, _ACTED_UPON | _HARMLESS | _NO_EFFECT)
    for name in sorted(_NO_EFFECT):
        if body.get(name):
            ignored.name(name)
    model = as_str(required(body, "model"), "model")
    if not 1 <= len(model) <= 256:
        raise bad("model", "must have 1 to 256 characters")
    asked = Asked(model=model, turns=_read_turns(required(body, "messages"), ignored))
    _read_numbers(body, asked)
    _read_stream(body, asked, ignored)
    if body.get("service_tier") is not None:
        ignored.value(body["service_tier"], "service_tier", _SERVICE_TIERS)
        asked.lane = Lane.BATCH if body["service_tier"] == "flex" else Lane.INTERACTIVE
    asked.stop = _read_stop(body.get("stop"))
    asked.tools = _read_tools(body.get("tools"), ignored)
    asked.choice = _read_choice(body.get("tool_choice"), asked.tools)
    if body.get("parallel_tool_calls") is not None:
        asked.parallel = as_bool(body["parallel_tool_calls"], "parallel_tool_calls")
    _read_format(body.get("response_format"), asked, ignored)
    if asked.schema is not None and (asked.choice == "any" or asked.choice.startswith("=")):
        raise bad("response_format", "cannot be combined with a forced tool")
    asked.ignored = list(ignored.names)
    return asked


def _read_numbers(body: dict[str, Any], asked: Asked) -> None:
    for name in ("max_tokens", "max_completion_tokens"):  # the newer name wins
        if body.get(name) is not None:
            asked.max_tokens = as_int(body[name], name, low=0)
    if body.get("temperature") is not None:
        asked.temperature = as_number(body["temperature"], "temperature", 0, 2)
    if body.get("top_p") is not None:
        asked.top_p = as_number(body["top_p"], "top_p", 0, 1)
    if body.get("seed") is not None:
        asked.seed = as_int(body["seed"], "seed")
    if body.get("n") is not None and as_int(body["n"], "n", low=1) != 1:
        raise bad("n", "only one choice per request is supported")
    wanted = body.get("logprobs") is not None and as_bool(body["logprobs"], "logprobs")
    top = body.get("top_logprobs")
    if top is not None and as_int(top, "top_logprobs", 0, MAX_LOGPROBS) and not wanted:
        raise bad("top_logprobs", "needs `logprobs` to be true")
    if wanted:
        asked.logprobs = top or 0
    modalities = body.get("modalities")
    if modalities is not None and as_list(modalities, "modalities") != ["text"]:
        raise bad("modalities", 'this model answers in text only: use ["text"]', code="text_only")


def _read_stream(body: dict[str, Any], asked: Asked, ignored: Ignored) -> None:
    asked.stream = body.get("stream") is not None and as_bool(body["stream"], "stream")
    options = body.get("stream_options")
    if options is not None:
        as_object(options, "stream_options")
        ignored.unknown(options, {"include_usage", "include_obfuscation"}, "stream_options")
        wanted = options.get("include_usage")
        asked.include_usage = wanted is not None and as_bool(wanted, "stream_options.include_usage")


def _read_stop(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    rows = [given] if isinstance(given, str) else as_list(given, "stop")
    if len(rows) > MAX_STOPS:
        raise bad("stop", f"at most {MAX_STOPS} are allowed")
    for i, text in enumerate(rows):
        if not 1 <= len(as_str(text, f"stop.{i}")) <= MAX_STOP_CHARS:
            raise bad(f"stop.{i}", f"must have 1 to {MAX_STOP_CHARS} characters")
    return tuple(rows)


def _read_turns(given: Any, ignored: Ignored) -> list[Turn]:
    rows = as_list(given, "messages")
    if not rows:
        raise bad("messages", "at least one message is required")
    if len(rows) > MAX_MESSAGES:
        raise bad("messages", f"at most {MAX_MESSAGES} messages are allowed")
    turns: list[Turn] = []
    pending: dict[str, None] = {}  # calls that the next messages must answer
    for i, row in enumerate(rows):
        path = f"messages.{i}"
        as_object(row, path)
        role = one_of(required(row, "role", path), f"{path}.role", _ROLES)
        if role == "tool":
            turns.append(_tool_result(row, path, pending, ignored))
            continue
        if pending:
            raise _unanswered(i, pending)
        if role == "assistant":
            turns.append(_assistant(row, path, pending, ignored))
            continue
        ignored.unknown(row, {"role", "content", "name"}, path)
        text = _content(required(row, "content", path), f"{path}.content")
        turns.append(Turn(USER if role == "user" else SYSTEM, text))
    if pending:
        raise _unanswered(len(rows), pending)
    return turns


def _unanswered(i: int, pending: dict[str, None]) -> ApiError:
    ids = ", ".join(list(pending)[:10])
    reason = f"'tool_calls' must be followed by tool messages for each 'tool_call_id'; missing: {ids}"
    return bad(f"messages.{i - 1}", f"an assistant message with {reason}")


def _tool_result(row: dict[str, Any], path: str, pending: dict[str, None], ignored: Ignored) -> Turn:
    ignored.unknown(row, {"role", "content", "tool_call_id", "name"}, path)
    call_id = as_str(required(row, "tool_call_id", path), f"{path}.tool_call_id")
    if call_id not in pending:
        reason = "a tool message must answer a tool call of the assistant message before it"
        raise bad(f"{path}.tool_call_id", reason)
    del pending[call_id]
    return Turn(USER, result_text(_content(required(row, "content", path), f"{path}.content"), False))


def _assistant(row: dict[str, Any], path: str, pending: dict[str, None], ignored: Ignored) -> Turn:
    known = {"role", "content", "name", "refusal", "tool_calls", "audio", "function_call", "annotations"}
    ignored.unknown(row, known, path)
    parts = []
    if row.get("content") is not None:
        parts.append(_content(row["content"], f"{path}.content"))
    if row.get("refusal") is not None:
        parts.append(as_str(row["refusal"], f"{path}.refusal"))
    calls = row.get("tool_calls")
    for j, call in enumerate(as_list(calls, f"{path}.tool_calls") if calls is not None else ()):
        where = f"{path}.tool_calls.{j}"
        as_object(call, where)
        one_of(call.get("type", "function"), f"{where}.type", {"function"})
        inside = f"{where}.function"
        function = as_object(required(call, "function", where), inside)
        name = tool_name(function, inside)
        arguments = as_str(required(function, "arguments", inside), f"{inside}.arguments")
        call_id = as_str(required(call, "id", where), f"{where}.id")
        if not 1 <= len(call_id) <= 256 or not call_id.isprintable() or call_id in pending:
            raise bad(f"{where}.id", "must be unique and have 1 to 256 printable characters")
        pending[call_id] = None
        parts.append(call_text(name, _arguments(arguments, f"{inside}.arguments")))
    return Turn(ASSISTANT, "\n".join(part for part in parts if part))


def _arguments(text: str, path: str) -> bytes:
    try:
        parse_object(text.encode() or b"{}", depth=100)
    except ApiError:
        raise bad(path, "must be a JSON object in a string") from None
    return text.encode() or b"{}"


def _content(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    parts = []
    for i, part in enumerate(as_list(value, path)):
        where = f"{path}.{i}"
        as_object(part, where)
        kind = as_str(required(part, "type", where), f"{where}.type")
        if kind not in ("text", "refusal"):
            reason = f"this model reads text only: `{clean(kind)}` is not supported"
            raise bad(where, reason, code="text_only")
        parts.append(as_str(required(part, kind, where), f"{where}.{kind}"))
    return "\n\n".join(parts)


def _read_tools(given: Any, ignored: Ignored) -> tuple[Tool, ...]:
    if given is None:
        return ()
    rows = as_list(given, "tools")
    if len(rows) > MAX_TOOLS:
        raise bad("tools", f"at most {MAX_TOOLS} tools are allowed")
    tools = []
    for i, row in enumerate(rows):
        path = f"tools.{i}"
        as_object(row, path)
        kind = as_str(required(row, "type", path), f"{path}.type")
        if kind != "function":
            raise bad(f"{path}.type", f"tools of type `{clean(kind)}` are not supported by this server")
        ignored.unknown(row, {"type", "function"}, path)
        function = as_object(required(row, "function", path), f"{path}.function")
        ignored.unknown(function, {"name", "description", "parameters", "strict"}, f"{path}.function")
        if function.get("strict") is not None:
            as_bool(function["strict"], f"{path}.function.strict")
        schema = function.get("parameters")
        schema = as_object({} if schema is None else schema, f"{path}.function.parameters")
        if schema.setdefault("type", "object") != "object":
            raise bad(f"{path}.function.parameters.type", "Input should be 'object'")
        name = tool_name(function, f"{path}.function")
        tools.append(Tool(name, description_of(function, f"{path}.function"), schema))
    if len({tool.name for tool in tools}) != len(tools):
        raise bad("tools", "Tool names must be unique")
    return tuple(tools)


def _read_choice(given: Any, tools: tuple[Tool, ...]) -> str:
    if given is None:
        return "auto"
    if isinstance(given, str):
        one_of(given, "tool_choice", {"none", "auto", "required"})
        if given == "required" and not tools:
            raise bad("tool_choice", "may only be 'required' while providing `tools`")
        return "any" if given == "required" else given
    as_object(given, "tool_choice")
    one_of(required(given, "type", "tool_choice"), "tool_choice.type", {"function"})
    function = as_object(required(given, "function", "tool_choice"), "tool_choice.function")
    name = as_str(required(function, "name", "tool_choice.function"), "tool_choice.function.name")
    if all(tool.name != name for tool in tools):
        raise bad("tool_choice.function.name", f"'{clean(name)}' not found in provided tools")
    return f"={name}"


def _read_format(given: Any, asked: Asked, ignored: Ignored) -> None:
    if given is None:
        return
    as_object(given, "response_format")
    kind = one_of(
        required(given, "type", "response_format"),
        "response_format.type",
        {"text", "json_object", "json_schema"},
    )
    if kind == "json_object":
        asked.schema = {"type": "object"}
        asked.schema_path = "response_format"
    elif kind == "json_schema":
        path = "response_format.json_schema"
        wanted = as_object(required(given, "json_schema", "response_format"), path)
        ignored.unknown(wanted, {"name", "description", "schema", "strict"}, path)
        as_str(required(wanted, "name", path), f"{path}.name")
        schema = wanted.get("schema")
        asked.schema = as_object({} if schema is None else schema, f"{path}.schema")
        asked.schema_path = f"{path}.schema"
