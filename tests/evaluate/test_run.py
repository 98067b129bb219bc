"""Suites on a tiny tier: scoring, resuming after a kill, binding of journals, the gate."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mythos.engine.request import InvalidRequest
from mythos.engine.score import loglikelihoods
from mythos.evaluate.journal import Journal, JournalError
from mythos.evaluate.mmlu_dev import questions
from mythos.evaluate.run import EvaluationError, run_suite
from mythos.model.attention import causal_attend
from mythos.records.permit import Action
from mythos.records.principal import OPERATOR, Principal
from tests.tiny import tiny_home


@pytest.fixture()
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    return tiny_home(tmp_path)


def test_likelihood_is_that_of_a_plain_forward_and_the_same_each_time(tiny):
    prefix, continuations = list(range(5, 60)), [[7], [9, 11, 13], list(range(100, 130))]
    with tiny.engine() as engine:
        permit = tiny.permit()
        got = loglikelihoods(engine, permit, prefix, continuations)
        assert got == loglikelihoods(engine, permit, prefix, continuations)
        model = engine.loaded(permit.root).model
        for value, continuation in zip(got, continuations, strict=True):
            tokens = torch.tensor(prefix + continuation)
            with torch.inference_mode():
                logits = model(tokens, torch.arange(len(tokens)), causal_attend([len(tokens)])).float()
            logp = torch.log_softmax(logits[len(prefix) - 1 : -1], -1)
            plain = float(logp.gather(1, torch.tensor(continuation)[:, None]).sum())
            assert value == pytest.approx(plain, rel=0.01, abs=0.05)
        for change in ({"action": Action.COUNT}, {"expires_at": 1.0}, {"decision": "dec_other"}):
            with pytest.raises(PermissionError):
                loglikelihoods(engine, replace(permit, **change), prefix, continuations)
        with pytest.raises(InvalidRequest):
            loglikelihoods(engine, permit, prefix, [[]])


def run(tiny, folder: Path, limit=24, who=OPERATOR, elicitation="chat"):
    return run_suite(
        tiny.home, tiny.store, tiny.clock, who, tiny.family, "small", "refusal", elicitation, folder, limit
    )


CHILD = """
import sys
from pathlib import Path
from mythos.evaluate.run import run_suite
from mythos.ledger.log import last_time
from mythos.records.clock import Clock
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family
from mythos.store.db import Store
from mythos.store.home import Home
from tests.tiny import tiny_tier
home = Home.open(sys.argv[1])
family = Family("tiny", "for tests", "none", (tiny_tier("small"),))
run_suite(home, Store.open(home), Clock(), OPERATOR, family, "small", "refusal", "chat", Path(sys.argv[2]), 24)
"""


def test_a_killed_run_resumes_to_the_same_samples(tiny, tmp_path):
    whole = run(tiny, tmp_path / "whole")
    assert len(whole.samples) == 24 and not whole.complete
    assert (whole.root, whole.profile) == (tiny.permit().root, "none")
    file = tmp_path / "cut" / "refusal.chat.jsonl"
    command = [sys.executable, "-c", CHILD, str(tiny.home.path), str(file.parent)]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    while child.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with file.open("ab") as torn:
        torn.write(b'{"id": "torn')
    assert run(tiny, file.parent).samples == whole.samples


def test_a_journal_is_bound_to_its_run(tmp_path):
    path = tmp_path / "x.jsonl"
    journal = Journal(path, {"root": "a"}, 1.0)
    with pytest.raises(JournalError, match="another run"):
        Journal(path, {"root": "a"}, 2.0)
    journal.close()
    with pytest.raises(JournalError, match="have changed"):
        Journal(path, {"root": "b"}, 2.0)
    again = Journal(path, {"root": "a"}, 2.0)
    assert again.started == 1.0
    again.close()


def test_the_gate_decides(tiny, tmp_path):
    with pytest.raises(PermissionError):
        run(tiny, tmp_path / "a", who=Principal("someone", "key", "elsewhere"))
    with pytest.raises(EvaluationError, match="no elicitation"):
        run(tiny, tmp_path / "a", elicitation="shout")
    assert not (tmp_path / "a").exists()


def test_questions_are_read_and_a_torn_one_is_left_out():
    text = (
        "About x.\n\nQ: One?\n(A) a (B) b c (C) c (D) d\nA: Let's think. The answer is (B).\n\n"
        "Q: No options\nA: Let's think. The answer is (A).\n\n"
    )
    assert questions(text) == [{"question": "One?", "A": "a", "B": "b c", "C": "c", "D": "d", "answer": "B"}]
