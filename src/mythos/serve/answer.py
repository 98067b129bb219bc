"""From a checked request to a running answer: permit, prompt, grammar, budget, engine; and its end."""

import asyncio
import contextlib
import logging
import math
import time
import types
from collections.abc import AsyncIterator, Awaitable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Message, Receive, Send

from mythos.data.chat import encode_chat
from mythos.data.template import ChatError, TemplateError
from mythos.data.tokenizer import Tokenizer
from mythos.engine.grammar import SchemaError, ToolShape, json_schema_grammar, tools_grammar
from mythos.engine.request import (
    Delta,
    Done,
    Event,
    Finish,
    InvalidRequest,
    Overloaded,
    Request,
    Sampling,
    Stopping,
)
from mythos.records.errors import MythosError
from mythos.records.permit import Action, Permit, Reason, Refusal
from mythos.serve import safeguards
from mythos.serve.asked import Asked, messages_of
from mythos.serve.call import Call
from mythos.serve.errors import ApiError, ClientGone, bad, not_found_model
from mythos.serve.receipts import Draft, write_receipt
from mythos.spec.family import Tier
from mythos.store.usage import UsageRow

if TYPE_CHECKING:
    from mythos.engine.generation import Generation

log = logging.getLogger("mythos.serve")

# Characters of a prompt per token of context beyond which it cannot fit and is not tokenised whole.
_CHARS_PER_TOKEN = 64
MAX_TOOLS_BYTES = 2**20  # of all tools' schemas together


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the gate, the tokenizer and the grammar make of a request."""

    permit: Permit
    tier: Tier
    prompt: tuple[int, ...]
    grammar: str | None
    prefill: int = 0  # tokens at the prompt's end that begin the answer
    drafter: Permit | None = None  # the caller's, for the tier that drafts for this one


@dataclass(slots=True, eq=False)
class Answer:
    """One running answer. `done` is set when its last event has been read."""

    call: Call
    asked: Asked
    tier: Tier
    permit: Permit
    prompt_tokens: int
    generation: "Generation"
    draft: Draft
    recorded: "Future[None] | None"
    drafter: Permit | None = None  # until it is withdrawn
    done: Done | None = None
    gone: bool = False  # the client has left
    withdrawn: bool = False  # the permit no longer holds
    first_text: float = 0.0  # seconds from the request
    case: str = ""  # id of the refusal, once a safeguard has tripped
    superseded: bool = False  # another tier answers instead: nothing is metered here

    async def batches(self) -> AsyncIterator[list[Event]]:
        """The engine's events, as many as have come; every one read is accounted for, to the last."""
        async for events in self.generation.batches():
            for event in events:
                if isinstance(event, Delta):
                    self.draft.add(event)
                else:
                    self.done = event
                    _close(self)
            if not self.first_text and isinstance(events[0], Delta):
                self.first_text = time.monotonic() - self.call.began
                self.call.service.metrics.first_token.observe(self.first_text)
            yield events


async def prepare(call: Call, asked: Asked, action: Action) -> Prepared:
    """Permit, prompt and grammar. ApiError 400, 403, 404."""
    return await asyncio.get_running_loop().run_in_executor(
        call.service.workers, _prepare, call, asked, action
    )


def _prepare(call: Call, asked: Asked, action: Action) -> Prepared:
    service = call.service
    name = service.aliases.get(asked.model, asked.model)
    permit = service.decide(call.caller, action, name)
    if isinstance(permit, Refusal):
        raise refused(permit, asked.model)
    tier = service.tier(permit)
    grammar = _grammar(asked)
    try:
        tokenizer, template = service.texts(permit)
    except Stopping:
        raise _stopping() from None
    except MythosError as error:
        log.error("%s: the weights of %s: %s", call.request_id, permit.tier, error)
        raise ApiError(500, "the model cannot be loaded; the server's log says why", code="load") from None
    messages = messages_of(asked)
    _check_length(sum(len(m["content"]) for m in messages) + len(asked.prefill), tier, messages, tokenizer)
    try:
        prompt = encode_chat(tokenizer, template, messages)
    except ChatError as error:
        raise bad("messages", f"the model's chat template refuses them: {error.message}") from None
    except TemplateError as error:
        raise ApiError(500, f"the model's chat template is at fault: {error.message}") from None
    begun = tokenizer.encode(asked.prefill, special=False) if asked.prefill else []
    prompt = prompt + begun
    if action is Action.ANSWER and len(prompt) >= tier.context:
        raise too_long(str(len(prompt)), tier)
    drafter = None
    if tier.drafter and action is Action.ANSWER:
        # A refusal says nothing to anybody: the same answer is then made without drafts.
        found = service.decide(call.caller, action, tier.drafter)
        drafter = found if isinstance(found, Permit) else None
    return Prepared(permit, tier, tuple(prompt), grammar, len(begun), drafter)


def refused(refusal: Refusal, model: str) -> ApiError:
    """The answer to a refusal: the reason only for those who may know the tier."""
    if not refusal.may_know:
        return not_found_model(model)
    if refusal.reason is Reason.NOT_BUILT:
        return ApiError(404, f"model: {refusal.message}", code="model_not_built", param="model")
    if refusal.reason is Reason.CLOCK:
        return ApiError(503, refusal.message, code="clock")
    return ApiError(403, refusal.message, code=refusal.reason.value, param="model")


def too_long(tokens: str, tier: Tier) -> ApiError:
    message = f"prompt is too long: {tokens} tokens > {tier.context - 1} maximum"
    return ApiError(400, message, code="context_length_exceeded", param="messages")


def _check_length(chars: int, tier: Tier, messages: list[dict[str, str]], tokenizer: Tokenizer) -> None:
    """Refuse a prompt that cannot fit without rendering and tokenising all of it."""
    if len(messages) >= tier.context:  # each costs a token or more
        raise too_long(f"at least {len(messages)}", tier)
    limit = tier.context * _CHARS_PER_TOKEN
    if chars <= limit:
        return
    text = ""
    for message in messages:
        text += message["content"][: limit - len(text)]
    count = len(tokenizer.encode(text, special=False))
    if count >= tier.context:
        raise too_long(f"at least {count}", tier)


def _grammar(asked: Asked) -> str | None:
    """The grammar the answer must keep to, or None. ApiError 400 names the schema's place at fault."""
    if not asked.calls_possible and asked.schema is None:
        return None
    key = orjson.dumps([[t.name, t.schema] for t in asked.tools] if asked.calls_possible else [])
    if len(key) > MAX_TOOLS_BYTES:
        raise bad("tools", f"their schemas are longer than {MAX_TOOLS_BYTES} bytes")
    output = None if asked.schema is None else orjson.dumps(asked.schema)
    try:
        return _compiled(key, asked.choice, asked.parallel, output)
    except SchemaError as error:
        path, reason = _place(asked, error)
        raise bad(path, reason, code="unsupported_schema") from None


@lru_cache(maxsize=64)
def _compiled(tools: bytes, choice: str, parallel: bool, output: bytes | None) -> str:
    shapes = [ToolShape(name, schema) for name, schema in orjson.loads(tools)]
    schema = None if output is None else orjson.loads(output)
    if shapes:
        return tools_grammar(shapes, choice, parallel, schema)
    return json_schema_grammar(schema if schema is not None else {})


def _place(asked: Asked, error: SchemaError) -> tuple[str, str]:
    """The field that holds the schema at fault."""
    at = error.path
    if asked.calls_possible:
        for i, tool in enumerate(asked.tools):
            try:
                json_schema_grammar(tool.schema)
            except SchemaError as own:
                return f"tools.{i}.input_schema{own.path}", own.reason
    return f"{asked.schema_path or 'tools'}{at}", error.reason


async def begin(call: Call, asked: Asked) -> Answer:
    """Admit a request and hand it to the engine. ApiError 400, 403, 404, 429, 529."""
    return await safeguards.settle(await _begin(call, asked), _begin)


async def _begin(call: Call, asked: Asked) -> Answer:
    service = call.service
    call.action = "answer"
    if service.draining:
        raise _stopping()
    ready = await prepare(call, asked, Action.ANSWER)
    tier = ready.tier
    if asked.model != tier.name:
        call.note("mythos-alias", [asked.model])
    _note(call, asked)
    max_tokens = tier.max_output if asked.max_tokens is None else asked.max_tokens
    if max_tokens > tier.max_output:
        max_tokens = tier.max_output
        call.note("mythos-clamped", [f"max_tokens={max_tokens}"])
    org = call.caller.org
    service.limits.begin(org, len(ready.prompt))
    request = Request(
        prompt=ready.prompt,
        max_tokens=max_tokens,
        sampling=_sampling(asked, tier),
        stop=asked.stop,
        grammar=ready.grammar,
        logprobs=asked.logprobs,
        prefill=ready.prefill,
        lane=asked.lane,
    )
    draft = Draft(call, asked, ready.permit, request)
    generation = None
    try:
        generation = service.engine.submit(ready.permit, request, ready.drafter)
        recorded = service.recorder.attempt(
            call.caller,
            "answer",
            "permitted",
            draft.at,
            receipt=call.receipt,
            request=call.request_id,
            tier=tier.name,
            root=ready.permit.root,
            decision=ready.permit.decision,
        )
    except Exception as error:
        if generation is not None:
            generation.cancel()
        service.limits.end(org, len(ready.prompt), 0)
        raise _engine_refusal(error) from error
    call.recorded = True
    service.running.add(generation)
    service.answering.begin()
    service.drafts[draft.id] = draft
    service.metrics.running.inc()
    answer = Answer(
        call, asked, tier, ready.permit, len(ready.prompt), generation, draft, recorded, ready.drafter
    )
    service.watch.add(answer)
    return answer


def _stopping() -> ApiError:
    return ApiError(529, "the server is shutting down", headers={"retry-after": "5"})


def _engine_refusal(error: Exception) -> Exception:
    if isinstance(error, Overloaded):
        wait = str(max(1, math.ceil(error.retry_after)))
        return ApiError(529, "Overloaded", code="overloaded", headers={"retry-after": wait})
    if isinstance(error, Stopping):
        return _stopping()
    if isinstance(error, InvalidRequest):
        return ApiError(400, str(error), code="invalid_request")
    if isinstance(error, PermissionError):
        return ApiError(403, "the decision on this model has changed; try again", code="permit")
    return error


def note_betas(call: Call, asked: Asked) -> None:
    """Beta flags: all are unknown here; ignored and named, or refused in strict mode."""
    flags = [flag.strip() for flag in call.header("anthropic-beta").split(",") if flag.strip()]
    if flags and call.service.settings.strict:
        raise bad("anthropic-beta", "Unexpected value(s)", code="unknown_beta")
    asked.ignored += [f"beta:{flag}" for flag in flags]
    for name in ("anthropic-workspace-id", "anthropic-user-profile-id"):
        if name.encode() in call.headers:
            asked.ignored.append(name)


def _note(call: Call, asked: Asked) -> None:
    call.note("mythos-ignored", asked.ignored)


def _sampling(asked: Asked, tier: Tier) -> Sampling:
    default = tier.sampling
    return Sampling(
        temperature=default.temperature if asked.temperature is None else asked.temperature,
        top_p=default.top_p if asked.top_p is None else asked.top_p,
        top_k=default.top_k if asked.top_k is None else asked.top_k,
        seed=asked.seed,
    )


def _close(answer: Answer) -> None:
    """The last event was read: give back the place, count what was used."""
    call, done, service = answer.call, answer.done, answer.call.service
    if done is None or answer.generation not in service.running:
        return
    service.running.discard(answer.generation)
    service.answering.end()
    service.watch.drop(answer)
    service.metrics.running.dec()
    service.limits.end(call.caller.org, done.cached_tokens, done.completion_tokens)
    if done.finish is Finish.REFUSED:
        answer.recorded = safeguards.record(answer, done)
    if answer.superseded:
        return
    seconds = time.monotonic() - call.began
    service.metrics.answers.observe(seconds)
    tokens = service.metrics.tokens.labels
    tokens("input").inc(done.prompt_tokens - done.cached_tokens)
    tokens("cached").inc(done.cached_tokens)
    tokens("output").inc(done.completion_tokens)
    price = answer.tier.price
    cost = (done.prompt_tokens * price.input + done.completion_tokens * price.output) / 1e6
    row = UsageRow(
        request_id=call.request_id,
        org=call.caller.org,
        tier=answer.tier.name,
        input_tokens=done.prompt_tokens,
        cached_tokens=done.cached_tokens,
        output_tokens=done.completion_tokens,
        cost=cost,
        finish=done.finish.value,
        seconds=seconds,
    )
    answer.recorded = service.recorder.answered(call.caller, row, partial(write_receipt, answer.draft, done))
    answer.recorded.add_done_callback(lambda _: service.drafts.pop(answer.draft.id))


async def written(answer: Answer) -> None:
    """Wait until what was last recorded of this answer is on disk. ApiError 500 when it cannot be."""
    if answer.recorded is not None:
        try:
            await asyncio.wrap_future(answer.recorded)
        except Exception as error:
            raise ApiError(500, "the server cannot record requests") from error


@contextlib.asynccontextmanager
async def attended(answer: Answer, receive: Receive) -> AsyncIterator[None]:
    """Cancels the generation when the client leaves or the block fails (`Watch` does when the permit ends).

    It is read to its last event in any case, so that what it used is counted.
    """

    async def watch_client() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        answer.gone = True
        answer.generation.cancel()

    task = asyncio.create_task(watch_client())
    try:
        yield
    finally:
        task.cancel()
        if answer.done is None:
            answer.generation.cancel()
            rest = asyncio.create_task(_read_out(answer))
            answer.call.service.reading_out.add(rest)
            rest.add_done_callback(answer.call.service.reading_out.discard)


async def _read_out(answer: Answer) -> None:
    # The iterator of the failed block may be half-way: the events left are taken from the generation itself.
    async for _ in answer.batches():
        pass


async def within(answer: Answer, sending: Awaitable[None]) -> None:
    """Send to the client, who must take it within the write deadline. ClientGone otherwise."""
    steps = sending.__await__()
    try:
        waited_for = next(steps)
    except StopIteration:
        return  # nearly always: a deadline for what is over at once would cost more than the sending
    try:
        async with asyncio.timeout(answer.call.service.settings.write_seconds):
            await _rest(waited_for, steps)
    except TimeoutError:
        answer.gone = True
        raise ClientGone from None


@types.coroutine
def _rest(waited_for: Any, steps: Generator[Any, Any, None]) -> Generator[Any, Any, None]:
    """What is left of an awaitable that has begun and waits for something."""
    try:
        yield waited_for
        yield from steps
    finally:
        steps.close()


def failure(answer: Answer) -> ApiError | None:
    """The error of an answer that did not come to an end of its own, or None."""
    done = answer.done
    if answer.gone:
        raise ClientGone
    if answer.withdrawn:
        return ApiError(403, "the decision that allowed this answer was withdrawn", code="withdrawn")
    if done is None or done.finish is Finish.CANCELLED:
        return _stopping()
    if done.finish is Finish.FAILED:
        said = done.error or ""
        if said.startswith("grammar:"):
            reason = "the schema asks for more than the decoder can follow"
            return ApiError(400, f"output schema: {reason}", code="unsupported_schema")
        internal = not said or said.startswith("internal")
        return ApiError(500, "internal server error" if internal else said[:300])
    return None


async def paced(answer: Answer) -> AsyncIterator[list[Event] | None]:
    """The answer's events in batches; None for every silent while before the first."""
    batches = answer.batches()
    first = asyncio.ensure_future(anext(batches))
    while not (await asyncio.wait({first}, timeout=answer.call.service.settings.ping_seconds))[0]:
        yield None
    yield first.result()
    async for events in batches:
        yield events


async def start_stream(send: Send, status: int = 200) -> None:
    """Begin an event stream."""
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"x-accel-buffering", b"no"),
    ]
    message: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(message)
