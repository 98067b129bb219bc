"""The models lists: which tiers a caller may know, in either vendor's shape."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mythos.serve.errors import bad
from mythos.serve.fields import query_fields
from mythos.spec.family import Tier

_STAGES = {"active", "deprecated", "retired"}
_QUERY = {"limit", "after_id", "before_id", "lifecycle", "lifecycle[]"}
_YES, _NO = {"supported": True}, {"supported": False}


def openai_model(tier: Tier, created: float) -> dict[str, Any]:
    return {"id": tier.name, "object": "model", "created": int(created), "owned_by": tier.family}


def anthropic_model(tier: Tier, created: float) -> dict[str, Any]:
    when = datetime.fromtimestamp(int(created), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "model",
        "id": tier.name,
        "display_name": f"{tier.family.capitalize()} {tier.name.capitalize()}",
        "created_at": when,
        "line": None,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": tier.context,
        "max_tokens": tier.max_output,
        "capabilities": _CAPABILITIES,
    }


# `disabled` and `between_tools` are accepted, since there is nothing to switch off.
_THINKING = {"adaptive": _NO, "between_tools": _YES, "disabled": _YES, "enabled": _NO}
_CAPABILITIES = {
    "batch": _NO,
    "citations": _NO,
    "code_execution": _NO,
    "context_management": {
        "supported": False,
        "clear_thinking_20251015": None,
        "clear_tool_uses_20250919": None,
        "compact_20260112": None,
    },
    "effort": {"supported": False, "low": _NO, "medium": _NO, "high": _NO, "max": _NO, "xhigh": None},
    "image_input": _NO,
    "pdf_input": _NO,
    "server_tools": {"supported": False, "code_execution": _NO, "web_search": _NO},
    "structured_outputs": _YES,
    "thinking": {"supported": False, "types": _THINKING},
}


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the tiers, whether there are more, and the names of query fields that are not known."""

    rows: list[tuple[Tier, float]]
    more: bool
    unknown: list[str]


def page_of(tiers: list[tuple[Tier, float]], query: bytes) -> Page:
    """The page that `query` asks for. ApiError 400.

    An unknown cursor gives an empty page, whether or not something by that name exists for others.
    """
    fields = query_fields(query)
    limit = _limit(fields.get("limit", ["20"])[-1])
    stages = [*fields.get("lifecycle", []), *fields.get("lifecycle[]", [])]
    for stage in stages:
        if stage not in _STAGES:
            raise bad("lifecycle", f"Input should be one of {', '.join(repr(s) for s in sorted(_STAGES))}")
    rows = tiers if not stages or "active" in stages else []
    names = [tier.name for tier, _ in rows]
    after, before = fields.get("after_id", [None])[-1], fields.get("before_id", [None])[-1]
    if after is not None:
        rows = rows[names.index(after) + 1 :] if after in names else []
    if before is not None:
        names = [tier.name for tier, _ in rows]
        rows = rows[: names.index(before)] if before in names else []
    backward = before is not None and after is None
    page = rows[-limit:] if backward else rows[:limit]
    return Page(page, len(rows) > len(page), [name for name in fields if name not in _QUERY])


def openai_page(page: Page) -> dict[str, Any]:
    return {"object": "list", "data": [openai_model(tier, created) for tier, created in page.rows]}


def anthropic_page(page: Page) -> dict[str, Any]:
    return {
        "data": [anthropic_model(tier, created) for tier, created in page.rows],
        "has_more": page.more,
        "first_id": page.rows[0][0].name if page.rows else None,
        "last_id": page.rows[-1][0].name if page.rows else None,
    }


def _limit(given: str) -> int:
    if not given.isdecimal() or not given.isascii() or not 1 <= int(given[:9]) <= 1000:
        raise bad("limit", "Input should be an integer from 1 to 1000")
    return int(given)
