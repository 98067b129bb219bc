"""What evaluations ask, as the filter of training text sees it."""

from collections import Counter
from pathlib import Path

import pytest

from mythos.data.overlap import SHORTEST, index_items, word_hashes, words
from mythos.evaluate.items import evaluation_items
from mythos.evaluate.run import SUITES


@pytest.mark.slow
def test_every_suite_is_among_the_items(opus_home: dict[str, str]) -> None:
    """Fetches the packages of the suites and CWE."""
    cache = Path(opus_home["MYTHOS_HOME"]) / "cache"
    made = list(evaluation_items(cache, lambda phase, done, total: None))
    counts = Counter(suite for suite, _, _ in made)
    # The held-out refusal prompts are among those of `refusal`.
    assert set(SUITES) - {"refusal_held_out"} < set(counts)
    assert (counts["humaneval"], counts["mmlu_dev"], counts["reasoning_gym"]) == (164, 273, 500)
    assert counts["refusal"] == 400 + 240 and counts["cwe"] > 3000
    found = index_items(made)
    for suite, _, text in made[::37]:
        sequence = words(text)
        if len(sequence) >= SHORTEST:
            assert suite in found.found_in([sequence], word_hashes(sequence))
