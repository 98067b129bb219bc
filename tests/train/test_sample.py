"""A model that is being made answers as it will when it is served."""

from pathlib import Path

import pytest

from mythos.engine.request import Delta, Done, Finish, Request, Sampling
from mythos.train.sample import answers, in_training
from mythos.train.weights import plain_tensors
from tests.tiny import TEMPLATE, tiny_home, tiny_tensors, tiny_tier, tiny_tokenizer

MOST, END = 24, 2


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(0.8, 0.95, seed=7)])
def test_answers_are_those_of_the_engine(tmp_path: Path, sampling: Sampling) -> None:
    home, prompts = tiny_home(tmp_path), [tuple(range(3 + n, 40 + 2 * n)) for n in range(20)]
    wanted = []
    with home.engine() as engine:
        permit = home.permit()
        for running in [engine.submit(permit, Request(prompt, MOST, sampling)) for prompt in prompts]:
            text, tokens, ended = "", (), False
            for event in running:
                if isinstance(event, Delta):
                    text, tokens = text + event.text, tokens + event.tokens
                elif isinstance(event, Done):
                    ended = event.finish is Finish.END
            wanted.append((text, (*tokens, END) if ended else tokens, ended))
    loaded = in_training(tiny_tier("small"), plain_tensors(tiny_tensors()), tiny_tokenizer(), TEMPLATE)
    told, paused = [], []

    def pause() -> float:
        paused.append(1)
        return 0.0

    asked = [(prompt, sampling) for prompt in prompts]
    got = answers(loaded, asked, MOST, END, pause, lambda done, of: told.append((done, of)))
    assert [(one.text, one.tokens, one.ended) for one in got] == wanted
    assert told == [(n, 20) for n in range(1, 21)] and len(paused) >= MOST
