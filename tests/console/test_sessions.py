"""Sessions: they end, they are few, and a flood of tries is refused before any key is looked up."""

import pytest

from mythos.console.sessions import IDLE, LONGEST, OF_ONE_KEY, TRIES, SessionBook
from mythos.serve.errors import ApiError

KEY, OTHER = b"k" * 32, b"o" * 32


class Time:
    now = 1000.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def book(time) -> SessionBook:
    return SessionBook(clock=lambda: time.now)


def test_a_session_is_found_by_its_cookie_alone(book) -> None:
    cookie = book.begin(KEY)
    found = book.find(cookie)
    assert found is not None and found.key == KEY
    assert all(book.find(other) is None for other in ("", cookie[:-1], cookie + "x", cookie.swapcase()))
    assert cookie not in repr(book)
    book.end(cookie)
    assert book.find(cookie) is None


def test_it_ends_when_nobody_comes_and_at_last_in_any_case(book, time) -> None:
    cookie = book.begin(KEY)
    time.wait(IDLE - 1)
    assert book.find(cookie)
    time.wait(IDLE)
    assert book.find(cookie) is None
    cookie = book.begin(KEY)
    for _ in range(int(LONGEST / (IDLE - 1))):
        time.wait(IDLE - 1)
        assert book.find(cookie)
    time.wait(IDLE - 1)
    assert book.find(cookie) is None


def test_the_oldest_of_one_key_gives_way_and_no_other(book, time) -> None:
    other = book.begin(OTHER)
    cookies = [book.begin(KEY) for _ in range(OF_ONE_KEY + 1)]
    assert book.find(cookies[0]) is None and all(map(book.find, cookies[1:])) and book.find(other)
    time.wait(LONGEST)
    book.begin(KEY)
    assert len(book.sessions) == 1


def test_tries_are_few_and_come_back(book, time) -> None:
    for _ in range(TRIES):
        book.take_try()
    with pytest.raises(ApiError) as refused:
        book.take_try()
    assert refused.value.status == 429 and int(refused.value.headers["retry-after"]) >= 1
    time.wait(60 / TRIES + 0.01)
    book.take_try()
