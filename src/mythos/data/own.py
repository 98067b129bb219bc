"""A user's own folder or file as training text.

Plain text (UTF-8) of any name; `.jsonl`, one object a line; `.json`, one object or a list of them. An object
is {"text": ...} or {"messages": [{"role": ..., "content": ...}, ...]}, with an optional "group". Hidden files
are passed over, symbolic links not followed. What cannot be read as text stops the whole with the file and
the line: text that is silently left out is found out too late.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mythos.data.chat import ROLES
from mythos.data.documents import DataError, Document, Opened

PIECE = 1 << 20  # bytes; longer files are cut into documents at a line's end
LONGEST_LINE = 16 << 20  # bytes
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")  # not tab, newline, form feed, return, escape
SOURCE = "own"


def own(path: Path) -> Opened:
    """What lies at `path`. DataError when there is nothing, or nothing that may be read."""
    files = _files(path)
    base = path if path.is_dir() else path.parent

    def documents() -> Iterator[Document]:
        for file in files:
            yield from read_file(file, file.relative_to(base).as_posix())

    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(base).as_posix()}\0{_sha256(file)}\n".encode())
    facts = {
        "package": path.name,
        "sha256": digest.hexdigest(),
        "files": len(files),
        "licence": "yours to know",
    }
    return Opened(facts, documents())


def read_file(path: Path, name: str) -> Iterator[Document]:
    """The documents of one file; `name` is what they are called by."""
    if path.suffix == ".jsonl":
        for number, line in _lines(path):
            if line.strip():
                yield _document(_parsed(line, path, number), path, name, f"{name}:{number}", number)
    elif path.suffix == ".json":
        yield from _json(path, name)
    else:
        yield from _plain(path, name)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} is no file or folder.", "Name one that exists.")
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}).", "Make it readable.") from None

    for place, folders, names in os.walk(path, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        found += [file for file in files if file.is_file() and not file.is_symlink()]
    if not found:
        raise DataError(f"{path} holds no file.", "Name a folder with text in it.")
    return found


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", "Make it readable.") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line, without ever holding more than one."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(
                        f"{path}, line {number} is longer than {LONGEST_LINE >> 20} MiB.", "Break it up."
                    )
                yield number, _decoded(line, path, number)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", "Make it readable.") from None


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8") if number == 1 else line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number} is not UTF-8 (byte {line[error.start]:#04x} at {error.start + 1}).",
            "Convert the file, or take it out of the folder.",
        ) from None
    _check(text, path, number)
    return text


def _check(text: str, path: Path, number: int) -> None:
    if (found := CONTROL.search(text)) is not None:
        raise DataError(
            f"{path}, line {number} holds the control character {ord(found[0]):#04x}: it is no text.",
            "Take the file out of the folder.",
        )


def _plain(path: Path, name: str) -> Iterator[Document]:
    piece: list[str] = []
    size, number = 0, 0
    for _, line in _lines(path):
        if piece and size + len(line) > PIECE:
            yield _piece(name, number, piece)
            piece, size, number = [], 0, number + 1
        piece.append(line)
        size += len(line)
    if piece:
        yield _piece(name, number, piece)


def _piece(name: str, number: int, lines: list[str]) -> Document:
    # Each piece is a group of its own: otherwise a corpus of one large file could not be split.
    place = f"{name}#{number}"
    return Document(SOURCE, place, f"own:{place}", "".join(lines))


def _json(path: Path, name: str) -> Iterator[Document]:
    text = "".join(line for _, line in _lines(path))
    value = _parsed(text, path, 1)
    rows = value if isinstance(value, list) else [value]
    for index, row in enumerate(rows):
        yield _document(row, path, name, f"{name}[{index}]", 1)


def _parsed(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{path}, line {number} is nested too deeply.", "Correct it.") from None
    except ValueError as error:
        line = number + getattr(error, "lineno", 1) - 1
        raise DataError(
            f"{path}, line {line} is not JSON ({getattr(error, 'msg', error)}).", "Correct it."
        ) from None


def _document(row: Any, path: Path, name: str, place: str, number: int) -> Document:
    where = (
        f"{path}, line {number}" if place.endswith(f":{number}") else f"{path}, {place.removeprefix(name)}"
    )
    fields = row if isinstance(row, dict) else {}
    text, messages, group = fields.get("text"), fields.get("messages"), fields.get("group", place)
    if not isinstance(group, str) or isinstance(text, str) == isinstance(messages, list):
        raise DataError(
            f'{where} is neither {{"text": ...}} nor {{"messages": [...]}}.',
            "Give each object one of them, and a group as text if any.",
        )
    if isinstance(text, str):
        _check_unicode(text, path, number, where)
        return Document(SOURCE, place, f"own:{name}:{group}", text)
    turns = []
    for message in messages or []:
        turn = message if isinstance(message, dict) else {}
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise DataError(
                f"{where}: a message has no role of {', '.join(ROLES)}, or no text as content.", "Correct it."
            )
        _check_unicode(content, path, number, where)
        turns.append({"role": role, "content": content})
    if not any(turn["role"] == "assistant" for turn in turns):
        raise DataError(
            f"{where}: no message is the assistant's, so there is nothing to learn.", "Correct it."
        )
    return Document(SOURCE, place, f"own:{name}:{group}", messages=tuple(turns))


def _check_unicode(text: str, path: Path, number: int, where: str) -> None:
    """JSON escapes can hide what `_decoded` refuses."""
    _check(text, path, number)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where} holds half a surrogate pair.", "Correct it.") from None
