"""Schemas and tools become grammars that let exactly the fitting texts through."""

import json
import random

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer

from mythos.engine.grammar import (
    SchemaError,
    ToolShape,
    clean_schema,
    json_schema_grammar,
    tools_grammar,
    unsupported_keywords,
)

BYTES = LLTokenizer("byte")
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = '<tool_call>{"name": "weather", "input": {"city": "Oslo"}}</tool_call>'


def fits(grammar: str, text: str) -> bool:
    """Whether `text` is a whole answer under `grammar`."""
    matcher = LLMatcher(BYTES, grammar)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def random_answer(grammar: str, seed: int, limit: int = 400) -> str | None:
    """A walk through the grammar by random bytes; None when it does not end within `limit`."""
    chance, matcher, out = random.Random(seed), LLMatcher(BYTES, grammar), bytearray()
    for _ in range(limit):
        mask = matcher.compute_bitmask()
        allowed = [i for i in range(BYTES.vocab_size) if mask[i // 8] >> i % 8 & 1]
        closing = [i for i in allowed if i >= 256 or chr(i) in '"}]']
        token = chance.choice(closing if closing and chance.random() < 0.5 else allowed)
        if token >= 256:
            return out.decode()
        assert matcher.consume_token(token)
        out.append(token)
        if matcher.is_stopped():
            return out.decode()
    return None


SCHEMAS = [
    CITY,
    {"type": "array", "items": {"enum": ["red", 3, None]}, "minItems": 1, "maxItems": 4},
    {"anyOf": [{"type": "integer", "minimum": -5, "maximum": 12}, {"type": "null"}]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "boolean"}}},
    {"type": "object", "properties": {"next": {"$ref": "#"}, "v": {"type": "number"}}, "required": ["v"]},
    {"allOf": [CITY, {"properties": {"n": {"type": "integer"}}, "required": ["n"]}]},
    {"type": "string", "pattern": "^[a-c]{2,5}$"},
    {"type": "object", "additionalProperties": {"type": "integer", "multipleOf": 3}, "maxProperties": 3},
    {"type": "object", "patternProperties": {"^x_": {"type": "null"}}, "additionalProperties": False},
    {"type": ["string", "null"], "minLength": 2, "maxLength": 6},
    {"oneOf": [{"const": "a"}, {"type": "integer"}]},
    {"foo": "bar"},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: json.dumps(s)[:40])
def test_M27_every_text_of_the_grammar_parses_and_fits(schema):
    grammar = json_schema_grammar(schema)
    ended = [text for seed in range(25) if (text := random_answer(grammar, seed)) is not None]
    assert ended
    for text in ended:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ({"not": {"type": "string"}}, ["/not"]),
        ({"type": "array", "uniqueItems": True}, ["/uniqueItems"]),
        (
            {"properties": {"a/b": {"if": {}, "then": {}}, "c": {"contains": {}}}},
            ["/properties/a~1b/if", "/properties/c/contains"],
        ),
        ({"$ref": "https://example.com/schema"}, ["/$ref"]),
        ({"items": [{"type": "string"}]}, ["/items"]),
        ({"anyOf": [{"type": "object", "unevaluatedProperties": False}]}, ["/anyOf/0/unevaluatedProperties"]),
        ({"type": "number", "exclusiveMinimum": True}, ["/exclusiveMinimum"]),
        ({"type": "object", "minProperties": 2}, ["/minProperties"]),
        ({"uniqueItems": False, "propertyNames": {"type": "string"}, "title": "x", "format": "int32"}, []),
    ],
)
def test_M27_unsupported_keywords_are_named_by_path(schema, paths):
    assert unsupported_keywords(schema) == paths
    if paths:
        with pytest.raises(SchemaError) as caught:
            json_schema_grammar(schema)
        assert caught.value.path == paths[0]


def deep(levels: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": "bar"}}, "/properties/a"),
        ({"type": "strin"}, "/type"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, "/properties/a"),
        (
            {"type": "object", "required": ["a"], "properties": {"a": {"enum": ["x"], "type": "integer"}}},
            "/properties/a",
        ),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, None),
        ({"$ref": "#/$defs/gone"}, "/$ref"),
        ({"enum": []}, "/enum"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}, ""),
        ({"minItems": 10**9, "type": "array"}, "/minItems"),
        ({"minLength": -1}, "/minLength"),
        (False, ""),
        (deep(40), None),
        ({"anyOf": [{"const": i} for i in range(5000)]}, None),
        ({"description": "x" * 70_000}, ""),
    ],
)
def test_M27_a_faulty_schema_is_refused_with_its_place(schema, path):
    with pytest.raises(SchemaError) as caught:
        json_schema_grammar(schema)
    if path is not None:
        assert caught.value.path == path


def test_M27_a_schema_cannot_switch_the_compiler_lenient():
    hostile = {"x-guidance": {"lenient": True, "coerce_one_of": True}, "not": {"type": "null"}}
    assert unsupported_keywords(hostile) == ["/not"]
    assert "x-guidance" not in clean_schema({"x-guidance": {"lenient": True}, "type": "null"})


def test_M27_declared_objects_are_closed_only_where_that_narrows():
    assert clean_schema(CITY)["additionalProperties"] is False
    both = {"allOf": [CITY, {"properties": {"n": {"type": "null"}}, "required": ["n"]}]}
    assert "additionalProperties" not in clean_schema(both)["allOf"][0]
    assert fits(json_schema_grammar(both), '{"city": "x", "n": null}')


def test_M26_auto_lets_text_calls_and_both_through():
    grammar = tools_grammar([ToolShape("weather", CITY)])
    for text in ("Hello <tool_cal", "", CALL, "Let me look. " + CALL, CALL + "\n" + CALL):
        assert fits(grammar, text), text
    for text in ("Hi <tool_call>", CALL[:-3], CALL + " and more", CALL.replace("weather", "wether")):
        assert not fits(grammar, text), text


def test_M26_a_closing_tag_inside_an_argument_stays_an_argument():
    grammar = tools_grammar([ToolShape("weather", CITY)], "any")
    assert fits(grammar, CALL.replace("Oslo", "</tool_call>"))


def test_M26_any_and_a_named_tool_force_calls():
    tools = [ToolShape("weather", CITY), ToolShape("stop-it", {"type": "object", "properties": {}})]
    forced = tools_grammar(tools, "any")
    assert fits(forced, CALL) and not fits(forced, "Hello") and not fits(forced, "")
    named = tools_grammar(tools, "=stop-it")
    assert not fits(named, CALL)
    assert fits(named, '<tool_call>{"name": "stop-it", "input": {}}</tool_call>')
    with pytest.raises(SchemaError):
        tools_grammar(tools, "=unknown")


def test_M26_parallel_calls_can_be_switched_off_and_are_bounded():
    tools = [ToolShape("weather", CITY)]
    assert not fits(tools_grammar(tools, "any", parallel=False), CALL + "\n" + CALL)
    assert not fits(tools_grammar(tools, "any"), "\n".join([CALL] * 9))


def test_M27_tools_and_an_output_schema_together():
    grammar = tools_grammar([ToolShape("weather", CITY)], output={"type": "object", "required": ["ok"]})
    assert fits(grammar, CALL) and fits(grammar, '{"ok": 1}') and not fits(grammar, "Hello")
