"""A user's own files: what is text is read, what is not stops with the file and the line."""

import json
import os
from pathlib import Path

import pytest

from mythos.data import own as reading
from mythos.data.documents import DataError
from mythos.data.own import own

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"\0")
    (tmp_path / ".hidden").write_bytes(b"\0")
    (tmp_path / "b.md").write_text("# Über\r\n")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwith a mark\n")
    (tmp_path / "sub" / "code.py").write_text("x = 1\n")
    rows = [{"text": "one"}, CHAT, {"text": "three", "group": "book"}]
    (tmp_path / "sub" / "rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "talk.json").write_text(json.dumps([CHAT], indent=1))
    (tmp_path / "empty.txt").touch()
    os.symlink(tmp_path / "b.md", tmp_path / "link.md")
    documents = list(own(tmp_path).documents)
    assert [(d.id, d.text) for d in documents if d.text] == [
        ("a.txt#0", "with a mark\n"), ("b.md#0", "# Über\r\n"), ("sub/code.py#0", "x = 1\n"),
        ("sub/rows.jsonl:1", "one"), ("sub/rows.jsonl:5", "three"),
    ]  # fmt: skip
    assert [d.id for d in documents if d.messages] == ["talk.json[0]", "sub/rows.jsonl:3"]
    assert documents[-1].group == "own:sub/rows.jsonl:book"


def test_the_facts_change_with_a_byte(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    first = own(file).facts
    assert first["files"] == 1
    file.write_text("two")
    assert own(file).facts["sha256"] != first["sha256"]


def test_a_long_file_is_cut_at_ends_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE", 100)
    text = "".join(f"line {n}\n" for n in range(100))
    (tmp_path / "long.txt").write_text(text)
    documents = list(own(tmp_path).documents)
    assert "".join(d.text for d in documents) == text
    assert all(len(d.text) <= 100 and d.text.endswith("\n") for d in documents)
    assert len({d.group for d in documents}) == len(documents) > 8


GOOD = b'{"text": "one"}\n'
BAD: dict[str, tuple[str, bytes, str]] = {
    "binary": ("x.txt", b"fine\nfine\n\x7fELF\x02\x01\0\0", "line 3 holds the control character 0x7f"),
    "picture": ("x.png", b"\x89PNG\r\n\x1a\n\0\0", "line 1 is not UTF-8"),
    "latin-1": ("x.md", b"ok\ncaf\xe9\n", "line 2 is not UTF-8 (byte 0xe9 at 4)"),
    "utf-16": ("x.txt", "hello".encode("utf-16"), "line 1 is not UTF-8"),
    "a line that is not JSON": ("x.jsonl", GOOD + b'{"text": one}\n', "line 2 is not JSON"),
    "a line cut off": ("x.jsonl", GOOD + GOOD + b'{"text": "on', "line 3 is not JSON"),
    "a list": ("x.jsonl", GOOD + b'["text"]\n', "line 2 is neither"),
    "no text": ("x.jsonl", GOOD + b'{"txt": "one"}\n', "line 2 is neither"),
    "text and messages": ("x.jsonl", b'{"text": "a", "messages": []}\n', "line 1 is neither"),
    "a number as text": ("x.jsonl", b'{"text": 1}\n', "line 1 is neither"),
    "a number as group": ("x.jsonl", b'{"text": "a", "group": 1}\n', "line 1 is neither"),
    "an unknown role": (
        "x.jsonl", b'{"messages": [{"role": "root", "content": "a"}]}\n', "line 1: a message has no role",
    ),
    "content in parts": (
        "x.jsonl", b'{"messages": [{"role": "user", "content": [{"text": "a"}]}]}\n', "or no text as content",
    ),
    "nothing to learn": (
        "x.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}\n',
        "line 1: no message is the assistant's",
    ),
    "half a surrogate": ("x.jsonl", GOOD + b'{"text": "\\ud800"}\n', "line 2 holds half a surrogate pair"),
    "a hidden NUL": ("x.jsonl", GOOD + b'{"text": "a\\u0000b"}\n', "line 2 holds the control character 0x00"),
    "nested without end": ("x.jsonl", b"[" * 200_000 + b"\n", "line 1 is nested too deeply"),
    "a broken chat file": ("x.json", b'[\n{"messages":\n}]', "line 3 is not JSON"),
    "a wrong entry of a chat file": ("x.json", b'[{"text": "a"}, 3]', "[1] is neither"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_named(tmp_path: Path, name: str) -> None:
    file, data, says = BAD[name]
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError) as error:
        list(own(tmp_path).documents)
    assert says in error.value.message and str(tmp_path / file) in error.value.message and error.value.cure


def test_an_endless_line_is_refused_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    (tmp_path / "x.jsonl").write_bytes(GOOD + b"x" * 5000)
    with pytest.raises(DataError, match="line 2 is longer"):
        list(own(tmp_path).documents)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        own(tmp_path / name)
