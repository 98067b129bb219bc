"""How events come out of a generation: each once, in order, to a thread or to a loop."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mythos.engine import generation as module
from mythos.engine.generation import Generation
from mythos.engine.request import Delta, Done, Event, Finish, TokenLogprob, joined
from mythos.serve.answer import within
from mythos.serve.errors import ClientGone


def delta(number: int) -> Delta:
    return Delta(f"{number} ", (number,), (TokenLogprob(number, b"x", -1.0, ()),))


def done() -> Done:
    return Done(Finish.END, prompt_tokens=1, cached_tokens=0, completion_tokens=1)


def new() -> Generation:
    return Generation(lambda _: None)


async def turns(count: int = 5) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def reader(one: Generation, got: list[list[Event]]) -> None:
    async for events in one.batches():
        got.append(events)


@given(st.integers(0, 200), st.booleans(), st.booleans())
def test_each_event_is_read_once_and_in_order(count, blocking, looked):
    async def read() -> list[Event]:
        one = new()
        writer = threading.Thread(target=lambda: [one.put(e) for e in [*map(delta, range(count)), done()]])
        writer.start()
        first = await one.first() if looked else None
        got = list(one) if blocking else [event async for some in one.batches() for event in some]
        writer.join()
        assert first in (None, got[0])  # and it is still there to be read
        return got

    assert asyncio.run(read()) == [*map(delta, range(count)), done()]


def test_the_first_and_the_last_come_at_once_and_others_when_it_is_time(monkeypatch):
    """At one write in a thousand seconds nothing but the first event comes before the last."""
    monkeypatch.setattr(module, "WRITES", 1e-3)

    async def read() -> list[list[Event]]:
        one, got = new(), []

        reading = asyncio.create_task(reader(one, got))
        await turns()
        one.put(delta(0))
        await turns()
        assert got == [[delta(0)]]
        for number in (1, 2):
            one.put(delta(number))
            await turns()
        assert len(got) == 1
        one.put(done())
        await reading
        return got

    assert asyncio.run(read()) == [[delta(0)], [delta(1), delta(2), done()]]


def test_few_readers_get_each_event_by_itself(monkeypatch):
    monkeypatch.setattr(module, "WRITES", 1e12)

    async def read() -> list[list[Event]]:
        one, got = new(), []

        reading = asyncio.create_task(reader(one, got))
        await turns()
        for event in (delta(0), delta(1), done()):
            one.put(event)
            await turns()
        await reading
        return got

    assert asyncio.run(read()) == [[delta(0)], [delta(1)], [done()]]


def test_a_reader_whose_loop_is_gone_cancels():
    one = new()

    async def begin() -> None:
        one.put(delta(0))
        async for _ in one.batches():
            return

    asyncio.run(begin())
    one.put(delta(1))
    assert one.cancelled


@given(st.integers(0, 6), st.booleans())
def test_joined_deltas_say_what_they_said_apart(count, ended):
    events: list[Event] = [*map(delta, range(count)), *[done()] * ended]
    whole = joined(events)
    if not count:
        assert whole is None
        return
    assert whole is not None and whole.tokens == tuple(range(count))
    assert whole.text == "".join(f"{number} " for number in range(count))
    assert [row.token for row in whole.logprobs] == list(range(count))


class TestWithin:
    def send(self, sending, seconds: float = 30.0) -> SimpleNamespace:
        settings = SimpleNamespace(write_seconds=seconds)
        answer = SimpleNamespace(gone=False, call=SimpleNamespace(service=SimpleNamespace(settings=settings)))

        async def run() -> None:
            await within(answer, sending())  # type: ignore[arg-type]

        asyncio.run(run())
        return answer

    def test_what_is_taken_at_once_and_what_is_taken_later_both_arrive(self):
        taken = []

        async def at_once() -> None:
            taken.append("at once")

        async def later() -> None:
            await turns()
            await asyncio.sleep(0.001)
            taken.append("later")

        assert not self.send(at_once).gone and not self.send(later).gone
        assert taken == ["at once", "later"]

    def test_a_client_that_takes_nothing_is_gone(self):
        closed = []

        async def never() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                closed.append(True)

        with pytest.raises(ClientGone):
            self.send(never, seconds=0.01)
        assert closed == [True]

    @pytest.mark.parametrize("turns_before", [0, 3])
    def test_an_error_of_sending_comes_through(self, turns_before):
        async def fails() -> None:
            await turns(turns_before)
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            self.send(fails)
