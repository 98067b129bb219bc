"""Drafts in the engine: an answer is the same with and without them, bit for bit, whoever drafts.

The engine's clock stands still here, so that drafts never cost anything and as many are checked as fit.
"""

import math
import random
from dataclasses import replace

import pytest
import torch
from tests.guarded import ALWAYS, classifier, profile_for, under
from tests.tiny import TEMPLATE, TinyHome, tiny_home, tiny_tensors, tiny_tier, tiny_tokenizer

from mythos.engine import choose
from mythos.engine import runner as runner_module
from mythos.engine.backend import Pass
from mythos.engine.cache import BLOCK, PagedCache
from mythos.engine.drafting import DRAFTER, LOOKUP, Draft, Drafts
from mythos.engine.generation import Generation
from mythos.engine.grammar import json_schema_grammar
from mythos.engine.native import build
from mythos.engine.request import Delta, Finish, Request, Sampling
from mythos.engine.runner import Runner
from mythos.engine.sampling import generator_for
from mythos.engine.sequence import Sequence
from mythos.engine.speculation import Speculation
from mythos.engine.text import TextStream
from mythos.gate.handling import issue_handling
from mythos.model.weights_dir import write_weights
from mythos.records.permit import Action
from mythos.records.principal import OPERATOR, Principal
from mythos.spec.family import Family
from mythos.store.weights import register
from mythos.store.weights_key import weights_keyring

GREEDY = Sampling(0.0)
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "s": {"enum": ["a", "b"]}},
    "required": ["n", "s"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("drafts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(path / "keys"))
        home = tiny_home(path, ("small", "other"))
        yield replace(home, family=with_twin(home))


def with_twin(tiny: TinyHome) -> Family:
    """The family and one tier more: the weights of `small` under another root, so all its drafts hold."""
    parent, config = tiny.home.weights_dir("0" * 64).parent, tiny.family.tiers[0].config
    root = write_weights(
        parent, weights_keyring(tiny.home), config, tiny_tensors(), tiny_tokenizer(), TEMPLATE + "\n"
    )
    envelope = issue_handling(tiny.home, tiny.clock, "tiny", "twin", root)
    register(tiny.store, tiny.clock, OPERATOR, "tiny", "twin", root, {"made_by": "random"}, envelope)
    return replace(tiny.family, tiers=(*tiny.family.tiers, tiny_tier("twin")))


def still() -> float:
    return 0.0


@pytest.fixture(scope="module")
def engine(tiny):
    with tiny.engine(clock=still) as engine:
        yield engine


def prompt_of(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).randrange(3, 259) for _ in range(length))


def repeating(length: int, seed: int) -> tuple[int, ...]:
    """Few different tokens: much of it stood there before."""
    return tuple(random.Random(seed).choices(range(40, 44), k=length))


def read(generation):
    """Everything that left, to the last bit: tokens, text, log-probabilities, and how it ended."""
    *deltas, done = list(generation)
    assert all(isinstance(d, Delta) for d in deltas)
    logprobs = [row for d in deltas for row in d.logprobs]
    return [t for d in deltas for t in d.tokens], "".join(d.text for d in deltas), logprobs, done


def figures(tiny, engine) -> dict[str, float]:
    """The engine's figures once every step begun has ended: it takes in the question between two steps."""
    engine.loaded(tiny.permit())
    return engine.stats()


REQUESTS = [
    Request(repeating(40, 1), 60, GREEDY),
    Request(prompt_of(20, 2), 60, GREEDY, stop_at_eos=False),
    Request(repeating(300, 3), 33, GREEDY, logprobs=3, stop_at_eos=False),
    Request(repeating(257, 4), 50, Sampling(1.0, seed=4), logprobs=0),
    Request(repeating(64, 5), 50, Sampling(0.7, 0.9, seed=5), stop_at_eos=False),
    Request(repeating(30, 6), 50, Sampling(1.3, 0.95, 20, seed=6), stop=("a", "zz")),
    Request(repeating(30, 7), 1, GREEDY, stop_at_eos=False),
    Request(repeating(30, 8), 2, GREEDY, stop_at_eos=False),
    Request(repeating(4060, 9), 100, GREEDY, stop_at_eos=False),  # ends with the context
    Request(prompt_of(12, 10), 60, Sampling(1.0, seed=10), grammar=json_schema_grammar(SCHEMA)),
    Request(repeating(12, 11), 60, Sampling(0.3, seed=11), grammar=json_schema_grammar(SCHEMA)),
    Request((5,), 40, GREEDY, stop_at_eos=False),
]


def answers(tiny, engine) -> list:
    """Every request by itself, token by token; and one more with a stop string that its answer has."""
    asked = list(REQUESTS)
    text = read(engine.submit(tiny.permit(), replace(asked[1], speculate=False)))[1]
    asked.append(replace(asked[1], stop=(text[30:33],)))
    return [(r, read(engine.submit(tiny.permit(), replace(r, speculate=False)))) for r in asked]


@pytest.fixture(scope="module")
def plain(tiny, engine):
    return answers(tiny, engine)


def same(got, wanted) -> bool:
    return got[:3] == wanted[:3] and replace(got[3], cached_tokens=0) == replace(wanted[3], cached_tokens=0)


def check(tiny, engine, plain, drafter: str | None) -> None:
    """The answers with drafts, alone and all at once; and drafts were made, and some held."""
    permit, second = tiny.permit(), tiny.permit(drafter) if drafter else None
    before = figures(tiny, engine)
    for request, wanted in plain:
        assert same(read(engine.submit(permit, request, second)), wanted), request
    order = random.Random(0).sample(range(len(plain)), len(plain))
    running = {i: engine.submit(permit, plain[i][0], second) for i in order}
    for i, generation in running.items():
        assert same(read(generation), plain[i][1]), plain[i][0]
    after = figures(tiny, engine)
    made = {name: after[name] - before[name] for name in before}
    assert made["lookup_held"] > 20 and made["lookup_drafted"] > made["lookup_held"]
    assert {w[3].finish for _, w in plain} >= {Finish.MAX_TOKENS, Finish.CONTEXT, Finish.STOP_STRING}
    assert drafter != "twin" or made["drafter_held"] > 20
    assert (made["drafter_passes"] > 0) == (drafter is not None)


@pytest.mark.parametrize("drafter", [None, "other", "twin"])
def test_an_answer_is_the_same_with_drafts_alone_and_in_company(tiny, engine, plain, drafter):
    check(tiny, engine, plain, drafter)


def test_so_it_is_on_the_native_backend(tiny, monkeypatch):
    if missing := [flag for flag in build.NEEDED if flag not in build.processor_flags()]:
        pytest.skip(f"this processor has no {missing[0]}")
    monkeypatch.setenv("MYTHOS_BACKEND", "native")
    with tiny.engine(backend=choose.maker(tiny.home, print), clock=still) as engine:
        assert engine.loaded(tiny.permit()).backend == "native-int8"
        check(tiny, engine, answers(tiny, engine), "twin")


def test_without_drafts_none_are_made(tiny, engine):
    before = figures(tiny, engine)
    read(engine.submit(tiny.permit(), replace(REQUESTS[0], speculate=False), tiny.permit("twin")))
    after = figures(tiny, engine)
    assert {n for n in after if after[n] != before[n]} <= {"requests", "prompt_tokens", "completion_tokens"}


def with_oracle(monkeypatch, wanted: list[int], wrong: bool) -> None:
    """Drafts that know the answer, and either say it or say something else."""

    def drafts_for(speculation, seqs, rooms, rows, ends, clock):
        (seq,) = seqs
        rest = wanted[len(seq.tokens) :][: min(rooms[0], rows - 1)]
        return [Draft(LOOKUP, [t + 1 if t < 300 else t - 1 for t in rest] if wrong else rest, [])]

    monkeypatch.setattr(runner_module, "drafts_for", drafts_for)


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, 0.9, seed=3)])
def test_drafts_that_are_always_right_or_always_wrong(tiny, engine, monkeypatch, wrong, sampling):
    request = Request(prompt_of(50, 3), 46, sampling, stop_at_eos=False)
    wanted = read(engine.submit(tiny.permit(), replace(request, speculate=False)))
    with_oracle(monkeypatch, wanted[0], wrong)
    speculation = engine.speculation(tiny.permit())
    engine.loaded(tiny.permit())
    before = speculation.costs.passes
    assert same(read(engine.submit(tiny.permit(), request)), wanted)
    # One token comes from the prompt; the other 45 one by one, or nine in a pass.
    assert speculation.costs.passes - before == (45 if wrong else 5)


@pytest.mark.parametrize(("every", "hold"), [(1, 0), (4, 4), (5, 3), (64, 64)])
def test_safeguards_read_every_kept_token_and_no_other(tiny, engine, monkeypatch, every, hold):
    """Refused at the same token with the same score, and the same text has left before."""
    root, prompt = tiny.permit().root, prompt_of(30, 5)
    whole = read(engine.submit(tiny.permit(), Request(prompt, 20, GREEDY, stop_at_eos=False)))
    with_oracle(monkeypatch, whole[0], wrong=False)
    for thresholds in ({"output": ALWAYS}, {"exchange": ALWAYS}, {}):
        profile = profile_for(root, classifier("cyber", **thresholds), check_every=every, hold_back=hold)
        permit = under(tiny, profile)
        for more in ({"n": 20}, {"n": 7}, {"n": 1}, {"n": 20, "stop": (whole[1][9:11],)}):
            request = Request(
                prompt, more["n"], GREEDY, stop=more.get("stop", ()), logprobs=1, stop_at_eos=False
            )
            wanted = read(engine.submit(permit, replace(request, speculate=False)))
            assert same(read(engine.submit(permit, request)), wanted), (thresholds, more)
            assert (wanted[3].finish is Finish.REFUSED) == bool(thresholds)


def test_cancelling_gives_back_the_blocks_of_both_tiers(tiny, engine):
    permit, second = tiny.permit(), tiny.permit("twin")
    read(engine.submit(permit, Request(prompt_of(9, 9), 4, GREEDY), second))
    used = figures(tiny, engine)["cache_blocks_used"]
    running = [
        engine.submit(permit, Request(prompt_of(100 + i, i), 2000, GREEDY, stop_at_eos=False), second)
        for i in range(3)
    ]
    for generation in running:
        for _ in range(8):
            next(iter(generation))
        generation.cancel()
    assert {read(g)[3].finish for g in running} == {Finish.CANCELLED}
    read(engine.submit(permit, Request(prompt_of(9, 9), 1, GREEDY)))
    assert figures(tiny, engine)["cache_blocks_used"] == used


def test_a_reader_that_falls_behind_is_not_overrun(tiny, engine):
    slow = engine.submit(tiny.permit(), Request(repeating(40, 1), 1000, GREEDY, stop_at_eos=False))
    for _ in range(20):
        read(engine.submit(tiny.permit(), Request(prompt_of(5, 6), 60, GREEDY, stop_at_eos=False)))
    assert slow.unread <= 513
    slow.cancel()
    read(slow)


REQUEST = Request(prompt_of(40, 21), 30, GREEDY, stop_at_eos=False)


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"action": Action.COUNT},
        {"expires_at": 1.0},
        {"decision": "dec_other"},
        {"root": "0" * 64},
        {"tier": "small"},
        {"principal": Principal("operator", "operator", "another")},
        {"principal": Principal("somebody", "operator", "local")},
    ],
)
def test_a_tier_that_the_caller_may_not_use_drafts_nothing(tiny, change):
    """It is not even loaded, and the answer is that of a caller who may."""
    permit, second = tiny.permit(), tiny.permit("twin")
    with tiny.engine(clock=still) as engine:
        wanted = read(engine.submit(permit, replace(REQUEST, speculate=False)))
        wrong = None if change is None else replace(second, **change)
        assert same(read(engine.submit(permit, REQUEST, wrong)), wanted)
        assert figures(tiny, engine)["loaded_tiers"] == 1 and figures(tiny, engine)["drafter_passes"] == 0
        assert same(read(engine.submit(permit, REQUEST, second)), wanted)  # its twin, who may
        assert figures(tiny, engine)["loaded_tiers"] == 2 and figures(tiny, engine)["drafter_passes"] > 0


@pytest.mark.parametrize("sampling", [Sampling(1.0, seed=5), Sampling(1.3, 0.95, 40, seed=6)])
def test_a_drafter_draws_with_the_numbers_of_the_sequence(tiny, engine, sampling):
    """At temperature 1 hardly a token has a chance of a half, and yet those of the same weights hold."""
    request = Request(prompt_of(40, 33), 80, sampling, logprobs=0, stop_at_eos=False)
    wanted = read(engine.submit(tiny.permit(), replace(request, speculate=False)))
    assert sum(row.logprob > math.log(0.5) for row in wanted[2]) < 40
    before = figures(tiny, engine)
    assert same(read(engine.submit(tiny.permit(), request, tiny.permit("twin"))), wanted)
    after = figures(tiny, engine)
    held, drafted = (after[n] - before[n] for n in ("drafter_held", "drafter_drafted"))
    assert drafted > 30 and held > 0.9 * drafted


def test_a_withdrawn_drafter_stops_and_the_answer_goes_on(tiny, engine):
    permit, second = tiny.permit(), tiny.permit("twin")
    request = replace(REQUEST, max_tokens=1500)
    wanted = read(engine.submit(permit, replace(request, max_tokens=600, speculate=False)))
    read(engine.submit(permit, REQUEST, second))
    generation = engine.submit(permit, request, second)
    tokens = []
    for event in generation:
        tokens += event.tokens
        if len(tokens) >= 20:
            break
    generation.drafter_withdrawn = True
    before = figures(tiny, engine)["drafter_passes"]  # the step that was on its way has ended
    while len(tokens) < 600:
        tokens += next(iter(generation)).tokens
    rest = read(generation)
    assert tokens[:600] == wanted[0] and len(tokens) + len(rest[0]) == 1500
    assert figures(tiny, engine)["drafter_passes"] == before


def test_a_tier_of_another_vocabulary_drafts_nothing(tiny, engine, monkeypatch):
    loaded = engine.loaded(tiny.permit("other"))
    monkeypatch.setattr(loaded.tokenizer, "digest", "0" * 64)
    before = figures(tiny, engine)["drafter_passes"]
    read(engine.submit(tiny.permit(), REQUEST, tiny.permit("other")))
    assert figures(tiny, engine)["drafter_passes"] == before


def test_a_drafter_for_which_there_is_no_memory_is_done_without(tiny):
    permit, second = tiny.permit(), tiny.permit("twin")
    with tiny.engine(memory_limit=7 << 20, clock=still) as engine:
        wanted = read(engine.submit(permit, replace(REQUEST, speculate=False)))
        assert same(read(engine.submit(permit, REQUEST, second)), wanted)
        assert figures(tiny, engine)["loaded_tiers"] == 1


class Chain:
    """A backend whose logits follow from the last token alone: what is drawn can be counted exactly."""

    name, rows, torch_threads = "chain", 16, False

    def __init__(self, logits_VV: torch.Tensor, positions: int, seconds=lambda rows: 0.0) -> None:
        self.cache = PagedCache(1, 1, 16, positions // BLOCK + 2, torch.bfloat16, b"")
        self.logits_VV, self.seconds = logits_VV, seconds
        self.rows_of: list[int] = []  # of each pass
        self.now = 0.0

    def chunk(self, segment, layers=()) -> Pass:
        return self.decode([segment])

    def decode(self, segments, layers=()) -> Pass:
        self.rows_of.append(sum(len(s.tokens) for s in segments))
        self.now += self.seconds(self.rows_of[-1])
        last = [token for s in segments for token in list(s.tokens)[len(s.tokens) - s.wanted :]]
        return Pass(self.logits_VV[torch.tensor(last, dtype=torch.long)], {})


def run_through(runner: Runner, samplings: list[Sampling], tokens: int) -> list[Sequence]:
    """Answers of so many tokens to the prompt of one token, 40; nothing is left unread."""
    seqs = [
        Sequence(
            request=Request((40,), tokens, sampling),
            generation=Generation(lambda _: None),
            org="", root="", decision="",
            text=TextStream(()),
            generator=generator_for(sampling),
            limit=tokens,
            on_end=lambda _: None,
            drafts=Drafts(),
        )
        for sampling in samplings
    ]  # fmt: skip
    for seq in seqs:
        runner.add(seq)
    while runner.busy:
        runner.step()
        for seq in seqs:
            while seq.generation.unread and not seq.finished:
                next(iter(seq.generation))
    return seqs


@pytest.mark.parametrize(
    ("streams", "seconds", "share"),
    [
        (1, lambda rows: 1.0 + 0.01 * rows, (0.9, 1.0)),  # rows are nearly free
        (1, lambda rows: 1.0 * rows, (0.0, 0.05)),  # a row costs a pass: off, but for a look now and then
        (4, lambda rows: 1.0 + 0.01 * rows, (0.9, 1.0)),
        (4, lambda rows: 1.0 * max(4, rows), (0.0, 0.05)),
        (16, lambda rows: 1.0 + 0.01 * rows, (0.0, 0.0)),  # no rows are left
    ],
)
def test_drafts_are_made_where_they_pay(tiny, engine, streams, seconds, share):
    """Texts of eight tokens over and over, which prompt lookup foresees; the clock shows what rows cost."""
    logits_VV = torch.zeros(512, 512)
    for token in range(40, 48):
        logits_VV[token, 40 + (token - 39) % 8] = 9.0
    backend = Chain(logits_VV, 16 * 700, seconds)
    runner = Runner(engine.loaded(tiny.permit()), backend, Speculation(), lambda: backend.now)
    seqs = run_through(runner, [GREEDY] * streams, 600)
    assert all(seq.tokens == [40 + n % 8 for n in range(1, 601)] for seq in seqs)
    passes = backend.rows_of[streams + 30 :]  # prompts, and the time to learn
    drafted = sum(rows > streams for rows in passes) / len(passes)
    assert share[0] <= drafted <= share[1], drafted


@pytest.mark.parametrize("sampling", [Sampling(0.8, seed=1), Sampling(1.2, 0.9, 5, seed=2)])
def test_what_is_drawn_has_the_tiers_distribution(tiny, engine, monkeypatch, sampling):
    """A draft of token x holds with probability p(x), and kept tokens are distributed as p: chi-square."""
    loaded, vocab, draws = engine.loaded(tiny.permit()), 8, 6000
    logits_VV = torch.full((512, 512), float("-inf"))
    logits_VV[:vocab, 40 : 40 + vocab] = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(7))
    logits_VV[40 : 40 + vocab] = logits_VV[:vocab]
    tried, held = torch.zeros(vocab, vocab), torch.zeros(vocab, vocab)
    chance = random.Random(3)

    def drafts_for(speculation, seqs, rooms, rows, ends, clock):
        return [Draft(LOOKUP, chance.choices(range(40, 40 + vocab), k=min(3, rooms[0])), [])]

    def learn(speculation, seq, draft, chosen):
        before = seq.tokens[-len(chosen) - 1]
        for guess, token in zip(draft.tokens, chosen, strict=False):
            tried[before - 40, guess - 40] += 1
            held[before - 40, guess - 40] += guess == token
            before = token
            if guess != token:
                break

    monkeypatch.setattr(runner_module, "drafts_for", drafts_for)
    monkeypatch.setattr(runner_module, "learn", learn)
    (seq,) = run_through(Runner(loaded, Chain(logits_VV, draws), Speculation(), still), [sampling], draws)
    scaled_VV = logits_VV[40 : 40 + vocab, 40 : 40 + vocab] / sampling.temperature
    p_VV = torch.softmax(scaled_VV, -1)
    if sampling.top_k:
        values, ids = scaled_VV.topk(sampling.top_k, -1)
        probs = torch.softmax(values, -1)
        probs = probs * (probs.cumsum(-1) - probs < sampling.top_p)
        p_VV = torch.zeros(vocab, vocab).scatter(-1, ids, probs / probs.sum(-1, keepdim=True))
    count_VV = torch.zeros(vocab, vocab)
    for before, token in zip(seq.tokens, seq.tokens[1:], strict=False):
        count_VV[before - 40, token - 40] += 1
    wanted_VV = p_VV * count_VV.sum(-1, keepdim=True)
    assert not count_VV[p_VV == 0].any()
    some = wanted_VV > 5
    square = ((count_VV - wanted_VV)[some] ** 2 / wanted_VV[some]).sum()
    free = int(some.sum()) - vocab
    assert square < free + 3.1 * (2 * free) ** 0.5, (float(square), free)  # about one in a thousand
    enough = tried > 20
    spread = ((held / tried - p_VV) / (p_VV * (1 - p_VV) / tried).sqrt().clamp(min=1e-9))[enough & (p_VV > 0)]
    assert not held[p_VV == 0].any() and float(spread.abs().max()) < 4


def test_kinds_have_the_names_of_the_figures(engine):
    assert {f"{kind}_held" for kind in (LOOKUP, DRAFTER)} <= set(engine.stats())
