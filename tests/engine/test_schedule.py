"""The laws of scheduling, on the pure decisions: fair shares, no credit for idleness, nobody starves."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mythos.engine.request import Lane
from mythos.engine.schedule import (
    AGING,
    ANSWER_COST,
    CREDIT,
    LONGEST,
    MAX_PASSES,
    MAX_WAIT,
    SLOWDOWN,
    Pace,
    Rate,
    Schedule,
)

CHUNK = 256
FAST, SLOW = Lane.INTERACTIVE, Lane.BATCH


@dataclass(eq=False)
class Work:
    """A request: a prompt of `left` cost that is read in chunks, and `answer` rows after it."""

    org: str
    arrived: int
    left: int = CHUNK
    answer: int = 0
    lane: Lane = FAST

    @property
    def prompt_cost(self) -> int:
        return self.left


def read_one(schedule: Schedule, jobs: list[Work]) -> Work | None:
    """Compute one chunk of whoever is next; a prompt that is read leaves `jobs`."""
    schedule.present(jobs)
    job = schedule.prompt(jobs, CHUNK)
    if job is not None:
        cost = min(CHUNK, job.left)
        job.left -= cost
        schedule.charge(job, cost)
        if job.left == 0:
            jobs.remove(job)
    return job


def answer_one(schedule: Schedule, jobs: list[Work], most: int = 16) -> list[Work]:
    """One pass for whoever is next, as the runner keeps their order."""
    schedule.present(jobs)
    rows = schedule.rows(jobs, most)
    for job in rows:
        job.answer -= 1
        jobs.remove(job)
        if job.answer:
            jobs.append(job)
    return rows


prompts = st.lists(st.integers(1, 3000), min_size=1, max_size=8)


@given(st.lists(prompts, min_size=2, max_size=4))
def test_organisations_with_work_are_served_alike(asked):
    """However many requests and however long: two that both have work are never two chunks apart."""
    schedule, served = Schedule(), dict.fromkeys(range(len(asked)), 0)
    jobs = [Work(str(o), n, left) for o, lengths in enumerate(asked) for n, left in enumerate(lengths)]
    while len({job.org for job in jobs}) == len(asked):
        before = {id(job): job.left for job in jobs}
        job = read_one(schedule, jobs)
        assert job is not None
        served[int(job.org)] += before[id(job)] - job.left
        assert max(served.values()) - min(served.values()) <= 2 * CHUNK


@given(st.integers(1, 60), st.integers(0, 200), st.integers(1, 4000))
def test_a_modest_one_waits_for_no_more_than_its_own_share(greedy, turns, length):
    """Whenever it comes: until its prompt is read, the greedy one is served as much, and two chunks more."""
    schedule = Schedule()
    jobs = [Work("greedy", n, 8000) for n in range(greedy)]
    for _ in range(turns):
        read_one(schedule, jobs)
    modest = Work("modest", 10_000, length)
    jobs.append(modest)
    began = schedule.total
    while modest.left:
        assert read_one(schedule, jobs) is not None
    waited = schedule.total - began - length
    assert waited <= length + 2 * CHUNK


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16))
def test_rows_are_split_alike_and_all_are_used(greedy, modest, most):
    schedule = Schedule()
    jobs = [Work("greedy", n, answer=1000) for n in range(greedy)]
    jobs += [Work("modest", greedy + n, answer=1000) for n in range(modest)]
    counts = {"greedy": 0, "modest": 0}
    passes = 24
    for _ in range(passes):
        rows = answer_one(schedule, jobs, most)
        assert len(rows) == len(set(map(id, rows))) == min(most, greedy + modest)
        for job in rows:
            counts[job.org] += 1
    fair = min(passes * most / 2, passes * modest, passes * greedy)
    assert min(counts.values()) >= fair - most
    # Within an organisation too: turns, so that no stream stands still.
    left = [job.answer for job in jobs if job.org == "greedy"]
    assert max(left) - min(left) <= 1


@given(st.integers(0, 300), st.integers(0, 300))
def test_idleness_gathers_no_credit(before, during):
    schedule = Schedule()
    one, other = Work("a", 0, 10**6), Work("b", 1, 10**6)
    for _ in range(before):
        read_one(schedule, [one, other])
    for _ in range(during):  # b is idle
        read_one(schedule, [one])
    turns = [read_one(schedule, [one, other]) for _ in range(40)]
    mine = sum(job is one for job in turns)
    assert abs(mine - 20) <= 1


@given(st.integers(0, 5000))
def test_a_slow_stream_gathers_bounded_credit(passes):
    """One that has work but takes little of it may catch up on CREDIT and no more."""
    schedule = Schedule()
    stream, reader = Work("a", 0, answer=10**6), Work("b", 1, 10**9)
    for _ in range(min(passes, 200)):
        schedule.present([stream, reader])
        schedule.charge(reader, CHUNK)
        schedule.rows([stream], 16)
    jobs = [Work("a", 2, 10**6), reader]
    turns = 0
    while read_one(schedule, jobs) is not reader:
        turns += 1
    assert turns <= CREDIT // CHUNK + 1


def test_within_an_organisation_the_first_is_first():
    schedule = Schedule()
    jobs = [Work("a", n, 600) for n in (3, 1, 2)]
    order = []
    while (job := read_one(schedule, jobs)) is not None:
        order.append(job.arrived)
    assert order == [1, 1, 1, 2, 2, 2, 3, 3, 3]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Lane), st.integers(1, 2000)), min_size=1))
def test_work_is_done_while_there_is_any_and_all_of_it_ends(rows):
    schedule = Schedule()
    jobs = [Work(org, n, left, lane=lane) for n, (org, lane, left) in enumerate(rows)]
    total = sum(job.left for job in jobs)
    schedule.present(jobs)
    assert schedule.admitted(jobs) in jobs and schedule.admitted(jobs, aging=False) in jobs
    for _ in range(total):
        if read_one(schedule, jobs) is None:
            break
    assert not jobs and schedule.total == total


def test_the_batch_lane_gets_what_is_left():
    schedule = Schedule()
    fast, slow = Work("a", 5, 600, answer=9), Work("a", 1, 600, answer=9, lane=SLOW)
    schedule.present([fast, slow])
    assert schedule.admitted([slow, fast]) is fast and schedule.prompt([slow, fast], CHUNK) is fast
    assert schedule.rows([slow, fast], 1) == [fast] and schedule.rows([slow, fast], 2) == [fast, slow]
    assert schedule.admitted([slow]) is slow and schedule.prompt([slow], CHUNK) is slow
    assert schedule.rows([slow], 1) == [slow]
    assert schedule.rows([slow], 1, urgent=True) == []
    # A batch request is not in the way of its own organisation's interactive ones.
    schedule.charge(slow, 100_000)
    other = Work("b", 6)
    schedule.present([fast, slow, other])
    schedule.charge(other, 9)  # a has 8
    assert schedule.prompt([other, fast], CHUNK) is fast


@given(st.integers(1, 8), st.integers(1, 3000))
def test_the_batch_lane_never_starves(greedy, length):
    """Beside interactive prompts without end it gets one part in AGING + 1, to within a chunk's wait."""
    schedule = Schedule()
    jobs = [Work(str(n), n, 10**9) for n in range(greedy)]
    slow = Work("a", 999, length, lane=SLOW)
    jobs.append(slow)
    began = 0
    while slow.left:
        read_one(schedule, jobs)
        began += 1
        assert schedule.total <= (AGING + 1) * (length + 2 * CHUNK)
    assert schedule.total >= AGING * min(length, CHUNK)


@given(st.integers(1, 40))
def test_the_batch_lane_gets_a_row_now_and_then(passes):
    schedule = Schedule()
    jobs = [Work("a", n, answer=10**6) for n in range(20)]
    slow = Work("b", 99, answer=10**6, lane=SLOW)
    jobs.append(slow)
    for _ in range(passes):
        answer_one(schedule, jobs)
    got = 10**6 - slow.answer
    assert (passes - 1) // 2 <= got <= passes  # 16 rows of others make one of its own


@given(st.integers(1, 8000))
def test_the_batch_lane_is_let_in_when_enough_has_passed(length):
    schedule = Schedule()
    fast, slow = Work("a", 1, 10**9), Work("b", 0, length, lane=SLOW)
    schedule.present([fast, slow])
    while schedule.admitted([fast, slow]) is not slow:
        schedule.charge(fast, CHUNK)
        assert schedule.total <= AGING * min(length, LONGEST) + CHUNK
    assert schedule.total >= AGING * min(length, LONGEST)
    assert schedule.admitted([fast, slow], aging=False) is fast
    # What passed is forgotten with the last of the batch lane.
    schedule.present([fast])
    schedule.charge(fast, 1)
    assert not schedule.due(1)


def test_what_was_served_is_forgotten_when_all_have_come_there():
    schedule = Schedule()
    for n in range(100):
        read_one(schedule, [Work(f"org {n}", 0), Work(f"next to {n}", 1)])
        schedule.present(())
        assert not schedule.shares[FAST].served


seconds = st.floats(1e-4, 10)


@given(seconds, seconds)
def test_a_token_takes_no_more_than_the_stated_factor(chunk, decode):
    pace = Pace()
    assert pace.between == 1  # nothing measured: one each, as without a budget
    pace.decoded(decode)
    pace.read(chunk)
    n = pace.between
    assert 1 <= n <= MAX_PASSES
    if n < MAX_PASSES:
        assert decode + chunk / n <= SLOWDOWN * decode * (1 + 1e-9)
    if n > 1:
        assert decode + chunk / (n - 1) > SLOWDOWN * decode * (1 - 1e-9)
    assert not pace.ready
    for _ in range(n):
        assert not pace.ready
        pace.decoded(decode)
    assert pace.ready


@given(st.lists(st.tuples(st.booleans(), seconds), max_size=60))
def test_whatever_was_measured_prompts_are_never_held_up_for_long(measured):
    pace = Pace()
    for reads, took in measured:
        (pace.read if reads else pace.decoded)(took)
    for _ in range(MAX_PASSES):
        pace.decoded(0.01)
    assert pace.ready


def test_the_wait_follows_from_the_measured_rate():
    rate = Rate()
    assert rate.wait(10**6) == 1.0
    for _ in range(500):
        rate.add(400, 0.5)
    assert rate.wait(8000) == pytest.approx(10.0)
    assert rate.wait(10) == 1.0 and rate.wait(10**9) == MAX_WAIT
    for _ in range(500):
        rate.add(400, 0.25)  # twice as fast
    assert rate.wait(8000) == pytest.approx(5.0, rel=0.01)
    assert ANSWER_COST > 1
