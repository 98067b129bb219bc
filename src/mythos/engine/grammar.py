"""Constrained decoding: from a JSON schema or a list of tools to an llguidance grammar.

What the grammar lets through always parses and fits the schema. A schema keyword that cannot be held to is
reported by its path instead of being ignored; words that are no JSON Schema keywords are annotations
(JSON Schema 2020-12, core 6.5) and are dropped. No torch here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_SCHEMA_BYTES = 65_536  # of one schema
MAX_DEPTH = 32  # of schemas inside schemas
MAX_NODES = 4_000  # schemas inside one schema
MAX_BOUND = 10_000  # of minItems, maxLength and their like
MAX_CALLS = 8  # tool calls in one answer

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"

# One fixed layout: forced tokens cost the model nothing, and it cannot wander off in blanks.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# For whoever runs the grammar, too. A mask that needs more (about 10 ms of work) ends its request.
LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_ONE = {"items", "additionalProperties"}
_MANY = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED = {"properties", "patternProperties", "$defs", "definitions"}
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_UNSUPPORTED = {
    "not",
    "if",
    "contains",
    "propertyNames",
    "uniqueItems",
    "additionalItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "$dynamicRef",
    "$recursiveRef",
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}


class SchemaError(ValueError):
    """A schema that cannot be held to: `path` is a JSON pointer into it, `reason` says what is wrong."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or '/'}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ToolShape:
    """What the grammar needs of a tool: `name` matches [a-zA-Z0-9_-]+, `schema` is that of its input."""

    name: str
    schema: dict[str, Any]


def json_schema_grammar(schema: dict[str, Any] | bool) -> str:
    """The grammar of JSON texts that fit `schema`. Raises SchemaError."""
    return _checked(LLMatcher.grammar_from_lark(f"start: {_json_rule(clean_schema(schema))}\n"), schema)


def tools_grammar(
    tools: Sequence[ToolShape],
    choice: str = "auto",
    parallel: bool = True,
    output: dict[str, Any] | None = None,
) -> str:
    """The grammar of answers that may call tools: `<tool_call>{"name": "N", "input": {...}}</tool_call>`.

    `choice` is auto (text, calls, or text and then calls), any (calls only), or "=N" (calls of the tool N).
    With `output`, an answer without a call is JSON that fits that schema. Raises SchemaError.
    """
    allowed = [t for t in tools if not choice.startswith("=") or t.name == choice[1:]]
    if not allowed:
        raise SchemaError("", "there is no tool to call")
    rules = [
        f"tool_{i}: {json.dumps(_call_head(t.name))} {_json_rule(_object(clean_schema(t.schema)))}"
        f" {json.dumps('}' + CALL_CLOSE)}"
        for i, t in enumerate(allowed)
    ]
    rules.append("tool: " + " | ".join(f"tool_{i}" for i in range(len(allowed))))
    more = f" ({json.dumps(chr(10) + CALL_OPEN)} tool){{0,{MAX_CALLS - 1}}}" if parallel else ""
    opened = f"{json.dumps(CALL_OPEN)} tool{more}"
    if choice != "auto":
        rules.append(f"start: {opened}")
    elif output is not None:
        rules.append(f"start: json | {opened}\njson: {_json_rule(clean_schema(output))}")
    else:
        rules.append(
            f"start: TEXT | head tool{more}\n"
            f"TEXT: /(?s:.*)/ & ~/(?s:.*){CALL_OPEN}(?s:.*)/\n"
            f"head[lazy]: /(?s:.*){CALL_OPEN}/"
        )
    grammar = LLMatcher.grammar_from_lark("\n".join(rules) + "\n")
    for tool in allowed:  # one by one, so that the message names the place
        json_schema_grammar(tool.schema)
    if output is not None:
        json_schema_grammar(output)
    return _checked(grammar, {})


def unsupported_keywords(schema: Any) -> list[str]:
    """JSON pointers to the keywords of `schema` that are JSON Schema's but cannot be held to."""
    found: list[str] = []
    _walk(schema, "", 0, [0], found)
    return found


def clean_schema(schema: Any) -> dict[str, Any]:
    """`schema` without annotations and unknown words, closed where that narrows it. Raises SchemaError."""
    size = len(json.dumps(schema, ensure_ascii=False))
    if size > MAX_SCHEMA_BYTES:
        raise SchemaError("", f"the schema is {size} bytes long; {MAX_SCHEMA_BYTES} are allowed")
    found: list[str] = []
    cleaned = _walk(schema, "", 0, [0], found)
    if found:
        raise SchemaError(found[0], f"the keyword `{_unescape(found[0])}` is not supported")
    root = cleaned if isinstance(cleaned, dict) else _everything(cleaned)
    if not _combined(root):
        _close(root)
    _check_refs(root)
    return root


def _call_head(name: str) -> str:
    return f'{{"name": {json.dumps(name)}, "input": '


def _json_rule(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _LAYOUT})


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}


def _everything(allowed: bool) -> dict[str, Any]:
    if not allowed:
        raise SchemaError("", "the schema allows nothing")
    return {}


def _unescape(path: str) -> str:
    return path.rsplit("/", 1)[-1].replace("~1", "/").replace("~0", "~")


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _walk(schema: Any, path: str, depth: int, nodes: list[int], found: list[str]) -> dict[str, Any] | bool:
    """A copy of `schema` with known keywords only; paths of those that cannot be held to go into `found`."""
    nodes[0] += 1
    if nodes[0] > MAX_NODES:
        raise SchemaError(path, f"more than {MAX_NODES} schemas inside one schema")
    if depth > MAX_DEPTH:
        raise SchemaError(path, f"schemas are nested deeper than {MAX_DEPTH}")
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise SchemaError(path, "a schema must be an object or a boolean")
    out: dict[str, Any] = {}
    for word, value in schema.items():
        here = f"{path}/{_escape(word)}"
        if word in _UNSUPPORTED:
            if not _vacuous(word, value):
                found.append(here)
        elif word in _NAMED:
            if not isinstance(value, dict):
                raise SchemaError(here, "must be an object")
            out[word] = {
                k: _walk(v, f"{here}/{_escape(k)}", depth + 1, nodes, found) for k, v in value.items()
            }
        elif word in _MANY:
            if not isinstance(value, list) or not value:
                raise SchemaError(here, "must be a non-empty array")
            out[word] = [_walk(v, f"{here}/{i}", depth + 1, nodes, found) for i, v in enumerate(value)]
        elif word in _ONE:
            if isinstance(value, list):  # the form of drafts before 2020-12
                found.append(here)
            else:
                out[word] = _walk(value, here, depth + 1, nodes, found)
        else:
            _plain(schema, word, value, here, out, found)
    return out


def _plain(
    schema: dict[str, Any], word: str, value: Any, here: str, out: dict[str, Any], found: list[str]
) -> None:
    """A keyword that holds no schema."""
    if word == "type":
        names = value if isinstance(value, list) else [value]
        if not names or any(not isinstance(n, str) or n not in _TYPES for n in names):
            raise SchemaError(here, f"must be one of {', '.join(sorted(_TYPES))}")
        out[word] = value
    elif word == "enum":
        if not isinstance(value, list) or not value:
            raise SchemaError(here, "must be a non-empty array")
        out[word] = value
    elif word == "const":
        out[word] = value
    elif word == "required":
        if not isinstance(value, list) or any(not isinstance(v, str) for v in value):
            raise SchemaError(here, "must be an array of strings")
        out[word] = value
    elif word == "pattern":
        if not isinstance(value, str):
            raise SchemaError(here, "must be a string")
        out[word] = value
    elif word == "format":
        if isinstance(value, str) and value in _FORMATS:  # any other format is an annotation
            out[word] = value
    elif word in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SchemaError(here, "must be a non-negative integer")
        if value > MAX_BOUND:
            if word.startswith("max"):
                return _narrow(word, out)
            raise SchemaError(here, f"must be at most {MAX_BOUND}")
        named = schema.get("required")
        if word == "minProperties" and value > max(1, len(named) if isinstance(named, list) else 0):
            found.append(here)  # keys of a free-form object may repeat, so they cannot be counted
            return
        out[word] = value
    elif word in _NUMBERS:
        if isinstance(value, bool):  # draft 4
            found.append(here)
            return
        if not isinstance(value, int | float):
            raise SchemaError(here, "must be a number")
        out[word] = value
    elif word == "$ref":
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            found.append(here)  # only places in the same schema
            return
        out[word] = value


def _narrow(word: str, out: dict[str, Any]) -> None:
    # An upper bound may always be lowered: what fits the lower one fits the higher one.
    out[word] = MAX_BOUND


def _vacuous(word: str, value: Any) -> bool:
    """Whether an unsupported keyword asks for nothing here."""
    if word == "uniqueItems":
        return value is False
    if word == "propertyNames":
        return value is True or (isinstance(value, dict) and set(value) <= {"type"} and _names_only(value))
    return value is True and word in ("additionalItems", "unevaluatedItems", "unevaluatedProperties")


def _names_only(value: dict[str, Any]) -> bool:
    return value.get("type", "string") == "string"


def _combined(schema: Any) -> bool:
    """Whether schemas are intersected anywhere: then closing one could make the whole unsatisfiable."""
    if isinstance(schema, list):
        return any(_combined(v) for v in schema)
    if not isinstance(schema, dict):
        return False
    joins = {"allOf", "anyOf", "oneOf", "$ref"} & set(schema)
    others = set(schema) - joins - {"$defs", "definitions"}
    if "allOf" in joins or len(joins) > 1 or (joins and others):
        return True
    return any(
        _combined(list(value.values()) if word in _NAMED else value)
        for word, value in schema.items()
        if word in _NAMED | _MANY | _ONE
    )


def _close(schema: Any) -> None:
    """Forbid undeclared properties where properties are declared and nothing is said: always narrower."""
    if isinstance(schema, list):
        for value in schema:
            _close(value)
    if not isinstance(schema, dict):
        return
    declared = schema.get("properties")
    if (
        declared
        and "additionalProperties" not in schema
        and "patternProperties" not in schema
        and set(schema.get("required", ())) <= set(declared)
    ):
        schema["additionalProperties"] = False
    for word, value in schema.items():
        if word in _NAMED:
            _close(list(value.values()))
        elif word in _MANY | _ONE:
            _close(value)


def _check_refs(root: dict[str, Any]) -> None:
    """Every `$ref` leads to a schema that stays, and no chain of them runs in a circle."""
    stack: list[tuple[Any, str]] = [(root, "")]
    while stack:
        node, path = stack.pop()
        if not isinstance(node, dict):
            continue
        seen: set[int] = set()
        target = node
        while isinstance(target, dict) and "$ref" in target:
            if id(target) in seen:
                raise SchemaError(f"{path}/$ref", "the references run in a circle")
            seen.add(id(target))
            target = _resolve(root, target["$ref"], f"{path}/$ref")
        for word, value in node.items():
            if word in _NAMED:
                stack += [(v, f"{path}/{_escape(word)}/{_escape(k)}") for k, v in value.items()]
            elif word in _MANY:
                stack += [(v, f"{path}/{word}/{i}") for i, v in enumerate(value)]
            elif word in _ONE:
                stack.append((value, f"{path}/{word}"))


def _resolve(root: dict[str, Any], ref: str, path: str) -> Any:
    node: Any = root
    for part in ref.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            raise SchemaError(path, f"`{ref[:80]}` leads nowhere")
    if not isinstance(node, dict | bool):
        raise SchemaError(path, f"`{ref[:80]}` is no schema")
    return node


def _checked(grammar: str, schema: Any) -> str:
    """`grammar` itself when it compiles and lets at least one answer begin."""
    reason = _fault(grammar)
    if reason is None:
        return grammar
    path, reason = _locate(clean_schema(schema), reason)
    raise SchemaError(path, reason)


def _fault(grammar: str) -> str | None:
    """Why llguidance cannot follow `grammar`, in one line, or None."""
    matcher = LLMatcher(_byte_tokenizer(), grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if not matcher.is_error():
        return None
    lines = [line.strip() for line in matcher.get_error().splitlines() if line.strip()]
    said = lines[-1] if lines and lines[0].startswith("regex parse error") else (lines or ["too complex"])[0]
    return "nothing fits the schema" if said.startswith("NoExtension") else said[:200]


def _locate(root: dict[str, Any], reason: str) -> tuple[str, str]:
    """The deepest place of a faulty schema that is faulty by itself, and what is said of it."""
    shared = {word: root[word] for word in ("$defs", "definitions") if word in root}
    node, path = root, ""
    tries = 200  # a faulty schema is not worth more work than that
    while True:
        children = [
            (child, f"{path}/{_escape(word)}/{_escape(str(key))}" if key != "" else f"{path}/{word}")
            for word, value in node.items()
            if word in _NAMED | _MANY | _ONE
            for key, child in _children(value, word)
            if isinstance(child, dict)
        ]
        for child, where in children[:tries]:
            tries -= 1
            alone = f"start: {_json_rule({**shared, **child})}\n"
            fault = _fault(LLMatcher.grammar_from_lark(alone))
            if fault is not None:
                node, path, reason = child, where, fault
                break
        else:
            return path, reason


def _children(value: Any, word: str) -> list[tuple[str | int, Any]]:
    if word in _NAMED:
        return list(value.items())
    if word in _MANY:
        return list(enumerate(value))
    return [("", value)]


_BYTES: list[LLTokenizer] = []


def _byte_tokenizer() -> LLTokenizer:
    """A tokenizer with one token per byte: enough to compile a grammar and see whether it can start."""
    if not _BYTES:
        _BYTES.append(LLTokenizer("byte"))
    return _BYTES[0]
