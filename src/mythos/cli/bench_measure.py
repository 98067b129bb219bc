"""What `mythos bench` measures and how figures are made from times. No engine in here, and no torch.

The same code turns the times of every arm into figures, so that no engine is judged by its own account.
"""

import asyncio
import json
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mythos.cli.bench_protocol import Worker, WorkerError

DRAFTED = 96  # tokens of an answer to a question of the drafts case
DECODE_PROMPT = 128  # tokens in the prompt of a decode measurement
SHARED, TAIL = 2048, 32  # tokens of the shared prefix, and of what differs after it


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure per arm and round. `more` True: a greater figure is a faster engine."""

    name: str
    title: str
    unit: str
    more: bool


@dataclass(frozen=True, slots=True)
class Case:
    """What one arm is asked in one round. `kind` is prefill, decode, drafts, prefix or server.

    `size` is the prompt's tokens for prefill and the streams otherwise; `tokens` are generated per stream.
    `asked`: of drafts the class of questions in `bench_prompts.PROMPTS`.
    """

    kind: str
    size: int
    tokens: int = 1
    asked: str = ""

    @property
    def name(self) -> str:
        return self.kind if self.kind == "prefix" else f"{self.kind}-{self.asked or self.size}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        streams = f"{self.size} stream{'s' if self.size > 1 else ''}"
        match self.kind:
            case "prefill":
                return (Metric(self.name, f"prefill, {self.size} tokens", "tok/s", True),)
            case "decode":
                return (Metric(self.name, f"decode, {streams}", "tok/s", True),)
            case "drafts":
                return (
                    Metric(self.name, f"decode, {streams}, {self.asked}, ours with drafts", "tok/s", True),
                )
            case "prefix":
                return (
                    Metric("prefix-cold", f"first token, {SHARED} shared, cold", "ms", False),
                    Metric("prefix-warm", f"first token, {SHARED} shared, warm", "ms", False),
                )
            case _:
                return (Metric(self.name, f"answer of {self.tokens} tokens, {streams}", "s", False),)


def cases(quick: bool) -> list[Case]:
    """All that is measured. `quick` generates fewer tokens, and leaves out the long prompt and the drafts."""
    tokens = 64 if quick else 128
    prefill = [Case("prefill", 512)] + ([] if quick else [Case("prefill", 2048)])
    decode = [Case("decode", streams, tokens) for streams in (1, 4, 16)]
    drafts = [] if quick else [Case("drafts", 1, DRAFTED, asked) for asked in ("chat", "code")]
    server = [Case("server", streams, tokens) for streams in (1, 16)]
    return [*prefill, *decode, *drafts, Case("prefix", 1), *server]


def prompt_tokens(count: int, vocabulary: int, *key: object) -> list[int]:
    """A prompt of exactly `count` plain tokens, the same for every arm and different for every `key`.

    Taken from the middle of the vocabulary: control tokens lie at its ends.
    """
    draw = random.Random("/".join(map(str, key)))
    low = vocabulary // 16
    return [draw.randrange(low, vocabulary - low) for _ in range(count)]


def question(*key: object) -> str:
    """A question with a long answer, different for every `key`, too short for our prefix cache."""
    draw = random.Random("/".join(map(str, key)))
    things = ["a lighthouse", "two rivers", "an old clock", "a market town", "the wind", "a stone bridge"]
    first, second = draw.sample(things, 2)
    year, paragraphs = draw.randrange(1000, 2000), draw.randrange(20, 90)
    return (
        f"Write a long and detailed story about {first} and {second} in the year {year}, "
        f"in at least {paragraphs} paragraphs. Describe every place and every person."
    )


def measure(case: Case, worker: Worker, vocabulary: int, turn: int) -> dict[str, float]:
    """One arm's figures for one round, by metric name. WorkerError when the work was not what was asked."""
    if case.kind == "prefix":
        shared = prompt_tokens(SHARED, vocabulary, "prefix", turn)
        figures = {}
        for metric in case.metrics:
            prompt = shared + prompt_tokens(TAIL, vocabulary, metric.name, turn)
            cold = metric.name == "prefix-cold"
            times = _run(worker, [prompt], 1, cached=(0, 0) if cold else (SHARED // 2, SHARED))
            figures[metric.name] = times[0][0] * 1000
        return figures
    if case.kind == "prefill":
        times = _run(worker, [prompt_tokens(case.size, vocabulary, case.name, turn)], 1, cached=(0, 0))
        return {case.name: case.size / times[0][0]}
    prompts = [prompt_tokens(DECODE_PROMPT, vocabulary, case.name, turn, n) for n in range(case.size)]
    speed = decode_speed(_run(worker, prompts, case.tokens, cached=(0, 0)))
    if speed is None:
        raise WorkerError(f"{worker.name}: the {case.size} streams never ran all at once")
    return {case.name: speed}


def measure_drafts(case: Case, worker: Worker, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Tokens a second after the first of each answer, one prompt after another. Our engine may draft; the
    others decode as they do.
    """
    tokens, seconds = 0, 0.0
    for prompt in prompts:
        (times,) = _run(worker, [prompt], case.tokens, cached=(0, len(prompt)), drafts=True)
        tokens, seconds = tokens + len(times) - 1, seconds + times[-1] - times[0]
    return {case.name: tokens / seconds}


def _run(
    worker: Worker,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    cached: tuple[int, int],
    drafts: bool = False,
) -> list[list[float]]:
    """Times of all tokens, all counts checked. `cached`: least and most prompt tokens from a cache."""
    reply = worker.ask("run", prompts=prompts, tokens=tokens, drafts=drafts)
    times = reply["times"]
    if [len(each) for each in times] != [tokens] * len(prompts):
        got = sorted({len(each) for each in times})
        raise WorkerError(
            f"{worker.name} generated {got} tokens in {len(times)} streams, not {tokens} in each"
        )
    if reply["prompt_tokens"] != [len(prompt) for prompt in prompts]:
        raise WorkerError(f"{worker.name} counted other prompts than it was given: {reply['prompt_tokens']}")
    if reply["cached_tokens"] is not None and not all(
        cached[0] <= n <= cached[1] for n in reply["cached_tokens"]
    ):
        wanted = f"{cached[0]} to {cached[1]}" if cached[1] else "none"
        raise WorkerError(f"{worker.name} took {reply['cached_tokens']} tokens from its cache, not {wanted}")
    return times


def decode_speed(times: Sequence[Sequence[float]]) -> float | None:
    """Tokens per second of all streams together while all of them decode; None when they never all do.

    Counted from the moment the last stream has its first token to the moment the first stream has its last:
    no prefill lies between the two, and no stream has ended. For one stream: first token to last.
    """
    begin = max(each[0] for each in times)
    end = min(each[-1] for each in times)
    if end <= begin:
        return None
    return sum(begin < t <= end for each in times for t in each) / (end - begin)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, range and the values themselves, in the order of the rounds."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def faster(metric: Metric, ours: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """For each round that both have: how many times as fast ours was (2: twice, 0.5: half as fast)."""
    rounds = sorted(ours.keys() & other.keys())
    return [ours[r] / other[r] if metric.more else other[r] / ours[r] for r in rounds]


@dataclass(frozen=True, slots=True)
class Api:
    """A form of streamed request to our server. `count` finds the tokens in an answer, which has `end`."""

    path: str
    headers: str
    body: Mapping[str, Any]
    count: bytes
    end: bytes


MESSAGES = Api(
    "/v1/messages",
    "x-api-key: {key}\r\nanthropic-version: 2023-06-01\r\n",
    {},
    rb'"output_tokens":\s*(\d+)',
    b"event: message_stop",
)
CHAT = Api(
    "/v1/chat/completions",
    "authorization: Bearer {key}\r\n",
    {"stream_options": {"include_usage": True}},
    rb'"completion_tokens":\s*(\d+)',
    b"data: [DONE]",
)


def ask_server(
    api: Api, base_url: str, key: str, tier: str, texts: Sequence[str], tokens: int
) -> tuple[float, list[int]]:
    """Ask all `texts` at once over HTTP, streamed. Seconds until the last answer ended, and tokens of each.

    The client does as little as it can (one thread, no parsing before the end): it shares the processor with
    the server, as a client on the same machine always does.
    """
    return asyncio.run(_ask_all(api, base_url, key, tier, texts, tokens))


async def _ask_all(
    api: Api, base_url: str, key: str, tier: str, texts: Sequence[str], tokens: int
) -> tuple[float, list[int]]:
    clock = asyncio.get_running_loop().time
    began = clock()
    answers = await asyncio.gather(*(_ask(api, base_url, key, tier, text, tokens) for text in texts))
    return clock() - began, [output_tokens(api, answer) for answer in answers]


async def _ask(api: Api, base_url: str, key: str, tier: str, text: str, tokens: int) -> bytes:
    """The whole response, head included, of one streamed request on a connection of its own."""
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps(
        {
            "model": tier,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "messages": [{"role": "user", "content": text}],
            **api.body,
        }
    ).encode()
    head = (
        f"POST {api.path} HTTP/1.1\r\nhost: {address.netloc}\r\n{api.headers.format(key=key)}"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    try:
        writer.write(head.encode() + body)
        return await reader.read()
    finally:
        writer.close()


def output_tokens(api: Api, response: bytes) -> int:
    """The tokens of a streamed answer, by the server's last count. WorkerError when it did not end well."""
    head, _, rest = response.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].decode(errors="replace")
    body = _joined(rest) if b"transfer-encoding: chunked" in head.lower() else rest
    counts = re.findall(api.count, body)
    if " 200 " not in f"{status} " or api.end not in body or not counts:
        raise WorkerError(f"the server answered {status}: {body[-300:].decode(errors='replace')}")
    return int(counts[-1])


def _joined(chunked: bytes) -> bytes:
    """A body in chunks (RFC 9112, section 7.1) put together; what is cut off is left out."""
    body = b""
    while True:
        size, found, chunked = chunked.partition(b"\r\n")
        if not found or not (length := int(size.partition(b";")[0], 16)):
            return body
        body += chunked[:length]
        chunked = chunked[length + 2 :]
