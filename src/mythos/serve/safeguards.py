"""What a tripped safeguard looks like to the caller, in the ledger, and when another tier answers instead.

Which profile watches an answer is said by the permit alone: nothing a client sends is looked at here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mythos.engine.request import Done, Finish
from mythos.records.ids import new_id
from mythos.records.permit import Action, Refusal
from mythos.serve.errors import ApiError

if TYPE_CHECKING:
    from mythos.serve.answer import Answer
    from mythos.serve.asked import Asked
    from mythos.serve.call import Call

# The vendor's form knows these categories; whatever else trips is one of the general harms.
_CATEGORIES = {"cyber": "cyber", "cbrn": "bio"}


def record(answer: "Answer", done: Done) -> "Future[None] | None":
    """Open a case for a refusal: an id, written down with what tripped, never with what was said."""
    answer.case = new_id("case")
    return answer.call.service.recorder.attempt(
        answer.call.caller,
        "answer",
        "refused",
        receipt=answer.call.receipt,
        request=answer.call.request_id,
        tier=answer.tier.name,
        root=answer.permit.root,
        profile=answer.permit.profile,
        decision=answer.permit.decision,
        case=answer.case,
        category=done.category,
        score=str(done.score),
    )


def refusal_text(answer: "Answer") -> str | None:
    """What the caller is told of a refusal, or None when there was none."""
    if answer.done is None or answer.done.finish is not Finish.REFUSED:
        return None
    return f"Stopped by a safeguard (category {answer.done.category}). To contest this, name {answer.case}."


def stop_details(answer: "Answer") -> dict[str, Any] | None:
    """The Messages form's `stop_details`."""
    text = refusal_text(answer)
    if text is None or answer.done is None:
        return None
    category = _CATEGORIES.get(answer.done.category or "", "general_harms")
    return {"type": "refusal", "category": category, "explanation": text}


async def settle(answer: "Answer", begin: "Callable[[Call, Asked], Awaitable[Answer]]") -> "Answer":
    """The answer, or the fallback tier's when this one is refused before any of its text could leave.

    Only when the profile names a fallback and the caller may use that tier. It is disclosed by a header,
    metered as the tier that answers, and remembered nowhere: the next request goes where it asks to go.
    """
    call, tier = answer.call, answer.tier
    guard = call.service.engine.guard(answer.permit)
    fallback = "" if guard is None else guard.profile.fallback
    if fallback in ("", tier.name):
        return answer
    first = await answer.generation.first()
    if not isinstance(first, Done) or first.finish is not Finish.REFUSED:
        return answer
    if isinstance(
        await asyncio.to_thread(call.service.decide, call.caller, Action.ANSWER, fallback), Refusal
    ):
        return answer
    noted = list(call.noted)
    try:
        other = await begin(call, replace(answer.asked, model=fallback))
    except ApiError:  # it cannot take this request: the refusal stands
        call.noted[:] = noted
        return answer
    answer.superseded = True
    async for _ in answer.batches():
        pass
    call.noted[:] = dict.fromkeys(call.noted)
    call.note("mythos-fallback", [f"from={tier.name}", f"category={first.category}", f"case={answer.case}"])
    return other
