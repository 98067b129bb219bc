"""Readers of the sources on small trees and archives, the split of CWE, and the tables."""

from pathlib import Path

import pytest

from mythos.data import from_archives, from_python, reasoning
from mythos.data.documents import DataError
from mythos.data.fetch import Archive
from mythos.data.sources import DOMAINS, MIXES, SAFETY, SOURCES, sources_of
from tests.data.archives import sdist, wheel

MODULE = '''"""About it."""

def documented(a, b=1):
    """Add two numbers, and nothing else."""
    total = a + b
    return total


class Box:
    @property
    def value(self):
        """The value that lies in the box now.

        More of it.
        """
        return self._value

    def bare(self):
        return 1

    def only(self):
        """Has a docstring and no code to show."""

    def line(self): """All of it on one single line."""; return 2
'''


def quiet(phase: str, done: int, total: int) -> None:
    pass


def test_pairs_hide_what_they_ask_for() -> None:
    made = dict(from_python.pairs(MODULE))
    assert set(made) == {"documented", "Box.value"}
    for name, words in (("documented", "Add two numbers"), ("Box.value", "lies in the box")):
        ask, answer = (message["content"] for message in made[name])
        # Either the docstring is asked for, or the code: the answer is never in the question.
        assert (words in ask) != (words in answer)
        code = answer if words in ask else ask
        assert "```python\n" in code and ("return total" in code or "return self._value" in code)
        assert ("return total" in ask) == ("return total" not in answer) or name == "Box.value"
    assert "@property\ndef value(self):" in "".join(m["content"] for m in made["Box.value"])


def test_the_library_is_read_without_tests_and_tables(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.py", "test/t.py", "b/tests/t.py", "encodings/e.py", "_sysconfigdata_x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    (tmp_path / "empty.py").touch()
    opened = from_python.code(tmp_path)
    assert [(d.id, d.group) for d in opened.documents] == [
        (name, f"python:{name}") for name in ("a.py", "b/c.py", "latin.py")
    ]
    before = opened.facts["sha256"]
    (tmp_path / "b" / "c.py").write_text("x = 2\n")
    assert from_python.code(tmp_path).facts["sha256"] != before


def test_the_running_python_has_much_to_read() -> None:
    facts = from_python.code().facts
    assert facts["files"] > 400 and facts["package"].split()[1][0] == "3"
    assert len(list(from_python.topics().documents)) > 70


def put(monkeypatch: pytest.MonkeyPatch, name: str, archive: Archive, place: Path) -> None:
    """Make a small archive stand for a pinned one, as if it lay in the cache."""
    monkeypatch.setattr(from_archives, name, archive)
    monkeypatch.setattr(from_archives, "fetch_archive", lambda spec, cache, progress: place / spec.file)


def test_django_pages_are_of_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {
        "docs/topics/security.txt": "safe",
        "docs/intro/one.txt": "one",
        "docs/requirements.txt": "x",
        "a.txt": "",
    }
    put(monkeypatch, "DJANGO", sdist(tmp_path, "django", pages), tmp_path)
    sides = [f(tmp_path, quiet) for f in (from_archives.django_security, from_archives.django_docs)]
    assert [[d.id for d in side.documents] for side in sides] == [["topics/security.txt"], ["intro/one.txt"]]


def test_bandit_joins_a_rule_with_its_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = (
        'r"""\n=====\nTitle\n=====\n\nWhy it is bad.\n\n:Example:\n\n  Location: ./examples/bad.py:1\n"""\n'
    )
    files = {"bandit/plugins/rule.py": rule, "examples/bad.py": "eval(x)\n", "examples/not_utf8.py": "y"}
    put(monkeypatch, "BANDIT", sdist(tmp_path, "bandit", files), tmp_path)
    plain, chat = from_archives.bandit(tmp_path, quiet).documents
    assert "Why it is bad." in plain.text and plain.group == chat.group
    assert "eval(x)" in chat.messages[0]["content"]
    assert chat.messages[1]["content"].endswith("Why it is bad.")


WEAKNESS = (
    '<Weakness ID="{id}" Name="Name {id}" Status="{status}"><Description>It is {id}.</Description>'
    "<Potential_Mitigations><Mitigation><Phase>Design</Phase><Description>Avoid <b>{id}</b>.</Description>"
    "</Mitigation></Potential_Mitigations><Observed_Examples><Observed_Example><Reference>CVE-1-{id}</Reference>"
    "<Description>Seen in {id}.</Description></Observed_Example></Observed_Examples>"
    "<Demonstrative_Examples>attack {id}</Demonstrative_Examples></Weakness>"
)


def test_no_kept_back_weakness_and_no_cve_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [WEAKNESS.format(id=n, status="Deprecated" if n == 9 else "Draft") for n in range(1, 41)]
    text = f'<C xmlns="http://cwe.mitre.org/cwe-7"><Weaknesses>{"".join(rows)}</Weaknesses></C>'
    put(monkeypatch, "CWE", wheel(tmp_path, "cwe2", {from_archives.CWE_FILE: text}), tmp_path)
    documents = list(from_archives.cwe(tmp_path, quiet).documents)
    train = {str(n) for n in range(1, 41) if n != 9 and from_archives.cwe_side(str(n)) == "train"}
    assert {d.group for d in documents} == {f"cwe:{n}" for n in train}
    everything = "\n".join(part for d in documents for part in d.parts())
    assert "Seen in" not in everything and "attack" not in everything
    assert f"- Design: Avoid {min(train)} ." in everything
    kept = dict(from_archives.cwe_kept_back(tmp_path, quiet))
    assert {f"CWE-{n}/CVE-1-{n}" for n in range(1, 41) if n != 9} < set(kept)
    assert {name for name in kept if "CVE" not in name} == {
        f"CWE-{n}/{part}" for n in range(1, 41) if n != 9 and str(n) not in train for part in (0, 1)
    }


def test_the_sides_of_cwe_are_fixed() -> None:
    sides = [from_archives.cwe_side(str(n)) for n in range(1, 1001)]
    assert 650 < sides.count("train") < 750
    assert [n for n in range(1, 31) if sides[n - 1] == "eval"] == [1, 6, 7, 8, 9, 10, 14, 16, 24, 28, 30]


def test_a_damaged_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdist(tmp_path, "django", {"docs/a.txt": "text " * 1000})
    file = tmp_path / archive.file
    file.write_bytes(file.read_bytes()[:-20])
    put(monkeypatch, "DJANGO", archive, tmp_path)
    with pytest.raises(DataError) as error:
        list(from_archives.django_docs(tmp_path, quiet).documents)
    assert str(file) in error.value.message and "fetched again" in error.value.cure


def test_questions_are_fixed_and_scored() -> None:
    assert not set(reasoning.TRAINING) & set(reasoning.EVALUATION)
    made = list(reasoning.questions(range(3)))
    assert [(q.generator, q.seed) for q in made] == [(g, s) for g in reasoning.GENERATORS for s in range(3)]
    assert made == list(reasoning.questions(range(3)))
    # A question is of its seed alone, wherever the range begins.
    assert [q.text for q in reasoning.questions(range(1, 2))] == [q.text for q in made[1::3]]
    for question in made:
        assert reasoning.score(question, question.answer) == 1.0
        assert reasoning.score(question, "no answer at all") < 0.5


def test_without_reasoning_gym_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(DataError, match="not installed") as error:
        reasoning.reasoning()
    assert "mythopoeia[train]" in error.value.cure


def test_the_tables_fit_together() -> None:
    assert {source.domain for source in SOURCES} == {*DOMAINS, SAFETY}
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    assert [s.name for domain in (*DOMAINS, SAFETY) for s in sources_of(domain)] == [s.name for s in SOURCES]
    for mix, shares in MIXES.items():
        assert set(shares) <= set(DOMAINS) and abs(sum(shares.values()) - 1) < 1e-9
        assert max(shares, key=lambda name: shares[name]) == mix


@pytest.mark.slow
def test_the_pinned_archives_hold_what_they_held(opus_home: dict[str, str]) -> None:
    """Fetches the archives; they are pinned, so their documents are."""
    cache = Path(opus_home["MYTHOS_HOME"]) / "cache"
    counts = {}
    for source in SOURCES:
        if source.archive is not None:
            documents = list(source.open(cache, quiet).documents)
            counts[source.name] = len(documents), sum(document.size() for document in documents)
    assert counts == {
        "cwe": (1408, 1151905),
        "bandit": (51, 111673),
        "django-security": (14, 358647),
        "django-docs": (641, 5792021),
    }
