"""Text that leaves the engine: whole characters, nothing of a stop string."""

from hypothesis import given
from hypothesis import strategies as st

from mythos.engine.text import TextStream

letters = st.text(alphabet="abé漢🙂", max_size=30)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    out = []
    for size in sizes:
        out.append(data[:size])
        data = data[size:]
    return [*out, data]


@given(
    letters,
    st.lists(st.integers(0, 5), max_size=20),
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
)
def test_same_text_however_it_is_cut_and_never_past_a_stop(text, sizes, stop):
    stream = TextStream(tuple(stop))
    shown = ""
    for piece in pieces(text.encode(), sizes):
        shown += stream.feed(piece)
        assert "�" not in shown
        if stream.stopped is not None:
            break
    else:
        shown += stream.feed(b"", final=True)
    first = min((at for s in stop if (at := text.find(s)) >= 0), default=None)
    assert (stream.stopped is not None) == (first is not None)
    assert shown == (text if first is None else text[: text.find(stream.stopped)])
    assert not any(s in shown for s in stop)


def test_text_that_may_begin_a_stop_is_held_and_released():
    stream = TextStream(("END",))
    assert stream.feed(b"xE") == "x"
    assert stream.feed(b"N") == ""
    assert stream.feed(b"T") == "ENT"


def test_broken_utf8_becomes_a_replacement_character_at_the_end():
    stream = TextStream(())
    assert stream.feed("é".encode()[:1]) == ""
    assert stream.feed(b"", final=True) == "�"
