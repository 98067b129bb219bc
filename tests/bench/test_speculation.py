"""`mythos bench speculation` on a tiny tier: what it counts, and what it refuses to print."""

import json

import pytest

from mythos.cli.bench_speculation import DRAFTER, LOOKUP, OFF, Bench, measure, report
from mythos.cli.output import CommandError
from mythos.engine.request import Request, Sampling
from tests.tiny import tiny_home

PROMPTS = {"one": ("abcabcabcabc", "what next"), "two": ("aaaaaaaaaaaaaaaa",)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("drafts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(place / "keys"))
        tiny = tiny_home(place, ("small", "other"))
        with tiny.engine(clock=lambda: 0.0) as engine:
            encode = engine.loaded(tiny.permit()).tokenizer.encode
            yield Bench(engine, tiny.permit(), tiny.permit("other"), encode)


@pytest.mark.parametrize("streams", [1, 2])
def test_the_record_adds_up(bench: Bench, streams: int) -> None:
    record = measure(bench, PROMPTS, 2, 24, streams, Sampling(0.0))
    assert json.loads(json.dumps(record)) == record and report(record)
    assert set(record["classes"]) == set(PROMPTS) and record["drafter"] == "other"
    for arms in record["classes"].values():
        assert list(arms) == [OFF, LOOKUP, DRAFTER]
        assert arms[OFF]["drafts"] == {} and "drafter" not in arms[LOOKUP]["drafts"]
        for arm in (LOOKUP, DRAFTER):
            assert len(arms[arm]["times_off"]["values"]) == 2
            for kind in arms[arm]["drafts"].values():
                # A token is checked only behind those before it, and holds only if they did.
                assert kind["passes"] == kind["drafted"][0]
                assert kind["drafted"] == sorted(kind["drafted"], reverse=True)
                assert kind["held"] == sorted(kind["held"], reverse=True)
                assert all(h <= d for h, d in zip(kind["held"], kind["drafted"], strict=True))
    assert any(arms[DRAFTER]["drafts"].get("drafter") for arms in record["classes"].values())
    assert [row["depth"] for row in record["costs"]] == list(range(1, 9))
    assert all(row["check"] == 0 and row["lookup_pays_from"] < 1e-6 for row in record["costs"])


def test_answers_that_differ_stop_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = bench.engine.submit

    def other(permit, request: Request, drafter=None):
        changed = request.prompt[1:] if request.speculate else request.prompt
        return submit(permit, Request(changed, request.max_tokens, request.sampling), drafter)

    monkeypatch.setattr(bench.engine, "submit", other)
    with pytest.raises(CommandError, match="differ"):
        measure(bench, PROMPTS, 1, 24, 1, Sampling(0.0))
