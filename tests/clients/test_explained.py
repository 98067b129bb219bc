"""What counts as explained: exactly the failures that are listed, for the reason that is given."""

import pytest

from tests.clients.suites import SUITES, Explanation, Outcome, compare, explanations

EXPECTED = [Explanation("s", "a.py", "not built", "", "code: 404", ("test_one", "test_two"))]
SOUND = [
    Outcome("a.py", "TestA::test_one[loose]", "failed", "code: 404"),
    Outcome("a.py", "TestA::test_one[strict]", "failed", "code: 404"),
    Outcome("a.py", "TestB::test_two", "failed", "code: 404"),
    Outcome("a.py", "TestA::test_three", "passed"),
]


def test_what_is_explained_passes():
    assert compare(SOUND, EXPECTED) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (Outcome("a.py", "TestA::test_three", "failed", "code: 404"), "unexplained"),
        (Outcome("b.py", "TestA::test_one", "failed", "code: 404"), "unexplained"),
        (Outcome("a.py", "TestA::test_one[strict]", "failed", "code: 500"), "unexplained"),
        (Outcome("a.py", "TestA::test_one[aiohttp]", "skipped", "code: 404"), "unexplained"),
        (Outcome("a.py", "TestA::test_one[strict]", "passed"), "but it passed"),
    ],
)
def test_what_is_not_is_named(change: Outcome, word: str):
    assert any(word in line for line in compare([*SOUND, change], EXPECTED))


def test_an_explained_test_that_is_gone_is_named():
    assert "no such test" in compare(SOUND[:2], EXPECTED)[0]


def test_every_explanation_belongs_to_a_file_that_runs():
    for suite in SUITES:
        assert {explanation.file for explanation in explanations(suite)} <= set(suite.files)
