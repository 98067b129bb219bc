"""The engine on a tiny random model: exactness, limits, cancellation, permits, grammar."""

import json
import random
from dataclasses import replace

import jsonschema
import pytest
from tests.tiny import tiny_home

from mythos.engine.grammar import json_schema_grammar
from mythos.engine.request import Delta, Done, Finish, InvalidRequest, Request, Sampling, Stopping
from mythos.records.errors import MythosError
from mythos.records.permit import Action

GREEDY = Sampling(0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, monkeypatch_module):
    path = tmp_path_factory.mktemp("engine")
    monkeypatch_module.setenv("MYTHOS_KEYS", str(path / "keys"))
    return tiny_home(path, ("small", "other"))


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def engine(tiny):
    with tiny.engine() as engine:
        yield engine


def prompt_of(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).randrange(3, 259) for _ in range(length))


def collect(generation) -> tuple[list[int], str, Done]:
    tokens, text = [], ""
    for event in generation:
        if isinstance(event, Delta):
            tokens += event.tokens
            text += event.text
        else:
            return tokens, text, event
    raise AssertionError("a generation must end with Done")


def ask(engine, permit, prompt, n=24, **more) -> Request:
    more.setdefault("sampling", GREEDY)
    return collect(engine.submit(permit, Request(prompt, n, stop_at_eos=False, **more)))


def test_tokens_are_the_same_alone_and_among_others_cached_and_not(tiny):
    prompts = [prompt_of(n, i) for i, n in enumerate([1, 5, 255, 256, 257, 300, 512, 513, 700, 40] * 3)]
    prompts += [prompts[8][:600] + prompt_of(50, 99), prompts[8]]  # share whole chunks
    permit = tiny.permit()
    alone = []
    for p in prompts:
        with tiny.engine() as fresh:  # nothing cached
            alone.append(ask(fresh, permit, p)[0])
    for seed in range(3):
        order = list(range(len(prompts)))
        random.Random(seed).shuffle(order)
        with tiny.engine() as busy:
            running = {
                i: busy.submit(permit, Request(prompts[i], 24, GREEDY, stop_at_eos=False)) for i in order
            }
            got = {i: collect(g) for i, g in running.items()}
        for i, tokens in enumerate(alone):
            assert got[i][0] == tokens, (seed, i)
    with tiny.engine() as warm:
        first = [ask(warm, permit, p) for p in prompts]
        again = [ask(warm, permit, p) for p in prompts]
    assert [t for t, _, _ in again] == alone == [t for t, _, _ in first]
    assert [d.cached_tokens for _, _, d in again] == [(len(p) - 1) // 256 * 256 for p in prompts]


def test_a_seed_gives_the_same_answer_in_company(tiny, engine):
    permit = tiny.permit()
    request = Request(prompt_of(30, 7), 40, Sampling(1.0, 0.95, seed=11), stop_at_eos=False)
    alone = collect(engine.submit(permit, request))[0]
    company = [engine.submit(permit, replace(request, sampling=Sampling(1.0, seed=s))) for s in range(5)]
    among = collect(engine.submit(permit, request))[0]
    for generation in company:
        collect(generation)
    assert alone == among and len(alone) == 40


def test_another_organisation_does_not_share_the_prefix(tiny, engine):
    prompt = prompt_of(600, 31)
    ask(engine, tiny.permit(), prompt)
    assert ask(engine, tiny.permit(), prompt)[2].cached_tokens == 512
    assert ask(engine, tiny.permit(org="another"), prompt)[2].cached_tokens == 0


def test_finish_reasons(tiny, engine):
    permit = tiny.permit()
    tokens, text, done = ask(engine, permit, prompt_of(20, 1), 30)
    assert done.finish is Finish.MAX_TOKENS and done.completion_tokens == len(tokens) == 30
    assert done.prompt_tokens == 20
    stop = text[5:8]
    _, cut, done = ask(engine, permit, prompt_of(20, 1), 30, stop=(stop,))
    assert done.finish is Finish.STOP_STRING and done.stop == stop and cut == text[: text.find(stop)]
    nothing, text, done = ask(engine, permit, prompt_of(300, 1), 0)
    assert (nothing, text, done.finish, done.completion_tokens) == ([], "", Finish.MAX_TOKENS, 0)
    assert ask(engine, permit, prompt_of(300, 1), 1)[2].cached_tokens == 256
    done = ask(engine, permit, prompt_of(4090, 1), 30)[2]
    assert done.finish is Finish.CONTEXT and done.completion_tokens == 6


def test_max_tokens_zero_fills_the_cache_only(tiny, engine):
    done = ask(engine, tiny.permit(), prompt_of(520, 77), 0)[2]
    assert done.cached_tokens == 0
    assert ask(engine, tiny.permit(), prompt_of(520, 77), 0)[2].cached_tokens == 512


def test_a_grammar_is_kept(tiny, engine):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}, "s": {"enum": ["a", "b"]}},
        "required": ["n", "ok", "s"],
        "additionalProperties": False,
    }
    ended = 0
    for seed in range(8):
        request = Request(
            prompt_of(10, seed), 200, Sampling(1.0, seed=seed), grammar=json_schema_grammar(schema)
        )
        _, text, done = collect(engine.submit(tiny.permit(), request))
        assert done.finish in (Finish.END, Finish.MAX_TOKENS), done
        if done.finish is Finish.END:
            ended += 1
            jsonschema.validate(json.loads(text), schema)
    assert ended


def test_a_broken_grammar_fails_alone(tiny, engine):
    permit = tiny.permit()
    other = engine.submit(permit, Request(prompt_of(10, 1), 50, GREEDY, stop_at_eos=False))
    done = ask(engine, permit, prompt_of(10, 2), grammar="not a grammar")[2]
    assert done.finish is Finish.FAILED and "grammar" in (done.error or "")
    assert collect(other)[2].finish is Finish.MAX_TOKENS


def test_logprobs_come_with_every_token(tiny, engine):
    request = Request(prompt_of(10, 3), 12, GREEDY, logprobs=3, stop_at_eos=False)
    rows, tokens = [], []
    for event in engine.submit(tiny.permit(), request):
        if isinstance(event, Delta):
            rows += event.logprobs
            tokens += event.tokens
    assert [r.token for r in rows] == tokens and len(rows) == 12
    for row in rows:
        assert len(row.top) == 3 and row.top[0][0] == row.token and row.logprob == row.top[0][2]


def test_cancelling_ends_and_gives_the_memory_back(tiny, engine):
    permit = tiny.permit()
    used = engine.stats()["cache_blocks_used"]
    running = [
        engine.submit(permit, Request(prompt_of(200 + i, i), 1000, GREEDY, stop_at_eos=False))
        for i in range(6)
    ]
    for generation in running:
        generation.cancel()
    assert {collect(g)[2].finish for g in running} <= {Finish.CANCELLED}
    ask(engine, permit, prompt_of(3, 3), 1)
    assert engine.stats()["cache_blocks_used"] == used
    assert engine.stats()["running"] == engine.stats()["waiting"] == 0


def test_a_reader_that_falls_behind_pauses_its_own_request_only(tiny, engine):
    permit = tiny.permit()
    slow = engine.submit(permit, Request(prompt_of(5, 5), 1000, GREEDY, stop_at_eos=False))
    for _ in range(20):
        ask(engine, permit, prompt_of(5, 6), 60)
    assert slow.unread <= 513
    slow.cancel()
    collect(slow)


def test_more_requests_than_memory_all_finish(tiny):
    with tiny.engine(memory_limit=24 << 20) as engine:
        permit = tiny.permit()
        running = [
            engine.submit(permit, Request(prompt_of(900 + i, i), 100, GREEDY, stop_at_eos=False))
            for i in range(12)
        ]
        assert {collect(g)[2].finish for g in running} == {Finish.MAX_TOKENS}


def test_two_tiers_take_turns_and_the_idle_one_leaves(tiny):
    small, other = tiny.permit("small"), tiny.permit("other")
    with tiny.engine() as engine:
        a = ask(engine, small, prompt_of(50, 1))[0]
        b = ask(engine, other, prompt_of(50, 1))[0]
        assert a != b and engine.stats()["loaded_tiers"] == 2
        both = [
            engine.submit(p, Request(prompt_of(50, 1), 24, GREEDY, stop_at_eos=False)) for p in (small, other)
        ]
        assert [collect(g)[0] for g in both] == [a, b]
    with tiny.engine(memory_limit=7 << 20) as engine:
        assert ask(engine, small, prompt_of(50, 1))[0] == a
        assert ask(engine, other, prompt_of(50, 1))[0] == b
        assert engine.stats()["loaded_tiers"] == 1
        assert ask(engine, small, prompt_of(50, 1))[0] == a


@pytest.mark.parametrize(
    "change",
    [
        {"action": Action.COUNT},
        {"root": "0" * 64},
        {"tier": "other"},
        {"decision": "dec_other"},
        {"expires_at": 1.0},
    ],
)
def test_without_exactly_this_permit_nothing_is_generated(tiny, engine, change):
    request = Request(prompt_of(5, 5), 3, GREEDY)
    with pytest.raises((PermissionError, KeyError)):
        engine.submit(replace(tiny.permit(), **change), request)
    with pytest.raises(PermissionError):
        engine.submit(None, request)
    assert collect(engine.submit(tiny.permit(), request))[2].finish in (Finish.MAX_TOKENS, Finish.END)


@pytest.mark.parametrize("prompt", [(), (-1,), (512,), tuple([5] * 4096), tuple([5] * 5000)])
def test_prompts_that_cannot_run_are_refused(tiny, engine, prompt):
    with pytest.raises(InvalidRequest):
        engine.submit(tiny.permit(), Request(prompt, 5, GREEDY))


def test_changed_weights_are_not_loaded(tiny, tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("changed")
    monkeypatch.setenv("MYTHOS_KEYS", str(path / "keys"))
    changed = tiny_home(path)
    permit = changed.permit()
    file = changed.home.weights_dir(permit.root) / "model.safetensors.enc"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    with changed.engine() as engine:
        done = ask(engine, permit, prompt_of(5, 5), 3)[2]
        assert done.finish is Finish.FAILED and "changed" in (done.error or "")
        with pytest.raises(MythosError, match="changed"):
            engine.loaded(permit)


def test_stopping_drains_then_refuses(tiny):
    with tiny.engine() as engine:
        permit = tiny.permit()
        running = engine.submit(permit, Request(prompt_of(5, 5), 30, GREEDY, stop_at_eos=False))
        engine.stop(drain_seconds=30)
        assert collect(running)[2].finish is Finish.MAX_TOKENS
        with pytest.raises(Stopping):
            engine.submit(permit, Request(prompt_of(5, 5), 30, GREEDY))
    with tiny.engine() as engine:
        running = engine.submit(permit, Request(prompt_of(5, 5), 1000, GREEDY, stop_at_eos=False))
        engine.stop()
        assert collect(running)[2].finish is Finish.CANCELLED


async def _read(generation) -> str:
    text = ""
    async for events in generation.batches():
        text += "".join(event.text for event in events if isinstance(event, Delta))
    return text


def test_async_readers_get_the_same_events(tiny, engine):
    import asyncio

    async def both() -> list[str]:
        request = Request(prompt_of(9, 9), 50, GREEDY, stop_at_eos=False)
        return await asyncio.gather(*(_read(engine.submit(tiny.permit(), request)) for _ in range(3)))

    texts = asyncio.run(both())
    assert texts == [ask(engine, tiny.permit(), prompt_of(9, 9), 50)[1]] * 3
