"""The OpenAPI description of what is served. Written by hand: it says what the checks really demand."""

from functools import cache
from typing import Any

from mythos import __version__

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_CACHE: Schema = {
    "type": ["object", "null"],
    "required": ["type"],
    "properties": {"type": {"const": "ephemeral"}, "ttl": {"enum": ["5m", "1h", None]}},
}
_TEXT_BLOCK: Schema = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _TEXT, "cache_control": _CACHE},
}
_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,128}$"}
_MODEL: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
_OBJECT: Schema = {"type": "object"}
_NULL_BOOL: Schema = {"type": ["boolean", "null"]}
_ERROR_STATUSES = ("400", "401", "403", "404", "405", "408", "413", "421", "429", "500", "503", "529")


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_MESSAGE_IN: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["user", "assistant", "system"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _TEXT_BLOCK}]},
    },
}
_TOOL: Schema = {
    "type": "object",
    "required": ["name", "input_schema"],
    "properties": {
        "type": {"enum": ["custom", None]},
        "name": _NAME,
        "description": {"type": ["string", "null"]},
        "input_schema": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"const": "object"}},
        },
        "strict": _NULL_BOOL,
        "cache_control": _CACHE,
    },
}
_COUNT_FIELDS: Schema = {
    "model": _MODEL,
    "messages": {"type": "array", "minItems": 1, "maxItems": 100_000, "items": _MESSAGE_IN},
    "system": {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_BLOCK}, {"type": "null"}]},
    "tools": {"type": ["array", "null"], "maxItems": 256, "items": _TOOL},
    "tool_choice": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {
            "type": {"enum": ["auto", "any", "tool", "none"]},
            "name": {"type": "string"},
            "disable_parallel_tool_use": _NULL_BOOL,
        },
    },
    "thinking": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {
            "type": {"enum": ["enabled", "disabled", "adaptive", "between_tools"]},
            "display": {"enum": ["summarized", "omitted", None]},
        },
    },
    "output_config": {
        "type": ["object", "null"],
        "properties": {
            "effort": {"enum": ["low", "medium", "high", "xhigh", "max", None]},
            "format": {
                "type": ["object", "null"],
                "required": ["type", "schema"],
                "properties": {"type": {"const": "json_schema"}, "schema": _OBJECT},
            },
        },
    },
    "cache_control": _CACHE,
}
_MESSAGES_FIELDS: Schema = {
    **_COUNT_FIELDS,
    "max_tokens": {"type": "integer", "minimum": 0},
    "stop_sequences": {
        "type": ["array", "null"],
        "maxItems": 64,
        "items": {"type": "string", "minLength": 1, "maxLength": 1000, "pattern": "\\S"},
    },
    "stream": _NULL_BOOL,
    "metadata": {
        "type": ["object", "null"],
        "properties": {"user_id": {"type": ["string", "null"], "maxLength": 512}},
    },
    "service_tier": {"enum": ["auto", "standard_only", None]},
    "speed": {"enum": ["standard", "fast", None]},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "top_k": {"type": ["integer", "null"], "minimum": 0},
}
_CHAT_FIELDS: Schema = {
    "model": _MODEL,
    "messages": {
        "type": "array",
        "minItems": 1,
        "maxItems": 100_000,
        "items": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"enum": ["developer", "system", "user", "assistant"]},
                "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_BLOCK}]},
            },
        },
    },
    "max_tokens": {"type": ["integer", "null"], "minimum": 0},
    "max_completion_tokens": {"type": ["integer", "null"], "minimum": 0},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "n": {"enum": [1, None]},
    "stop": {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": 1000},
            {"type": "array", "maxItems": 4, "items": {"type": "string", "minLength": 1, "maxLength": 1000}},
            {"type": "null"},
        ]
    },
    "seed": {"type": ["integer", "null"]},
    "logprobs": _NULL_BOOL,
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
    "stream": _NULL_BOOL,
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": _NULL_BOOL}},
    "service_tier": {"enum": ["auto", "default", "flex", "priority", None]},
    "parallel_tool_calls": _NULL_BOOL,
    "response_format": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}, "json_schema": _OBJECT},
    },
}
_COUNTED: Schema = {"type": "integer", "minimum": 0}
_SCHEMAS: Schema = {
    "MessagesRequest": {
        "type": "object",
        "required": ["model", "max_tokens", "messages"],
        "properties": _MESSAGES_FIELDS,
    },
    "CountRequest": {"type": "object", "required": ["model", "messages"], "properties": _COUNT_FIELDS},
    "ChatRequest": {"type": "object", "required": ["model", "messages"], "properties": _CHAT_FIELDS},
    "Message": {
        "type": "object",
        "required": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
        "properties": {
            "id": {"type": "string", "pattern": "^msg_"},
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "content": {"type": "array", "items": {"type": "object", "required": ["type"]}},
            "stop_reason": {
                "enum": [
                    "end_turn",
                    "max_tokens",
                    "stop_sequence",
                    "tool_use",
                    "model_context_window_exceeded",
                ]
            },
            "usage": {
                "type": "object",
                "required": ["input_tokens", "output_tokens", "cache_read_input_tokens"],
                "properties": {"input_tokens": _COUNTED, "output_tokens": _COUNTED},
            },
        },
    },
    "Count": {"type": "object", "required": ["input_tokens"], "properties": {"input_tokens": _COUNTED}},
    "Completion": {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {"object": {"const": "chat.completion"}, "choices": {"type": "array", "minItems": 1}},
    },
    "Models": {
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"type": "array", "items": {"type": "object", "required": ["id"]}}},
    },
    "Model": {"type": "object", "required": ["id"]},
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
            }
        },
    },
}
_VERSION: Schema = {
    "name": "anthropic-version",
    "in": "header",
    "required": True,
    "schema": {"enum": ["2023-06-01", "2026-10-21"]},
    "description": "2026-10-21 refuses temperature, top_p and top_k.",
}
_MODELS_VERSION: Schema = {
    **_VERSION,
    "required": False,
    "description": "With it the answer has the Messages API's shape, without it the chat completions API's.",
}
_MODEL_ID: Schema = {"name": "model_id", "in": "path", "required": True, "schema": _MODEL}
_RECEIPT: Schema = {"name": "receipt_id", "in": "path", "required": True, "schema": {"type": "string"}}
_LIST_PARAMETERS: list[Schema] = [
    _MODELS_VERSION,
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}},
    {"name": "after_id", "in": "query", "schema": {"type": "string"}},
    {"name": "before_id", "in": "query", "schema": {"type": "string"}},
]


def _answers(good: Schema) -> Schema:
    error = {"description": "Error", "content": {"application/json": {"schema": _ref("Error")}}}
    return {"200": {"description": "OK", "content": good}, **dict.fromkeys(_ERROR_STATUSES, error)}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": _ref(name)}}


def _post(summary: str, request: str, good: Schema, parameters: list[Schema]) -> Schema:
    body = {"required": True, "content": _json(request)}
    return {
        "post": {
            "summary": summary,
            "parameters": parameters,
            "requestBody": body,
            "responses": _answers(good),
        }
    }


def _get(summary: str, good: Schema, parameters: list[Schema]) -> Schema:
    return {"get": {"summary": summary, "parameters": parameters, "responses": _answers(good)}}


@cache
def document() -> Schema:
    """The description as a JSON object. It names no tier."""
    stream: Schema = {"text/event-stream": {"schema": {"type": "string"}}}
    text: Schema = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mythopoeia", "version": __version__},
        "security": [{"key": []}, {"bearer": []}],
        "paths": {
            "/v1/messages": _post(
                "Answer a conversation", "MessagesRequest", _json("Message") | stream, [_VERSION]
            ),
            "/v1/messages/count_tokens": _post(
                "Count a prompt's tokens", "CountRequest", _json("Count"), [_VERSION]
            ),
            "/v1/chat/completions": _post(
                "Answer a conversation", "ChatRequest", _json("Completion") | stream, []
            ),
            "/v1/models": _get("List the models", _json("Models"), _LIST_PARAMETERS),
            "/v1/models/{model_id}": _get("One model", _json("Model"), [_MODEL_ID, _MODELS_VERSION]),
            "/v1/receipts/{receipt_id}": _get(
                "What one answer was, and what it rests on",
                {"application/json": {"schema": _OBJECT}},
                [_RECEIPT],
            ),
            "/metrics": _get("Figures for the operator", text, []),
            "/openapi.json": _get("This description", {"application/json": {"schema": _OBJECT}}, []),
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }
