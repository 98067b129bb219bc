"""Tools and tool_choice of a Messages request."""

import re
from typing import Any

from mythos.serve.asked import Tool
from mythos.serve.errors import bad, clean
from mythos.serve.fields import Ignored, as_bool, as_list, as_object, as_str, one_of, required

MAX_TOOLS = 256
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")

_KNOWN = {"type", "name", "description", "input_schema", "cache_control", "strict"}
_NO_EFFECT = ("defer_loading", "eager_input_streaming", "input_examples", "allowed_callers")


def read_tools(given: Any, ignored: Ignored) -> tuple[Tool, ...]:
    """The tools of a request. ApiError 400."""
    if given is None:
        return ()
    rows = as_list(given, "tools")
    if len(rows) > MAX_TOOLS:
        raise bad("tools", f"at most {MAX_TOOLS} tools are allowed")
    tools = [_read_tool(row, f"tools.{i}", ignored) for i, row in enumerate(rows)]
    if len({tool.name for tool in tools}) != len(tools):
        raise bad("tools", "Tool names must be unique")
    return tuple(tools)


def _read_tool(row: Any, path: str, ignored: Ignored) -> Tool:
    as_object(row, path)
    kind = row.get("type")
    if kind is not None and kind != "custom":
        raise bad(f"{path}.type", f"tools of type `{clean(str(kind))}` are not supported by this server")
    ignored.unknown(row, {*_KNOWN, *_NO_EFFECT}, path)
    for name in _NO_EFFECT:
        if row.get(name):
            ignored.name(f"tools.{name}")
    if row.get("strict") is not None:
        as_bool(row["strict"], f"{path}.strict")
    schema = as_object(required(row, "input_schema", path), f"{path}.input_schema")
    if schema.get("type") != "object":
        raise bad(f"{path}.input_schema.type", "Input should be 'object'")
    return Tool(tool_name(row, path), description_of(row, path), schema)


def tool_name(row: dict[str, Any], path: str) -> str:
    """The field `name`: it goes into a grammar and into the prompt, so its alphabet is small."""
    name = as_str(required(row, "name", path), f"{path}.name")
    if not NAME.fullmatch(name):
        raise bad(f"{path}.name", f"String should match pattern '^{NAME.pattern}$'")
    return name


def description_of(row: dict[str, Any], path: str) -> str:
    given = row.get("description")
    return "" if given is None else as_str(given, f"{path}.description")


def read_tool_choice(given: Any, tools: tuple[Tool, ...], ignored: Ignored) -> tuple[str, bool]:
    """(choice, parallel): choice is auto, any, none or "=NAME". ApiError 400."""
    if given is None:
        return "auto", True
    as_object(given, "tool_choice")
    kind = one_of(required(given, "type", "tool_choice"), "tool_choice.type", {"auto", "any", "tool", "none"})
    ignored.unknown(given, {"type", "name", "disable_parallel_tool_use"}, "tool_choice")
    single = given.get("disable_parallel_tool_use")
    parallel = not (single is not None and as_bool(single, "tool_choice.disable_parallel_tool_use"))
    if kind in ("any", "tool") and not tools:
        raise bad("tool_choice", f"`{kind}` may only be specified while providing `tools`")
    if kind != "tool":
        return kind, parallel
    name = as_str(required(given, "name", "tool_choice"), "tool_choice.name")
    if all(tool.name != name for tool in tools):
        raise bad("tool_choice.name", f"Tool '{clean(name)}' not found in provided tools")
    return f"={name}", parallel
