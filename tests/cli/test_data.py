"""`mythos data`: the table of sources, wrong usage, what a corpus is shown as, and a real build (slow)."""

import json
from pathlib import Path

import pytest

from mythos.cli.data import source_row
from mythos.data.sources import SOURCES
from tests.data.small import build, texts, tokenizer_json

from .conftest import Run

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "data.md"


def test_the_sources_are_listed(mythos: Run) -> None:
    done = mythos("data", "list", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row["source"] for row in said["sources"]] == [source.name for source in SOURCES]
    assert said["built"] == [] and set(said["mixes"]) == set(said["domains"])
    assert {row["fetched"] for row in said["sources"]} == {"no", "not needed"}
    assert "BSD-3-Clause" in mythos("data", "list").stdout


def test_the_reference_has_the_same_table() -> None:
    rows = [source_row(source) for source in SOURCES]
    heads = [name for name in rows[0] if name != "fetched"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(row[name] for name in heads)} |" for row in rows]
    assert "\n".join(lines) in REFERENCE.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "cure"),
    [
        (["nonsense"], 2, "coding, reasoning, defence, general"),
        (["coding", "--from", "."], 2, "mythos data build mine --from ."),
        (["mine", "yours", "--from", "."], 2, "mythos data build mine --from ."),
        (["../mine", "--from", "."], 2, "mythos data build mine --from ."),
        (["general"], 3, "mythos up"),
        (["general", "--tokenizer", "nowhere.json"], 1, "tokenizer.json"),
    ],
)
def test_wrong_usage_names_the_right_one(mythos: Run, arguments: list[str], code: int, cure: str) -> None:
    done = mythos("data", "build", *arguments, "--json")
    assert done.returncode == code, done.stderr
    assert cure in json.loads(done.stdout)["cure"]


def test_a_corpus_is_shown(mythos: Run, home: dict[str, str], tmp_path: Path) -> None:
    place = Path(home["MYTHOS_HOME"]) / "data"
    Path(home["MYTHOS_HOME"]).mkdir(mode=0o700)
    corpora = build(place, texts(40), name="mine")
    assert json.loads(mythos("data", "list", "--json").stdout)["built"] == ["mine"]
    done = mythos("data", "show", "mine", "--verify", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)["manifests"]
    assert {name: one["digest"] for name, one in shown.items()} == {n: c.digest for n, c in corpora.items()}
    text = mythos("data", "show", str(place / "mine" / "train"))
    assert "made==1" in text.stdout and "near_duplicate" in text.stderr
    (place / "mine" / "train" / "tokens.bin").write_bytes(b"")
    done = mythos("data", "show", "mine")
    assert done.returncode == 1 and "tokens.bin has 0 bytes" in done.stderr
    assert mythos("data", "show", "yours").returncode == 1


@pytest.mark.slow
def test_own_text_is_built_against_the_real_evaluations(mythos: Run, tmp_path: Path) -> None:
    """Fetches what the evaluations are made of."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"{texts(60)[number].text}\n")
    planted = "What is the output of the function? from typing import List def has_close_elements(numbers: "
    planted += (
        "List[float], threshold: float) -> bool: Check if in given list of numbers, are any two numbers "
    )
    (folder / "planted.txt").write_text(f"{planted}closer to each other than given threshold.\n")
    file = tmp_path / "tokenizer.json"
    file.write_bytes(tokenizer_json())
    done = mythos(
        "data", "build", "mine", "--from", str(folder), "--tokenizer", str(file), "--json", timeout=600
    )
    assert done.returncode == 0, done.stderr
    (built,) = json.loads(done.stdout)["built"]
    assert built["decontamination"]["humaneval"]["documents_dropped"] == {"own": 1}
    assert built["sources"]["own"]["contaminated"]["documents"] == 1
