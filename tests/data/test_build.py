"""Building a corpus: what is dropped and what stays, the split, crashes, a full disk, memory, determinism."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mythos.data import build as building
from mythos.data.build import FILTERS, is_held_out
from mythos.data.corpus import SPLITS, CorpusError, open_corpus
from mythos.data.documents import DataError, Document
from mythos.data.overlap import index_items
from tests.data.small import build, group, sentence, texts, tokenizer


def contents(place: Path) -> dict[str, bytes]:
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    documents = texts(200)
    corpora = build(tmp_path, documents)
    reader = tokenizer()
    for name, corpus in corpora.items():
        wanted = [d for d in documents if is_held_out(d.group) == (name == "held_out")]
        got = [reader.decode(corpus.tokens[a:b]) for a, b in zip(corpus.starts, corpus.ends, strict=True)]
        assert got == [f"{d.text}<|endoftext|>" for d in wanted]
        assert corpus.bytes.tolist() == [len(d.text) for d in wanted]
        assert corpus.trained is None and corpus.tokens.dtype == np.uint16
        counts = corpus.manifest["counts"]
        assert counts["tokens"] == counts["trained_tokens"] == len(corpus.tokens)
        assert counts["bytes"] == sum(len(d.text) for d in wanted)
        assert open_corpus(corpus.path, verify=True).digest == corpus.digest
    assert set(corpora) == set(SPLITS)


def test_no_group_is_on_both_sides(tmp_path: Path) -> None:
    documents = [Document("made", f"d{n}", f"g{n % 60}", sentence(n)) for n in range(240)]
    corpora = build(tmp_path, documents)
    steps = corpora["train"].manifest["sources"]["made"]["steps"]
    sides = Counter("held_out" if is_held_out(d.group) else "train" for d in documents)
    assert {name: steps[name]["documents"] for name in SPLITS} == dict(sides)
    shares = [is_held_out(f"group {n}") for n in range(20_000)]
    assert 0.045 < np.mean(shares) < 0.055


def test_every_document_is_counted_once(tmp_path: Path) -> None:
    planted = "one two three four five six seven eight nine ten eleven twelve thirteen"
    items = index_items([("exam", "7", f"What comes next: {planted}?"), ("quiet", "1", "x " * 20)])
    near = sentence(1, 200).split()
    documents = [
        Document("made", "plain", group(0), sentence(0)),
        Document("made", "again", group(1), sentence(0).upper()),
        Document("made", "long", group(2), " ".join(near)),
        Document("made", "long again", group(3), " ".join([*near[:100], "new", *near[100:]])),
        Document("made", "empty", group(4), " \n -- \n"),
        Document("made", "planted", group(5), f"{sentence(2)} {planted} {sentence(3)}"),
        Document("made", "twin", group(6), f"{sentence(4)} {planted.replace('seven', 'and')} {sentence(5)}"),
    ]
    corpora = build(tmp_path, documents, items)
    manifest = corpora["train"].manifest
    steps = manifest["sources"]["made"]["steps"]
    assert {name: of["documents"] for name, of in steps.items()} == {
        "read": 7, "empty": 1, "duplicate": 1, "near_duplicate": 1, "contaminated": 1, "train": 3,
        "held_out": 0,
    }  # fmt: skip
    for unit in ("documents", "bytes"):
        assert steps["read"][unit] == sum(steps[step][unit] for step in (*FILTERS, *SPLITS))
    found = manifest["decontamination"]
    assert found["first_dropped"] == [{"document": "planted", "suites": ["exam"]}]
    assert found["suites"]["exam"]["documents_dropped"] == {"made": 1}
    assert found["suites"]["quiet"]["documents_dropped"] == {}


def test_a_conversation_keeps_its_mask(tmp_path: Path) -> None:
    messages = ({"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A corpus."})
    documents = [Document("made", "chat", group(0), messages=messages), *texts(3)]
    corpus = build(tmp_path, documents)["train"]
    assert corpus.trained is not None
    first = slice(0, int(corpus.ends[0]))
    learnt = corpus.tokens[first][corpus.trained[first].astype(bool)]
    assert tokenizer().decode(learnt) == "A corpus.<|im_end|>"
    assert corpus.bytes[0] == len("A corpus.")


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.data.small import build, texts
print(build(Path(sys.argv[1]), texts(60))["train"].digest)
"""
    seen = set()
    for seed in ("0", "random"):
        place = tmp_path / seed
        done = subprocess.run(
            [sys.executable, "-c", code, str(place)],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path)) + ":."},
        )
        assert done.returncode == 0, done.stderr
        seen.add((done.stdout, json.dumps({k: v.hex() for k, v in contents(place / "made").items()})))
    assert len(seen) == 1


def test_others_cannot_read_it(tmp_path: Path) -> None:
    build(tmp_path, texts(60))
    for path in [tmp_path / "made", *(tmp_path / "made").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    held_out = Document("made", "a", group(0, held_out=True), "some text")
    for documents in ([], [Document("made", "a", group(0), "...")], [held_out]):
        with pytest.raises(CorpusError, match="No document is left"):
            build(tmp_path, documents)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_few_groups_leave_nothing_held_out(tmp_path: Path) -> None:
    assert set(build(tmp_path, [Document("made", "a", group(0), "some text")])) == {"train"}


def test_an_error_in_reading_leaves_the_old_corpus(tmp_path: Path) -> None:
    build(tmp_path, texts(30))
    before = contents(tmp_path / "made")

    def documents() -> Iterator[Document]:
        yield from texts(50)
        raise DataError("FILE, line 3 is not UTF-8.", "Convert it.")

    with pytest.raises(DataError, match="line 3"):
        build(tmp_path, documents())
    assert contents(tmp_path / "made") == before
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["made"]


def test_a_document_that_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    messages = ({"role": "assistant", "content": "I begin."},)
    with pytest.raises(CorpusError, match="^chat 9: A conversation begins with the assistant"):
        build(tmp_path, [Document("made", "chat 9", "g", messages=messages)])


# Everything that changes the disk, as the build calls it.
STEPS = [
    (building, "_create"), (building, "_sync_file"), (building, "_sync_folder"), (os, "rename"),
    (os, "unlink"), (Path, "mkdir"), (shutil, "rmtree"),
]  # fmt: skip


def interrupted(act: Callable[[], Any], at: int, end: Callable[[], None]) -> int:
    """Run `act` in a process that calls `end` before its step `at`; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        count = 0

        def counting(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    end()
                return real(*arguments, **options)

            return step

        for owner, name in STEPS:
            setattr(owner, name, counting(getattr(owner, name)))
        act()
        os._exit(0)
    except BaseException:
        os._exit(7)


def test_killed_before_any_step_it_leaves_the_old_corpus_or_the_new(tmp_path: Path) -> None:
    old, new = texts(40), texts(80)
    build(tmp_path / "old", old)
    build(tmp_path / "new", new)
    wanted = [contents(tmp_path / name / "made") for name in ("old", "new")]
    at = 0
    while True:
        at += 1
        place = tmp_path / str(at)
        shutil.copytree(tmp_path / "old", place)
        status = interrupted(partial(build, place, new), at, lambda: os._exit(9))
        assert status in (0, 9)
        if (place / "made").exists():
            assert contents(place / "made") in wanted
        building.remove_leftovers(place / "made")
        assert contents(place / "made") in wanted
        assert [p.name for p in place.iterdir() if p.is_dir()] == ["made"]
        build(place, new)  # and the next build is as any
        assert contents(place / "made") == wanted[1]
        shutil.rmtree(place)
        if status == 0:
            break
    assert at > 15


def test_a_refusal_of_the_disk_at_any_step_is_an_error_with_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, texts(40))
    before = contents(tmp_path / "made")
    real = {name: getattr(building, name) for name in ("_create", "_sync_file", "_sync_folder")}
    for name in real:
        for at in range(1, 5):
            count = 0

            def full(*arguments: Any, real: Any = real[name], at: int = at) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*arguments)

            monkeypatch.setattr(building, name, full)
            try:
                build(tmp_path, texts(40))
            except CorpusError as error:
                assert "No space left" in error.message and "Make space" in error.cure
            assert contents(tmp_path / "made") == before
            assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["made"]
            monkeypatch.setattr(building, name, real[name])


def test_a_full_disk_is_an_error_with_a_cure(tmp_path: Path) -> None:
    """With a real limit of the system: no file may grow beyond 64 KiB."""
    code = """
import resource, sys
from pathlib import Path
from mythos.data.corpus import CorpusError
from tests.data.small import build, texts, tokenizer_json
tokenizer_json()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    build(Path(sys.argv[1]), texts(1000))
except CorpusError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)) + ":."},
    )
    assert "cannot be written" in done.stdout and "Make space" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_two_builds_of_one_corpus_do_not_mix(tmp_path: Path) -> None:
    def documents() -> Iterator[Document]:
        yield from texts(20)
        with pytest.raises(CorpusError, match="by another process"):
            build(tmp_path, texts(3))

    assert set(build(tmp_path, documents())) >= {"train"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """After the first 10 MB of text the next 80 MB get by with 8 MB more memory, or the process dies."""
    code = """
import random, resource, sys
from pathlib import Path
from mythos.data.documents import Document
from tests.data.small import build, tokenizer_json

def word(number):
    return "".join(chr(97 + number // 26**place % 26) for place in range(5))

def documents():
    common, size, limited = [word(n * 977) for n in range(5000)], 0, False
    for n in range(10**6):
        its_own = [word(6_000_000 + 50 * n + m) for m in range(50)]
        text = " ".join([*random.Random(n).choices(common, k=4000), *its_own])
        if size > 10e6 and not limited:
            line = next(l for l in open("/proc/self/status") if l.startswith("VmData"))
            limit, limited = (int(line.split()[1]) << 10) + (8 << 20), True
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        if size > 90e6:
            return
        size += len(text)
        yield Document("made", f"d{n}", f"d{n}", text)

corpora = build(Path(sys.argv[1]), documents())
print(sum(c.manifest["counts"]["bytes"] for c in corpora.values()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": ":".join(filter(None, sys.path)) + ":.",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 90e6
