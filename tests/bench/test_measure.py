"""From times to figures, and the checks that the work was what was asked."""

import statistics

import pytest

from mythos.cli.bench_measure import (
    CHAT,
    MESSAGES,
    Api,
    Case,
    Metric,
    cases,
    decode_speed,
    faster,
    measure,
    output_tokens,
    prompt_tokens,
    question,
    summary,
)
from mythos.cli.bench_protocol import WorkerError
from tests.bench.toys import toy


def test_one_stream_counts_from_its_first_token_to_its_last() -> None:
    assert decode_speed([[5.0, 5.5, 6.0, 6.5]]) == pytest.approx(2.0)


def test_streams_in_step_count_together() -> None:
    assert decode_speed([[1.0, 2.0, 3.0]] * 4) == pytest.approx(4.0)


def test_only_the_time_in_which_all_streams_run_counts() -> None:
    # The first is alone until 4.0 at one token a second; then both give one every half second.
    first = [1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 5.5]
    second = [4.0, 4.5, 5.0, 5.5, 5.6, 5.7]
    assert decode_speed([first, second]) == pytest.approx(4.0)


def test_streams_that_never_run_together_have_no_speed() -> None:
    assert decode_speed([[1.0, 2.0], [2.0, 3.0]]) is None
    assert decode_speed([[1.0]]) is None


def test_a_summary_is_median_and_range() -> None:
    values = [3.0, 1.0, 10.0, 2.0]
    assert summary(values) == {"median": statistics.median(values), "min": 1.0, "max": 10.0, "values": values}


@pytest.mark.parametrize(("more", "expected"), [(True, [2.0, 0.5]), (False, [0.5, 2.0])])
def test_ratios_are_per_round_and_above_one_where_ours_is_faster(more: bool, expected: list[float]) -> None:
    metric = Metric("m", "title", "unit", more)
    ours = {1: 20.0, 2: 5.0, 3: 7.0}
    assert faster(metric, ours, {1: 10.0, 2: 10.0}) == expected  # a round that one lacks is left out


def test_prompts_are_exact_the_same_for_all_arms_and_new_each_round() -> None:
    a, again, b = (prompt_tokens(2048, 49152, "prefill", turn) for turn in (1, 1, 2))
    assert len(a) == 2048
    assert a == again
    assert a[:32] != b[:32]
    assert all(3072 <= token < 49152 - 3072 for token in a)
    assert question("x", 1) == question("x", 1) != question("x", 2)


@pytest.mark.parametrize("quick", [True, False])
def test_every_case_has_a_name_of_its_own(quick: bool) -> None:
    names = [metric.name for case in cases(quick) for metric in case.metrics]
    assert len(names) == len(set(names))


def test_figures_of_a_worker() -> None:
    with toy() as worker:
        assert measure(Case("prefill", 512), worker, 1000, 1) == {"prefill-512": pytest.approx(512 / 0.02)}
        assert measure(Case("decode", 1, 32), worker, 1000, 1) == {"decode-1": pytest.approx(1000)}
        assert measure(Case("decode", 4, 64), worker, 1000, 1) == {"decode-4": pytest.approx(4000, rel=0.1)}
        figures = measure(Case("prefix", 1), worker, 1000, 1)
        assert figures == {"prefix-cold": pytest.approx(20), "prefix-warm": pytest.approx(20)}


def test_a_worker_that_generates_too_little_is_refused() -> None:
    with toy("short") as worker, pytest.raises(WorkerError, match=r"generated \[31\] tokens"):
        measure(Case("decode", 1, 32), worker, 1000, 1)


def test_a_prompt_that_came_from_a_cache_is_refused() -> None:
    with toy() as worker:
        measure(Case("prefill", 512), worker, 1000, 1)
        with pytest.raises(WorkerError, match=r"took \[512\] tokens from its cache, not none"):
            measure(Case("prefill", 512), worker, 1000, 1)


def test_a_prefix_that_was_forgotten_is_refused() -> None:
    with toy("forgets") as worker, pytest.raises(WorkerError, match="from its cache, not 1024 to 2048"):
        measure(Case("prefix", 1), worker, 1000, 1)


def chunked(text: bytes, size: int) -> bytes:
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


ANSWER = b"""event: message_start
data: {"message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}

event: message_delta
data: {"usage": {"output_tokens": 128}}

event: message_stop
data: {}

"""
CHAT_ANSWER = b"""data: {"choices": [{"delta": {"content": "a"}}], "usage": null}

data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 128}}

data: [DONE]

"""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.mark.parametrize(("api", "answer"), [(MESSAGES, ANSWER), (CHAT, CHAT_ANSWER)])
@pytest.mark.parametrize("size", [7, 40, 1000])
def test_the_servers_count_is_read_however_it_is_cut(size: int, api: Api, answer: bytes) -> None:
    body = chunked(answer, size)
    assert output_tokens(api, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body) == 128


def test_a_plain_body_is_read_too() -> None:
    assert output_tokens(MESSAGES, HEAD + b"\r\n" + ANSWER) == 128


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 429 Too Many Requests\r\n\r\n" + ANSWER,
        HEAD + b"\r\n" + ANSWER.partition(b"event: message_stop")[0],
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(ANSWER, 50)[:120],
    ],
)
def test_an_answer_that_did_not_end_well_is_refused(response: bytes) -> None:
    with pytest.raises(WorkerError, match="the server answered"):
        output_tokens(MESSAGES, response)


def test_a_chat_answer_without_its_end_is_refused() -> None:
    cut = CHAT_ANSWER.partition(b"data: [DONE]")[0]
    with pytest.raises(WorkerError, match="the server answered"):
        output_tokens(CHAT, HEAD + b"\r\n" + cut)
