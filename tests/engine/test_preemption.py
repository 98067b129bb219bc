"""Lanes, sequences put aside, the budget of prompt chunks, places in the queue, on a tiny random model."""

from itertools import count

import pytest
from tests.engine.test_engine import GREEDY, ask, collect, prompt_of
from tests.tiny import tiny_home

from mythos.engine import engine as engine_module
from mythos.engine.backend import Eager
from mythos.engine.cache import BLOCK
from mythos.engine.engine import Engine
from mythos.engine.generation import Generation
from mythos.engine.grammar import json_schema_grammar
from mythos.engine.loader import Loader
from mythos.engine.request import Delta, Done, Finish, Lane, Overloaded, Request, Sampling
from mythos.engine.runner import MAX_BATCH, MAX_UNREAD, Runner
from mythos.engine.sampling import generator_for
from mythos.engine.sequence import Sequence
from mythos.engine.text import TextStream

BLOCKS = 16  # of a small pool: 1024 positions
PLENTY = 1 << 30


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("scheduling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(path / "keys"))
        yield tiny_home(path)


@pytest.fixture(scope="module")
def loaded(tiny):
    with tiny.engine() as engine:
        yield engine.loaded(tiny.permit())


def runner_of(loaded, blocks: int = BLOCKS) -> Runner:
    """By its clock everything takes one second: a chunk comes with every pass, as a test can count."""
    runner = Runner(loaded, Eager(loaded, blocks, b"secret"), clock=count().__next__)
    runner.spare = PLENTY
    return runner


def added(runner: Runner, request: Request, org: str = "local") -> Sequence:
    seq = Sequence(
        request=request,
        generation=Generation(lambda _: None),
        org=org,
        root="",
        decision="",
        text=TextStream(request.stop),
        generator=generator_for(request.sampling),
        limit=request.max_tokens,
        on_end=lambda _: None,
    )
    runner.add(seq)
    return seq


def said(seq: Sequence) -> tuple[str, list, Done]:
    """What a reader gets: text, log-probabilities and the end."""
    text, rows = "", []
    for event in seq.generation:
        if isinstance(event, Delta):
            text += event.text
            rows += event.logprobs
        else:
            return text, rows, event
    raise AssertionError("a generation ends with Done")


def finish(runner: Runner) -> None:
    while runner.busy:
        runner.step()


SCHEMA = json_schema_grammar({"type": "string", "minLength": 100, "maxLength": 200})
BATCH = {
    "greedy": Request(prompt_of(300, 1), 60, GREEDY, logprobs=3, stop_at_eos=False, lane=Lane.BATCH),
    "sampled": Request(prompt_of(70, 2), 60, Sampling(1.0, seed=5), stop_at_eos=False, lane=Lane.BATCH),
    "grammar": Request(prompt_of(90, 3), 60, Sampling(1.0, seed=6), grammar=SCHEMA, lane=Lane.BATCH),
    "whole chunks": Request(prompt_of(512, 4), 60, GREEDY, logprobs=1, stop_at_eos=False, lane=Lane.BATCH),
}


@pytest.mark.parametrize("name", BATCH)
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_put_aside_or_not_the_answer_is_the_same_bit_for_bit(loaded, name, steps):
    """Log-probabilities too; the pool is used by others in between, and shared chunks are gone."""
    alone = runner_of(loaded)
    wanted = added(alone, BATCH[name])
    finish(alone)

    runner = runner_of(loaded)
    seq = added(runner, BATCH[name])
    for _ in range(steps):
        runner.step()
    whole = [added(runner, Request(prompt_of(900, n), 40, GREEDY, stop_at_eos=False)) for n in range(2)]
    runner.step()
    assert seq in runner.waiting and runner.preemptions == 1 and not seq.table and seq.saved
    assert runner.saved_bytes == sum(copy.nbytes for copy in seq.saved) > 0
    finish(runner)
    assert seq.tokens == wanted.tokens and len(seq.tokens) > 20
    text, rows, done = said(seq)
    assert (text, rows) == said(wanted)[:2]
    assert done.finish is said_finish(wanted) and done.completion_tokens == len(wanted.tokens)
    assert all(said(other)[2].finish is Finish.MAX_TOKENS for other in whole)
    assert runner.cache.used == runner.saved_bytes == 0 and not seq.saved


def said_finish(seq: Sequence) -> Finish:
    return Finish.MAX_TOKENS if len(seq.tokens) == seq.limit else Finish.END


def test_the_youngest_of_the_batch_lane_goes_first_and_comes_back_in_order(loaded):
    runner = runner_of(loaded, blocks=24)
    batch = [
        added(runner, Request(prompt_of(200, n), 40, GREEDY, stop_at_eos=False, lane=Lane.BATCH))
        for n in range(3)
    ]
    fast = added(runner, Request(prompt_of(20, 9), 200, GREEDY, stop_at_eos=False))
    for _ in range(6):
        runner.step()
    assert set(runner.running) == {*batch, fast}
    late = added(runner, Request(prompt_of(700, 8), 4, GREEDY, stop_at_eos=False))
    runner.step()
    # 12 of 24 blocks are needed, 8 are free: one has to go, and it is not an interactive one.
    assert runner.waiting == [batch[2]] and late in runner.prefill and fast in runner.running
    ended = []
    for seq in [*batch, fast, late]:
        seq.on_end = ended.append
    finish(runner)
    assert ended.index(late) < ended.index(batch[2]) and ended.index(batch[0]) < ended.index(batch[2])


def test_what_is_put_aside_can_be_cancelled_and_gives_its_memory_back(loaded):
    runner = runner_of(loaded)
    seq = added(runner, BATCH["greedy"])
    for _ in range(5):
        runner.step()
    other = added(runner, Request(prompt_of(900, 5), 40, GREEDY, stop_at_eos=False))
    runner.step()
    assert seq.saved and runner.saved_bytes > 0
    seq.generation.cancel()
    runner.step()
    assert said(seq)[2].finish is Finish.CANCELLED
    assert runner.saved_bytes == 0 and seq not in runner.sequences() and not seq.saved
    finish(runner)
    assert said(other)[2].finish is Finish.MAX_TOKENS and runner.cache.used == 0


@pytest.mark.parametrize("why", ["no memory for the copy", "a cache in several places"])
def test_what_cannot_be_copied_is_not_put_aside(loaded, why):
    runner = runner_of(loaded)
    if why == "no memory for the copy":
        runner.spare = 1000
    else:
        runner.backend.whole = False
    seq = added(runner, BATCH["greedy"])
    for _ in range(5):
        runner.step()
    other = added(runner, Request(prompt_of(900, 5), 40, GREEDY, stop_at_eos=False))
    runner.step()
    assert seq in runner.running and other in runner.waiting and runner.preemptions == 0
    finish(runner)
    assert said(seq)[2].finish is said(other)[2].finish is Finish.MAX_TOKENS


def test_places_are_given_up_as_well_as_blocks(loaded):
    runner = runner_of(loaded, blocks=2 * MAX_BATCH)
    for n in range(MAX_BATCH):
        added(runner, Request(prompt_of(5, n), 50, GREEDY, stop_at_eos=False, lane=Lane.BATCH))
    runner.step()
    fast = added(runner, Request(prompt_of(5, 99), 5, GREEDY, stop_at_eos=False))
    runner.step()
    assert fast in runner.running and len(runner.running) + len(runner.prefill) == MAX_BATCH


def test_a_batch_request_that_waited_long_runs_to_its_end(loaded):
    """The pool holds one at a time, and there is always another interactive request."""
    runner = runner_of(loaded)
    slow = added(runner, Request(prompt_of(40, 1), 900, GREEDY, stop_at_eos=False, lane=Lane.BATCH))
    fast = [added(runner, Request(prompt_of(500, 2), 400, GREEDY, stop_at_eos=False))]
    served = 0
    while slow.generation.unread < 2 and served < 12:
        runner.step()
        if not any(s.lane is Lane.INTERACTIVE for s in runner.waiting):
            fast.append(added(runner, Request(prompt_of(500, served), 400, GREEDY, stop_at_eos=False)))
            served += 1
    assert slow.kept and slow in runner.running and runner.preemptions <= 1
    for _ in range(5):
        runner.step()
        assert slow in runner.running  # nobody puts it aside again
    for seq in runner.sequences():
        seq.generation.cancel()
    finish(runner)
    assert runner.cache.used == 0


def test_prompts_leave_room_for_decoding_and_take_it_all_when_nobody_decodes(loaded):
    """By a clock that says: a chunk takes 0.7 seconds, a pass 0.1. So four passes lie between two chunks."""
    now, took = 0.0, {"chunk": 0.7, "decode": 0.1}
    runner = Runner(loaded, Eager(loaded, 64, b"secret"), clock=lambda: now)
    log = []

    def timed(name, inner):
        def run(*given):
            nonlocal now
            now += took[name]
            log.append(name)
            return inner(*given)

        return run

    runner._chunk, runner._decode = timed("chunk", runner._chunk), timed("decode", runner._decode)
    added(runner, Request(prompt_of(1500, 1), 1, GREEDY, stop_at_eos=False))
    finish(runner)
    assert log == ["chunk"] * 6
    stream = added(runner, Request(prompt_of(10, 2), 200, GREEDY, stop_at_eos=False))
    runner.step()
    runner.step()
    log.clear()
    added(runner, Request(prompt_of(1500, 3), 1, GREEDY, stop_at_eos=False))
    while log.count("chunk") < 6:
        tokens = len(stream.tokens)
        runner.step()
        assert len(stream.tokens) == tokens + 1  # no step without one
    between = "".join(name[0] for name in log).strip("d").split("c")[1:-1]
    assert [len(part) for part in between] == [4] * 5, between
    # A stream of the batch lane is not what a prompt waits for.
    stream.generation.cancel()
    added(runner, Request(prompt_of(10, 4), 200, GREEDY, stop_at_eos=False, lane=Lane.BATCH))
    runner.step()
    log.clear()
    added(runner, Request(prompt_of(1500, 5), 1, GREEDY, stop_at_eos=False))
    while log.count("chunk") < 6:
        runner.step()
    assert "dd" not in "".join(name[0] for name in log)
    for seq in runner.sequences():
        seq.generation.cancel()
    finish(runner)


def test_a_greedy_organisation_does_not_keep_a_modest_one_waiting(loaded):
    """Fifty long requests lie there when a modest one comes: it gets the next place, every other chunk of
    prompts, and a row of every pass.
    """
    runner = runner_of(loaded, blocks=200)
    for n in range(50):
        added(runner, Request(prompt_of(600, n), 60, GREEDY, stop_at_eos=False), "greedy")
    for _ in range(60):
        runner.step()
    assert len(runner.waiting) > 20
    lying = set(runner.waiting)
    modest = added(runner, Request(prompt_of(600, 99), 20, GREEDY, stop_at_eos=False), "modest")
    steps = 0
    while modest in runner.waiting:
        assert lying <= set(runner.waiting)
        runner.step()
        steps += 1
    assert steps <= 3 * 60  # the longest of those inside ends
    steps = 0
    while modest in runner.sequences():
        runner.step()
        steps += 1
    assert steps <= 2 * 3 + 20  # its chunks, as many of the other's, its tokens
    for seq in runner.sequences():
        seq.generation.cancel()
    finish(runner)


def test_an_organisation_cannot_fill_the_queue_for_all(tiny, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_WAITING", 12)
    engine = Engine(Loader(tiny.home), tiny.decided, PLENTY, now=tiny.clock.now)
    request = Request(prompt_of(10, 1), 3, GREEDY, stop_at_eos=False)
    greedy, modest, third = (tiny.permit(org=org) for org in ("greedy", "modest", "third"))
    # Not started: all that is submitted stays.
    inside = [engine.submit(greedy, request) for _ in range(6)]
    with pytest.raises(Overloaded) as refused:
        engine.submit(greedy, request)
    assert refused.value.retry_after >= 1
    inside += [engine.submit(modest, request) for _ in range(3)]
    with pytest.raises(Overloaded):
        engine.submit(modest, request)
    with pytest.raises(Overloaded):
        engine.submit(greedy, request)
    inside += [engine.submit(third, request)]  # there is always room for one more organisation
    engine.start()
    assert {collect(g)[2].finish for g in inside} == {Finish.MAX_TOKENS}
    again = [engine.submit(greedy, request) for _ in range(6)]
    assert {collect(g)[2].finish for g in again} == {Finish.MAX_TOKENS}
    engine.stop()
    assert not engine._inside


def test_the_engine_puts_a_batch_request_aside_and_counts_it(tiny):
    """Under its real memory limit. Nobody reads the batch answers meanwhile: they rest, unfinished."""
    permit, length = tiny.permit(), MAX_UNREAD + 40
    slow = [Request(prompt_of(600, n), length, GREEDY, stop_at_eos=False, lane=Lane.BATCH) for n in range(2)]
    with tiny.engine() as engine:
        alone = [collect(engine.submit(permit, request))[0] for request in slow]
    with tiny.engine(memory_limit=8 << 20) as engine:
        batch = [engine.submit(permit, request) for request in slow]
        begun = [next(iter(generation)) for generation in batch]
        free = engine.stats()["cache_blocks"] - engine.stats()["cache_blocks_used"]
        fast = ask(engine, permit, prompt_of(min(4000, int(free + 1) * BLOCK), 7), 2)
        assert fast[2].finish is Finish.MAX_TOKENS
        assert engine.stats()["preemptions"] >= 1
        answers = [collect(generation)[0] for generation in batch]
        assert [[*d.tokens, *rest] for d, rest in zip(begun, answers, strict=True)] == alone
        stats = engine.stats()
        assert stats["saved_bytes"] == stats["waiting_batch"] == stats["cache_blocks_used"] == 0
