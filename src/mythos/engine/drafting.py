"""What is checked beside the newest tokens in one pass: what prompt lookup or a smaller tier drafts.

Shape letters: V vocabulary.

A draft never changes an answer: what is kept is what the tier chooses by itself, and a draft only says which
choices are computed together. So the drafter's arithmetic needs no exactness, and neither does the clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mythos.engine.backend import Segment
from mythos.engine.cache import BLOCKS_PER_CHUNK, CHUNK
from mythos.engine.lookup import Lookup
from mythos.engine.sampling import choose
from mythos.engine.speculation import (
    ALL,
    OWN,
    PROBE,
    PROBE_EVERY,
    STEP,
    UNKNOWN,
    Acceptance,
    Offer,
    Speculation,
    allot,
    compared,
    worth,
)
from mythos.records.permit import Permit

if TYPE_CHECKING:
    from mythos.engine.runner import Runner
    from mythos.engine.sequence import Sequence

LOOKUP, DRAFTER = "lookup", "drafter"  # the kinds of drafts


@dataclass(slots=True, eq=False)
class Drafter:
    """A smaller tier of the same tokenizer that drafts for one sequence, with keys and values of its own.

    Blocks are taken when it first drafts and given back when the sequence ends or the tier leaves; while the
    tier's own requests wait for blocks, none are taken.
    """

    runner: "Runner"
    table: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    held: list[bytes] = field(default_factory=list)
    computed: int = 0  # positions of the text in its cache
    at: int = 0  # where its last draft began
    ahead: list[int] = field(default_factory=list)  # that draft


@dataclass(slots=True, eq=False)
class Drafts:
    """What one sequence keeps for drafting. `permit` is its caller's for the tier that may draft."""

    permit: Permit | None = None
    until: float = 0.0  # when that permit ends, monotonic seconds
    lookup: Lookup = field(default_factory=Lookup)
    acceptance: dict[str, Acceptance] = field(default_factory=dict)
    drafter: Drafter | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """`tokens` go through the pass; `guess` is what prompt lookup says, checked or only compared."""

    kind: str
    tokens: list[int]
    guess: list[int]


NONE = Draft(LOOKUP, [], [])


def drafts_for(
    speculation: Speculation,
    seqs: "list[Sequence]",
    rooms: list[int],
    rows: int,
    ends: frozenset[int],
    clock: Callable[[], float],
) -> list[Draft]:
    """A draft for each sequence, of at most as many tokens as it has room for.

    Together with the newest tokens of all they make at most `rows` rows. `ends` are the end-of-turn tokens.
    """
    if rows <= len(seqs) or not any(rooms):
        return [NONE] * len(seqs)
    guesses = [_guess(seq, room, ends) for seq, room in zip(seqs, rooms, strict=True)]
    kinds, offers = [], []
    for seq, room, guess in zip(seqs, rooms, guesses, strict=True):
        choice = {LOOKUP: Offer(_rate(speculation, seq, LOOKUP), len(guess))}
        if depth := _reach(seq, room):
            choice[DRAFTER] = Offer(_rate(speculation, seq, DRAFTER), depth, speculation.drafter_seconds)
        kinds.append(max(choice, key=lambda kind: worth(choice[kind], speculation.costs.seconds)))
        offers.append(choice[kinds[-1]])
    depths = allot(offers, rows, speculation.costs.seconds)
    if not any(depths) and any(offer.depth for offer in offers):
        speculation.idle += 1
        if speculation.idle > PROBE_EVERY:
            _probe(seqs, rooms, kinds, offers, depths, rows - len(seqs))
    asked = [depth if kind == DRAFTER else 0 for kind, depth in zip(kinds, depths, strict=True)]
    made = _made(speculation, seqs, asked, ends, clock) if any(asked) else [[] for _ in seqs]
    return [
        Draft(DRAFTER, tokens, guess) if tokens else Draft(LOOKUP, guess[:depth], guess)
        for depth, guess, tokens in zip(depths, guesses, made, strict=True)
    ]


def learn(speculation: Speculation, seq: "Sequence", draft: Draft, chosen: list[int]) -> None:
    """Take in which tokens of a draft hold: `chosen` are those that the tier chose in the same pass."""
    if draft.tokens:
        _learn(speculation, seq, draft.kind, compared(draft.tokens, chosen))
        speculation.counts_of(draft.kind).add(len(draft.tokens), compared(draft.tokens, chosen)[1])
        speculation.idle = 0
    if draft.guess and not (draft.tokens and draft.kind == LOOKUP):
        _learn(speculation, seq, LOOKUP, compared(draft.guess[:1], chosen))  # costs nothing to know


def _learn(speculation: Speculation, seq: "Sequence", kind: str, found: tuple[int, int]) -> None:
    if seq.drafts is not None:
        seq.drafts.acceptance.setdefault(kind, Acceptance()).add(*found, OWN)
    speculation.acceptance_of(kind, _class(seq)).add(*found, ALL)


def _rate(speculation: Speculation, seq: "Sequence", kind: str) -> float:
    assert seq.drafts is not None
    prior = speculation.acceptance_of(kind, _class(seq)).rate(UNKNOWN)
    own = seq.drafts.acceptance.get(kind)
    return prior if own is None else own.rate(prior)


def _class(seq: "Sequence") -> str:
    return "text" if seq.matcher is None else "grammar"


def _guess(seq: "Sequence", room: int, ends: frozenset[int]) -> list[int]:
    if seq.drafts is None or not room:
        return []
    lookup, prompt = seq.drafts.lookup, seq.request.prompt
    if not len(lookup):
        lookup.extend(prompt)
    lookup.extend(seq.tokens[len(lookup) - len(prompt) :])
    guess = lookup.propose(room)
    end = next((n for n, token in enumerate(guess) if token in ends), len(guess))
    return guess[:end]


def _probe(
    seqs: "list[Sequence]",
    rooms: list[int],
    kinds: list[str],
    offers: list[Offer],
    depths: list[int],
    spare: int,
) -> None:
    """Have one sequence's draft checked although it seems not to pay: speeds change, and so do texts.

    The drafter's where it is at hand or soon is: what prompt lookup is worth is known without.
    """
    for i, (seq, room) in enumerate(zip(seqs, rooms, strict=True)):
        drafter = seq.drafts.drafter if seq.drafts is not None else None
        near = drafter is not None and (drafter.table or len(seq.request.prompt) <= CHUNK)
        if near and (depth := _reach(seq, room)):
            kinds[i], depths[i] = DRAFTER, min(depth, PROBE, spare)
            return
    i = max(range(len(offers)), key=lambda i: offers[i].depth)
    depths[i] = min(offers[i].depth, PROBE, spare)


def _reach(seq: "Sequence", room: int) -> int:
    """Tokens that the drafter could draft at all: its context may be smaller."""
    drafter = seq.drafts.drafter if seq.drafts is not None else None
    if drafter is None:
        return 0
    written = len(seq.request.prompt) + len(seq.tokens)
    return max(0, min(room, drafter.runner.loaded.tier.context - written))


def _made(
    speculation: Speculation,
    seqs: "list[Sequence]",
    depths: list[int],
    ends: frozenset[int],
    clock: Callable[[], float],
) -> list[list[int]]:
    """What the drafter writes. Of those that have to catch up with the text, one does.

    It draws with the very numbers that the sequence will draw with: where the two tiers' distributions are
    alike, so are then the tokens.
    """
    made: list[list[int]] = [[] for _ in seqs]
    ready, behind = [], []
    for i, depth in enumerate(depths):
        if depth:
            (ready if _settled(seqs[i]) else behind).append(i)
    if behind:
        _advance(seqs[behind[0]])
    began = clock()
    draws = {i: _copied(seqs[i].generator) for i in ready}
    for step in range(max((depths[i] for i in ready), default=0)):
        going = [i for i in ready if depths[i] > step and len(made[i]) == step]
        for runner in {_drafter(seqs[i]).runner for i in going}:
            here = [i for i in going if _drafter(seqs[i]).runner is runner]
            size = runner.backend.rows // 2  # at its first token a drafter may be one behind: two rows
            for at in range(0, len(here), size):
                _write(runner, seqs, here[at : at + size], made, draws, ends)
    for i in ready:
        drafter = _drafter(seqs[i])
        drafter.at, drafter.ahead = _written(seqs[i]), made[i]
    if count := sum(map(len, made)):
        seconds, old = (clock() - began) / count, speculation.drafter_seconds
        speculation.drafter_seconds = old + STEP * (seconds - old) if old else seconds
    return made


def _write(
    runner: "Runner",
    seqs: "list[Sequence]",
    which: list[int],
    made: list[list[int]],
    draws: dict[int, torch.Generator | None],
    ends: frozenset[int],
) -> None:
    """One more token of the drafts of `which`, unless it ends the turn."""
    segments = []
    for i in which:
        drafter = _drafter(seqs[i])
        fresh = made[i][-1:] or _text(seqs[i], drafter.computed)
        segments.append(Segment(drafter.table, drafter.computed, fresh, 1))
        drafter.computed += len(fresh)
    for i, logits_V in zip(which, runner.backend.decode(segments).logits_WV, strict=True):
        if not seqs[i].request.stop_at_eos:
            logits_V[runner.loaded.eos] = float("-inf")
        token = choose(logits_V, seqs[i].request.sampling, draws[i])
        if token not in ends:
            made[i].append(token)


def _copied(generator: torch.Generator | None) -> torch.Generator | None:
    return None if generator is None else torch.Generator().set_state(generator.get_state())


def _settled(seq: "Sequence") -> bool:
    """Forget what was drafted and did not hold. Whether the text is there but for its last two tokens."""
    drafter, written = _drafter(seq), _written(seq)
    _, held = compared(drafter.ahead, _text(seq, drafter.at))
    drafter.computed = min(drafter.computed, drafter.at + held, written - 1)
    drafter.at, drafter.ahead = drafter.computed, []
    return bool(drafter.table) and written - drafter.computed <= 2


def _advance(seq: "Sequence") -> None:
    """One chunk of the text for the drafter, cut and shared like the prompts of its own requests."""
    drafter, prompt = _drafter(seq), seq.request.prompt
    runner = drafter.runner
    if not drafter.table:
        if runner.waiting:
            return
        drafter.keys = drafter.keys or runner.cache.keys_of(seq.org, prompt)
        usable = drafter.keys[: (len(prompt) - 1) // CHUNK]
        longest = min(len(prompt) + seq.limit, runner.loaded.tier.context)
        got = runner.cache.reserve(usable, longest)
        if got is None:
            return
        drafter.table, shared = got
        drafter.held = usable[:shared]
        drafter.computed = drafter.at = shared * CHUNK
    start, text = drafter.computed, _text(seq, 0)
    end = len(prompt) if start < len(prompt) else len(text) - 1
    end = min(end, len(text) - 1, start - start % CHUNK + CHUNK)
    if end <= start:
        return
    runner.backend.chunk(Segment(drafter.table, start, text[start:end], 0))
    drafter.computed = drafter.at = end
    index = start // CHUNK
    if end - start == CHUNK and end <= len(prompt) and index == len(drafter.held):
        blocks = tuple(drafter.table[index * BLOCKS_PER_CHUNK : (index + 1) * BLOCKS_PER_CHUNK])
        if runner.cache.publish(drafter.keys[index], blocks):
            drafter.held.append(drafter.keys[index])


def give_back(seq: "Sequence") -> None:
    """Draft no more for a sequence by the smaller tier, whose blocks become free."""
    if seq.drafts is None or seq.drafts.drafter is None:
        return
    drafter, seq.drafts.drafter = seq.drafts.drafter, None
    drafter.runner.cache.release(drafter.table, drafter.held)


def _drafter(seq: "Sequence") -> Drafter:
    assert seq.drafts is not None and seq.drafts.drafter is not None
    return seq.drafts.drafter


def _written(seq: "Sequence") -> int:
    return len(seq.request.prompt) + len(seq.tokens)


def _text(seq: "Sequence", start: int) -> list[int]:
    """Prompt and answer from a position on."""
    prompt = seq.request.prompt
    return [*prompt[start:], *seq.tokens[max(0, start - len(prompt)) :]]
