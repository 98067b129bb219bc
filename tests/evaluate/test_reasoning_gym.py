"""Reasoning questions: always the same, never those of the training text, graded by their own scorers."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mythos.data.reasoning import EVALUATION, GENERATORS, TRAINING
from mythos.engine.request import Finish
from mythos.evaluate import reasoning_gym
from mythos.evaluate.run import run_suite
from mythos.records.evidence import Outcome
from mythos.records.principal import OPERATOR
from tests.tiny import tiny_home


def quiet(*_: object) -> None:
    pass


def outcomes(say) -> list[Outcome]:
    """What the suite makes of the answers that `say` gives to its items."""
    suite = reasoning_gym.suite(quiet)
    access = SimpleNamespace(chat=lambda text: text)
    right = {item.data["question"]: item.data["answer"] for item in suite.items}
    access.answer = lambda prompt, _: say(right[prompt])
    return [result.sample.outcome for result in suite.run(access, "chat", suite.items[::25])]  # pyright: ignore


def test_the_questions_are_fixed_and_none_is_trained_on() -> None:
    suite = reasoning_gym.suite(quiet)
    assert len(suite.items) == 500 and not suite.rules_out
    assert {item.cluster for item in suite.items} == set(GENERATORS)
    assert suite.digest == reasoning_gym.suite(quiet).digest
    assert not set(EVALUATION) & set(TRAINING)


def test_right_answers_count_and_others_do_not() -> None:
    assert set(outcomes(lambda right: (right, Finish.END))) == {Outcome.SUCCESS}
    assert set(outcomes(lambda right: (f"Let me see.\n\n{right}\n", Finish.END))) == {Outcome.SUCCESS}
    assert set(outcomes(lambda right: (f"{right}\nxyzzy", Finish.END))) == {Outcome.FAILURE}
    assert set(outcomes(lambda right: ("", Finish.END))) == {Outcome.FAILURE}
    assert set(outcomes(lambda right: ("I'm sorry, but I can't help.", Finish.END))) == {Outcome.REFUSAL}
    assert set(outcomes(lambda right: ("", Finish.FAILED))) == {Outcome.ERROR}


def test_a_tier_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    tiny = tiny_home(tmp_path)
    here = (tiny.home, tiny.store, tiny.clock, OPERATOR, tiny.family, "small")
    result = run_suite(*here, "reasoning_gym", "chat", tmp_path / "journal", 4)
    assert len(result.samples) == 4 and Outcome.SUCCESS not in {one.outcome for one in result.samples}
