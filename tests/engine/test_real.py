"""The engine on real weights: it knows a capital, and `exact` holds over many prompts in mixed company."""

import random
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from mythos.cli.bench_prompts import PROMPTS
from mythos.data.chat import encode_chat
from mythos.engine.attention import chunk_attend, decode_attend
from mythos.engine.cache import CHUNK, PagedCache
from mythos.engine.engine import Engine
from mythos.engine.loader import Loader
from mythos.engine.request import Delta, Done, Request, Sampling
from mythos.gate.authorize import authorize, load_standing
from mythos.records.clock import Clock
from mythos.records.permit import Action, Permit
from mythos.records.principal import OPERATOR
from mythos.spec.load import load_family
from mythos.store.db import Store
from mythos.store.home import Home

WORDS = [
    "the",
    "a",
    "model",
    "of",
    "weights",
    "gate",
    "server",
    "tier",
    "river",
    "mountain",
    "Paris",
    "capital",
    "number",
    "seven",
    "prime",
    "code",
    "function",
    "return",
    "print",
    "question",
    "answer",
    "why",
    "how",
    "explain",
    "short",
    "long",
    "list",
    "story",
    "history",
    "energy",
    "planet",
    "doctor",
    "music",
    "paper",
    "bridge",
    "winter",
    "green",
    "market",
    "letter",
    "window",
    "engine",
    "memory",
    "science",
    "garden",
    "teacher",
    "kitchen",
    "travel",
    "water",
    "simple",
    "large",
]  # noqa: SIM905


@pytest.fixture(scope="module")
def opus(opus_home):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in opus_home.items():
            patch.setenv(name, value)
        home = Home.open()
        store = Store.open(home)
        standing = load_standing(home, store, load_family("pocket"))
        permit = authorize(standing, OPERATOR, Action.ANSWER, "opus", "local_tryout", Clock().now())
        assert isinstance(permit, Permit), permit
        tier = standing.family.tier("opus")

        @contextmanager
        def start(clock=time.perf_counter):
            decision = standing.decisions["opus"]
            engine = Engine(Loader(home), lambda *_: (tier, decision), 4 << 30, clock=clock)
            engine.start()
            try:
                yield engine
            finally:
                engine.stop()

        yield start, permit


def read(generation) -> tuple[list[int], str, Done]:
    tokens, text = [], ""
    for event in generation:
        if isinstance(event, Done):
            return tokens, text, event
        assert isinstance(event, Delta)
        tokens += event.tokens
        text += event.text
    raise AssertionError


def test_it_knows_the_capital_of_france(opus):
    start, permit = opus
    with start() as engine:
        loaded = engine.loaded(permit)
        question = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = encode_chat(loaded.tokenizer, loaded.chat_template, question)
        _, text, done = read(engine.submit(permit, Request(tuple(prompt), 40, Sampling(0.0))))
        assert "Paris" in text and done.finish == "end"


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(0.7, 0.9, seed=7)])
def test_drafts_change_no_token(opus, sampling):
    """Texts and code that repeat their prompts, one by one without drafts and all at once with them."""
    start, permit = opus
    with start(clock=lambda: 0.0) as engine:
        loaded = engine.loaded(permit)
        asked = []
        for text in (*PROMPTS["edit"][:3], PROMPTS["code"][0]):
            turn = [{"role": "user", "content": text}]
            prompt = tuple(encode_chat(loaded.tokenizer, loaded.chat_template, turn))
            asked.append(Request(prompt, 40, sampling))
        alone = [read(engine.submit(permit, replace(r, speculate=False)))[:2] for r in asked]
        together = [engine.submit(permit, r) for r in asked]
        assert [read(g)[:2] for g in together] == alone
        assert engine.stats()["lookup_held"] > 0


def exact(opus, prompts: int, tokens: int) -> None:
    """The same bits alone and in two random mixes, one with the prefix cache at work and one without.

    Without: each request comes from an organisation of its own, and none shares with another.
    """
    start, permit = opus
    rng = random.Random(5)
    with start() as engine:
        encode = engine.loaded(permit).tokenizer.encode
        shared = [encode(" ".join(rng.choices(WORDS, k=500))) for _ in range(-(-prompts // 50))]
        asked = []
        for index in range(prompts):
            own = encode(" ".join(rng.choices(WORDS, k=rng.choice([3, 20, 60, 200, 300]))))
            asked.append(tuple((rng.choice(shared) if index % 3 == 0 else []) + own))
        one = [Request(p, tokens, Sampling(0.0), stop_at_eos=False) for p in asked]
        alone = [read(engine.submit(permit, r)) for r in one]
    assert any(d.cached_tokens for _, _, d in alone) and any(not d.cached_tokens for _, _, d in alone)
    for width, sharing in ((-(-prompts // 8), True), (-(-prompts // 4), False)):
        order = list(range(prompts))
        random.Random(width).shuffle(order)
        got = {}
        with start() as engine:
            for at in range(0, prompts, width):
                mix = {}
                for i in order[at : at + width]:
                    org = "local" if sharing else f"org-{i}"
                    caller = replace(permit, principal=replace(OPERATOR, org=org))
                    mix[i] = engine.submit(caller, one[i])
                got |= {i: read(g) for i, g in mix.items()}
        assert any(d.cached_tokens for _, _, d in got.values()) == sharing
        wrong = [i for i in order if got[i][0] != alone[i][0]]
        assert not wrong, f"in mixes of {width}: other tokens for {wrong}"


@pytest.mark.parametrize("steps", [16, pytest.param(40, marks=pytest.mark.slow)])
def test_logits_keep_their_bits_in_any_company(opus, steps):
    """Sharper than tokens, which change only where logits nearly tie: alone, in groups, in other pages."""
    start, permit = opus
    rng = random.Random(3)
    with start() as engine, torch.inference_mode():
        loaded = engine.loaded(permit)
        c = loaded.tier.config
        caches = [PagedCache(c.layers, c.kv_heads, c.head_dim, 160, loaded.dtype, b"") for _ in range(2)]
        lengths = [rng.choice([5, 63, 64, 100, 255, 256, 257, 300, 420]) for _ in range(12)]
        caches[1].reserve([], 700)  # so that the two caches hand out different blocks
        tables = [[(cache.reserve([], n + 40) or ([], 0))[0] for n in lengths] for cache in caches]
        for n, one, two in zip(lengths, *tables, strict=True):
            prompt = torch.tensor(rng.choices(range(300, 40_000), k=n))
            for cache, table in zip(caches, (one, two), strict=True):
                for at in range(0, n, CHUNK):
                    part = prompt[at : at + CHUNK]
                    attend = chunk_attend(cache, table, at, len(part))
                    loaded.model(
                        part,
                        torch.arange(at, at + len(part)),
                        attend,
                        rows=torch.tensor([], dtype=torch.long),
                    )
        for step in range(steps):
            tokens = torch.tensor(rng.choices(range(300, 40_000), k=12))
            alone = [
                loaded.model(
                    tokens[i : i + 1],
                    torch.tensor([n + step]),
                    decode_attend(caches[0], [tables[0][i]], [n + step + 1]),
                )
                for i, n in enumerate(lengths)
            ]
            order = rng.sample(range(12), 12)
            cut = rng.randrange(1, 12)
            for group in (order[:cut], order[cut:]):
                ends = [lengths[i] + step + 1 for i in group]
                attend = decode_attend(caches[1], [tables[1][i] for i in group], ends)
                together = loaded.model(tokens[group], torch.tensor(ends) - 1, attend)
                for row, i in enumerate(group):
                    assert torch.equal(together[row], alone[i][0]), (step, i, len(group))


def test_exact_on_a_few_prompts(opus):
    exact(opus, 12, 8)


@pytest.mark.slow
def test_exact_on_two_hundred_prompts(opus):
    exact(opus, 200, 128)
