"""Who drafts for whom over HTTP: a tier that the caller may have answers from, as long as they may."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.serve.gated import Gated
from tests.serve.live import ENDLESS, Live, ask, serve


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Gated:
    """Both tiers are released, and `large` drafts for `small`; acme has a grant on one, beta on both."""
    made = Gated(tmp_path_factory.mktemp("drafter"))
    small, large = made.tiny.family.tiers
    family = replace(made.tiny.family, tiers=(replace(small, drafter="large"), large))
    made.tiny = replace(made.tiny, family=family)
    for tier in ("small", "large"):
        made.release(tier)
    made.acme = made.organisation("acme-def")  # type: ignore[attr-defined]
    made.beta = made.organisation("beta-labs")  # type: ignore[attr-defined]
    made.grant("acme-def", "small")
    made.grant("beta-labs", "small")
    made.grant("beta-labs", "large")
    return made


@pytest.fixture(scope="module")
def live(gated: Gated) -> Iterator[Live]:
    with gated.tiny.engine(clock=lambda: 0.0) as engine, serve(gated.tiny, engine) as live:
        yield live


def said(live: Live, key: str) -> str:
    with live.http(key) as http:
        got = http.post("/v1/messages", json=ask(max_tokens=40, temperature=0))
    assert got.status_code == 200 and "large" not in got.text + str(got.headers)
    return got.json()["content"][0]["text"]


def drafted(gated: Gated, live: Live) -> float:
    """Passes with a draft, once every step begun has ended: the engine takes in questions between two."""
    live.service.engine.loaded(gated.tiny.permit())
    return live.service.engine.stats()["drafter_passes"]


def test_a_tier_without_a_grant_does_not_draft_and_one_with_a_grant_does(gated, live):
    engine = live.service.engine
    first = said(live, gated.acme)
    assert engine.stats()["loaded_tiers"] == 1 and drafted(gated, live) == 0
    assert said(live, gated.beta) == first
    assert engine.stats()["loaded_tiers"] == 2 and (before := drafted(gated, live)) > 0
    assert said(live, gated.acme) == first  # it is loaded now, and still not theirs
    assert drafted(gated, live) == before


def test_figures_of_drafts_are_the_operators_and_name_no_tier(gated, live):
    with live.http(gated.beta) as http:
        assert http.get("/metrics").status_code == 404
    with live.http() as http:
        page = http.get("/metrics").text
    assert "mythos_engine_drafter_passes" in page and "mythos_engine_lookup_held" in page
    assert "large" not in page and "small" not in page


def test_a_drafter_that_is_suspended_stops_and_the_answer_goes_on(gated, live):
    begun, texts = threading.Event(), []

    def read() -> None:
        asked = ask(stream=True, **ENDLESS)
        with live.http(gated.beta) as http, http.stream("POST", "/v1/messages", json=asked) as got:
            for text in got.iter_text():
                texts.append(text)
                begun.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert begun.wait(60)
    (answer,) = live.service.watch._until  # noqa: SLF001
    assert answer.drafter is not None and not answer.generation.drafter_withdrawn
    suspension = gated.suspend("large", org="beta-labs")
    reader.join(120)
    assert answer.generation.drafter_withdrawn and not answer.withdrawn
    assert "message_stop" in "".join(texts) and "withdrawn" not in "".join(texts)
    before = drafted(gated, live)
    said(live, gated.beta)
    assert drafted(gated, live) == before
    gated.resume(suspension)
    said(live, gated.beta)
    assert drafted(gated, live) > before
