"""Refusals by safeguards in both vendors' forms, who chooses the profile, and disclosed fallback."""

import dataclasses
import json
from contextlib import contextmanager

import pytest

from mythos.data.chat import encode_chat
from mythos.gate.authorize import authorize
from mythos.ledger.log import ledger
from mythos.records.permit import Permit, Reason, Refusal
from mythos.store.profiles import put_profile
from mythos.store.usage import usage_summary
from tests.guarded import ALWAYS, classifier, input_score, profile_for
from tests.serve.live import Live, ask, chat
from tests.tiny import TEMPLATE

BAD, GOOD = "Tell me the forbidden thing", "Tell me a story of the sea"


@contextmanager
def guarded(live: Live, tiny, **profiles):
    """The gate's permits name these profiles (by tier), as release decisions make them do."""

    def named(standing, principal, action, tier, purpose, now):
        got = authorize(standing, principal, action, tier, purpose, now)
        profile = profiles.get(tier)
        if isinstance(profile, Refusal):
            return profile
        return dataclasses.replace(got, profile=profile) if profile and isinstance(got, Permit) else got

    with pytest.MonkeyPatch.context() as patch:
        for place in ("service", "watch"):
            patch.setattr(f"mythos.serve.{place}.authorize", named)
        yield


def stored(tiny, *classifiers, tier="small", **more) -> str:
    profile = profile_for(tiny.permit(tier).root, *classifiers, **more)
    put_profile(tiny.home, profile)
    return profile.identity


@pytest.fixture(scope="module")
def sides(tiny, engine, live):
    """(text that trips, twin that passes, threshold)."""
    tokenizer = engine.loaded(tiny.permit()).tokenizer
    scored = sorted(
        (input_score(tiny, engine, tuple(encode_chat(tokenizer, TEMPLATE, [turn(text)]))), text)
        for text in (BAD, GOOD)
    )
    return scored[1][1], scored[0][1], (scored[0][0] + scored[1][0]) / 2


def turn(text):
    return {"role": "user", "content": text}


def posted(live, path, body, **headers):
    with live.http(**headers) as http:
        return http.post(path, json=body)


def chunks(response) -> list[dict]:
    rows = [row[6:] for row in response.text.splitlines() if row.startswith("data: {")]
    return [json.loads(row) for row in rows]


def attempts(tiny) -> list[dict]:
    with tiny.store.read() as conn:
        return [json.loads(row.event) for row in conn.execute(ledger.select().order_by(ledger.c.seq))]


def test_refused_and_answered_in_both_forms(tiny, live, sides):
    bad, good, between = sides
    name = stored(tiny, classifier("cyber", input=between))
    with guarded(live, tiny, small=name):
        whole = posted(live, "/v1/messages", ask(messages=[turn(bad)]))
        body = whole.json()
        assert whole.status_code == 200 and body["stop_reason"] == "refusal" and body["content"] == []
        assert body["stop_details"]["type"] == "refusal" and body["stop_details"]["category"] == "cyber"
        case = body["stop_details"]["explanation"].split()[-1].rstrip(".")
        assert case.startswith("case_") and body["model"] == "small"

        events = chunks(posted(live, "/v1/messages", ask(messages=[turn(bad)], stream=True)))
        assert [e["type"] for e in events] == ["message_start", "message_delta", "message_stop"]
        assert events[1]["delta"]["stop_reason"] == "refusal"
        assert events[1]["delta"]["stop_details"]["category"] == "cyber"

        choice = posted(live, "/v1/chat/completions", chat(messages=[turn(bad)])).json()["choices"][0]
        assert choice["finish_reason"] == "content_filter" and choice["message"]["content"] is None
        assert "cyber" in choice["message"]["refusal"]

        rows = chunks(posted(live, "/v1/chat/completions", chat(messages=[turn(bad)], stream=True)))
        deltas = [r["choices"][0]["delta"] for r in rows]
        assert not any(d.get("content") for d in deltas) and any(d.get("refusal") for d in deltas)
        assert rows[-1]["choices"][0]["finish_reason"] == "content_filter"

        for path, body in (("/v1/messages", ask), ("/v1/chat/completions", chat)):
            for stream in (False, True):
                text = posted(live, path, body(messages=[turn(good)], stream=stream)).text
                assert "refusal" not in text.replace('"refusal":null', "") and "content_filter" not in text
    written = [e for e in attempts(tiny) if e.get("facts", {}).get("case") == case]
    assert len(written) == 1 and written[0]["outcome"] == "refused"
    assert written[0]["facts"]["category"] == "cyber" and written[0]["facts"]["profile"] == name
    assert bad not in json.dumps(attempts(tiny))


def test_an_answer_that_trips_shows_only_what_was_checked(tiny, live):
    name = stored(tiny, classifier("cbrn", output=ALWAYS), check_every=4)
    body = {"max_tokens": 40, "temperature": 0, "messages": [turn(GOOD)]}
    with guarded(live, tiny, small=name):
        got = posted(live, "/v1/messages", ask(**body)).json()
        assert (got["content"], got["stop_reason"], got["stop_details"]["category"]) == ([], "refusal", "bio")
        events = chunks(posted(live, "/v1/messages", ask(**body, stream=True)))
        assert not any(e["type"].startswith("content") for e in events)
        got = posted(live, "/v1/chat/completions", chat(**body)).json()["choices"][0]
        assert got["message"]["content"] is None and got["finish_reason"] == "content_filter"


def test_a_client_cannot_choose_the_profile(tiny, live, sides):
    bad, _, between = sides
    name = stored(tiny, classifier("cyber", input=between))
    tries = [
        ({"profile": "none"}, {}),
        ({"safeguards": False}, {}),
        ({"metadata": {"user_id": "none"}}, {}),
        ({"service_tier": "auto"}, {"mythos-profile": "none", "x-profile": "none"}),
        ({}, {"anthropic-beta": "profile-none", "mythos-decision": "x"}),
        ({"fallbacks": "default"}, {}),
        ({"model": "small@none"}, {}),
    ]
    with guarded(live, tiny, small=name):
        for body, headers in tries:
            got = posted(live, "/v1/messages?profile=none", ask(messages=[turn(bad)]) | body, **headers)
            assert got.status_code >= 400 or got.json()["stop_reason"] == "refusal", (body, headers)
            assert "mythos-fallback" not in got.headers
    with guarded(live, tiny, small="guarded@" + "0" * 16):  # not known: refused, never unguarded
        assert posted(live, "/v1/messages", ask()).status_code == 403
    assert posted(live, "/v1/messages", ask(messages=[turn(bad)])).json()["stop_reason"] != "refusal"


@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_is_disclosed_metered_as_served_and_not_sticky(tiny, live, sides, stream):
    bad, good, between = sides
    name = stored(tiny, classifier("cyber", input=between), fallback="large")

    def used():
        live_rows = {row.tier: row.requests for row in usage_summary(tiny.store)}
        return live_rows.get("small", 0), live_rows.get("large", 0)

    def model(response):
        return chunks(response)[0]["message"]["model"] if stream else response.json()["model"]

    before = used()
    with guarded(live, tiny, small=name):
        got = posted(live, "/v1/messages", ask(messages=[turn(bad)], stream=stream))
        assert got.status_code == 200 and model(got) == "large" and '"refusal"' not in got.text
        assert got.headers["mythos-fallback"].startswith("from=small, category=cyber, case=case_")
        assert used() == (before[0], before[1] + 1)
        next_turn = posted(live, "/v1/messages", ask(messages=[turn(good)], stream=stream))
        assert model(next_turn) == "small" and "mythos-fallback" not in next_turn.headers
        chosen = posted(live, "/v1/chat/completions", chat(messages=[turn(bad)], stream=stream))
        assert "mythos-fallback" in chosen.headers
    case = got.headers["mythos-fallback"].split("case=")[1]
    assert [e["outcome"] for e in attempts(tiny) if e.get("facts", {}).get("case") == case] == ["refused"]


def test_no_fallback_to_a_tier_the_caller_may_not_use(tiny, live, sides):
    bad, _, between = sides
    name = stored(tiny, classifier("cyber", input=between), fallback="large")
    hidden = Refusal(Reason.UNKNOWN_TIER, False, "no tier named 'large'")
    with guarded(live, tiny, small=name, large=hidden):
        got = posted(live, "/v1/messages", ask(messages=[turn(bad)]))
    assert got.json()["stop_reason"] == "refusal" and got.json()["model"] == "small"
    assert "large" not in got.text + str(got.headers) and "mythos-fallback" not in got.headers
    with guarded(live, tiny, small=name, large=stored(tiny, classifier("cyber", input=ALWAYS), tier="large")):
        got = posted(live, "/v1/messages", ask(messages=[turn(bad)]))
    assert (got.json()["stop_reason"], got.json()["model"]) == ("refusal", "large")  # it is checked too
