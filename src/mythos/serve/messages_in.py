"""The Messages request (POST /v1/messages, /v1/messages/count_tokens): checked, and reduced to `Asked`."""

from typing import Any

from mythos.serve.asked import SYSTEM, Asked, Turn
from mythos.serve.blocks import count_cache_control, system_text
from mythos.serve.errors import ApiError, bad
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
from mythos.serve.tools_in import read_tool_choice, read_tools
from mythos.serve.turns import read_turns

OLD_VERSION, NEW_VERSION = "2023-06-01", "2026-10-21"
VERSIONS = (OLD_VERSION, NEW_VERSION)

MAX_STOPS = 64
MAX_STOP_CHARS = 1_000
MAX_CACHE_POINTS = 4

_KNOWN = {
    "model",
    "max_tokens",
    "messages",
    "system",
    "stop_sequences",
    "stream",
    "metadata",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "cache_control",
    "service_tier",
    "speed",
    "inference_geo",
    "container",
    "diagnostics",
    "temperature",
    "top_p",
    "top_k",
}
_SAMPLING = ("temperature", "top_p", "top_k")
_EFFORTS = {"low", "medium", "high", "xhigh", "max"}


def wire_version(given: str, require: bool) -> str:
    """The rule set that `anthropic-version` selects. ApiError 400."""
    if not given:
        if require:
            raise bad("anthropic-version", "header is required", code="version_required")
        return OLD_VERSION
    if given not in VERSIONS:
        shown = given[:40] if given.isascii() and given.isprintable() else "?"
        known = " or ".join(VERSIONS)
        reason = f'"{shown}" is not a valid version; use {known}'
        raise bad("anthropic-version", reason, code="version_unknown")
    return given


def read_messages(
    body: dict[str, Any], version: str, strict: bool, counting: bool = False, sampling_allowed: bool = False
) -> Asked:
    """The request in `body`. `counting` makes max_tokens optional; ApiError 400 names the field at fault.

    `sampling_allowed` accepts sampling fields under the new version too.
    """
    ignored = Ignored(strict)
    ignored.unknown(body, _KNOWN)
    asked = Asked(model=_model(body), turns=[])
    asked.stream = as_bool(body["stream"], "stream") if body.get("stream") is not None else False
    if not counting or "max_tokens" in body:
        asked.max_tokens = as_int(required(body, "max_tokens"), "max_tokens", low=0)
    _read_sampling(body, asked, version, sampling_allowed)
    asked.stop = _read_stops(body)
    points = count_cache_control(body)
    if points > MAX_CACHE_POINTS:
        found = f"Found {points}."
        raise ApiError(
            400, f"A maximum of {MAX_CACHE_POINTS} blocks with cache_control may be provided. {found}"
        )
    asked.tools = read_tools(body.get("tools"), ignored)
    asked.choice, asked.parallel = read_tool_choice(body.get("tool_choice"), asked.tools, ignored)
    system = system_text(body.get("system"), ignored)
    if system:
        asked.turns.append(Turn(SYSTEM, system))
    turns, asked.prefill = read_turns(required(body, "messages"), version, ignored)
    asked.turns += turns
    _read_thinking(body, asked, ignored)
    _read_output(body, asked, ignored)
    _read_rest(body, ignored)
    _check_together(asked)
    asked.ignored = list(ignored.names)
    return asked


def _model(body: dict[str, Any]) -> str:
    name = as_str(required(body, "model"), "model")
    if not 1 <= len(name) <= 256:
        raise bad("model", "String should have 1 to 256 characters")
    return name


def _read_sampling(body: dict[str, Any], asked: Asked, version: str, allowed: bool) -> None:
    for name in _SAMPLING:
        if name in body and version == NEW_VERSION and not allowed:
            raise bad(f"`{name}`", "Extra inputs are not permitted", code="sampling_field")
    if body.get("temperature") is not None:
        asked.temperature = as_number(body["temperature"], "temperature", 0, 1)
    if body.get("top_p") is not None:
        asked.top_p = as_number(body["top_p"], "top_p", 0, 1)
    if body.get("top_k") is not None:
        asked.top_k = as_int(body["top_k"], "top_k", low=0, high=2**31)


def _read_stops(body: dict[str, Any]) -> tuple[str, ...]:
    given = body.get("stop_sequences")
    if given is None:
        return ()
    rows = as_list(given, "stop_sequences")
    if len(rows) > MAX_STOPS:
        raise bad("stop_sequences", f"at most {MAX_STOPS} are allowed")
    for i, text in enumerate(rows):
        where = f"stop_sequences.{i}"
        if len(as_str(text, where)) > MAX_STOP_CHARS:
            raise bad(where, f"at most {MAX_STOP_CHARS} characters are allowed")
        if not text.strip():
            raise bad("stop_sequences", "each stop sequence must contain non-whitespace")
    return tuple(rows)


def _read_thinking(body: dict[str, Any], asked: Asked, ignored: Ignored) -> None:
    given = body.get("thinking")
    if given is None:
        return
    as_object(given, "thinking")
    ignored.unknown(given, {"type", "budget_tokens", "display"}, "thinking")
    kind = one_of(
        required(given, "type", "thinking"),
        "thinking.type",
        {"enabled", "disabled", "adaptive", "between_tools"},
    )
    if kind == "enabled":
        budget = as_int(required(given, "budget_tokens", "thinking"), "thinking.budget_tokens", low=1024)
        if asked.max_tokens is not None and budget >= asked.max_tokens:
            raise bad("max_tokens", "`max_tokens` must be greater than `thinking.budget_tokens`")
    if given.get("display") is not None:
        ignored.value(given["display"], "thinking.display", {"summarized", "omitted"})
    if kind != "disabled":
        ignored.name("thinking")


def _read_output(body: dict[str, Any], asked: Asked, ignored: Ignored) -> None:
    given = body.get("output_config")
    if given is None:
        return
    as_object(given, "output_config")
    ignored.unknown(given, {"effort", "format"}, "output_config")
    if given.get("effort") is not None:
        ignored.value(given["effort"], "output_config.effort", _EFFORTS)
        ignored.name("output_config.effort")
    wanted = given.get("format")
    if wanted is not None:
        path = "output_config.format"
        as_object(wanted, path)
        one_of(required(wanted, "type", path), f"{path}.type", {"json_schema"})
        ignored.unknown(wanted, {"type", "schema"}, path)
        asked.schema = as_object(required(wanted, "schema", path), f"{path}.schema")
        asked.schema_path = f"{path}.schema"


def _read_rest(body: dict[str, Any], ignored: Ignored) -> None:
    """Fields that are checked and then have no effect here."""
    metadata = body.get("metadata")
    if metadata is not None:
        as_object(metadata, "metadata")
        ignored.unknown(metadata, {"user_id"}, "metadata")
        if metadata.get("user_id") is not None and len(as_str(metadata["user_id"], "metadata.user_id")) > 512:
            raise bad("metadata.user_id", "at most 512 characters are allowed")
    if body.get("service_tier") is not None:
        ignored.value(body["service_tier"], "service_tier", {"auto", "standard_only"})
    if body.get("speed") is not None:
        ignored.value(body["speed"], "speed", {"standard", "fast"})
        if body["speed"] == "fast":
            ignored.name("speed")
    for name in ("inference_geo", "container", "diagnostics"):
        if body.get(name) is not None:
            ignored.name(name)


def _check_together(asked: Asked) -> None:
    forced = asked.choice == "any" or asked.choice.startswith("=")
    if asked.max_tokens == 0:
        schema = asked.schema is not None
        clashes = {"stream": asked.stream, "tool_choice": forced, "output_config.format": schema}
        for name, set_too in clashes.items():
            if set_too:
                raise bad("max_tokens", f"0 cannot be combined with `{name}`")
    if asked.prefill and (forced or asked.schema is not None):
        raise bad("messages", "a final assistant message cannot be combined with a forced tool or format")
    if forced and asked.schema is not None:
        raise bad("tool_choice", "a forced tool cannot be combined with `output_config.format`")
