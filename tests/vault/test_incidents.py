"""Incidents: a drill of the whole, the table of acts, the clocks, statements that say what is known."""

import dataclasses
import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mythos.gate import acts
from mythos.gate.apply import apply
from mythos.gate.incidents import CLOCKS, DAY, HOUR, NEXT, Act, Case, Stand, duties
from mythos.gate.policy import load_pack
from mythos.gate.state import Rejected
from mythos.gate.submit import submit
from mythos.records.clock import stamp
from mythos.records.ids import new_id
from mythos.records.incident import (
    ABSENT,
    Finding,
    IncidentClosed,
    IncidentContained,
    IncidentCounted,
    IncidentFinding,
    IncidentOpened,
    IncidentReported,
    Lesson,
    Named,
    Nature,
    Phase,
    Source,
    Target,
)
from mythos.records.policy import Deadline
from mythos.records.reasons import Code
from mythos.records.signed import seal
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.public_app import create_public_app
from mythos.vault.assets import delete_asset, read_asset
from mythos.vault.counting import count_incident
from mythos.vault.documents import PENDING, read_document
from mythos.vault.errors import NoAsset, NotAllowedHere
from mythos.vault.exposure import Target as Listener
from mythos.vault.exposure import audit_exposure
from mythos.vault.incidents import (
    Hand,
    add_finding,
    case_of,
    close_incident,
    contain_incident,
    incident_rows,
    lessons_of,
    open_incident,
)
from mythos.vault.lessons import made_up, with_lessons
from mythos.vault.statements import UNKNOWN, draft_statement, hand_in_statement
from tests.vault.test_publication import now_public, published
from tests.vault.world import ACME, OUTSIDER, READER, VaultTown

CLOSERS = ("rso-1", "board-1")


def hand(town: VaultTown, who: str = "safety-1") -> Hand:
    return Hand(who, town.keys[who], town.gate)


def opened(town: VaultTown, *named: Named, natures=(Nature.CYBER_BREACH,), **more) -> str:
    return open_incident(
        *town.place, "drafts are readable", "a newspaper", town.now, natures, named, hand(town), **more
    ).id


def handed_in(town: VaultTown, incident: str, phase: Phase, *duties: str) -> IncidentReported:
    return hand_in_statement(*town.place, incident, duties or ("R29",), phase, hand(town))[0]


def closed(town: VaultTown, incident: str, *lessons: Lesson, by=CLOSERS) -> IncidentClosed:
    persons = [(who, town.keys[who]) for who in by]
    return close_incident(*town.place, incident, "a rule for the audit", lessons, persons)


def code(work) -> Code:
    with pytest.raises(Rejected) as refused:
        work()
    return refused.value.code


def read(town: VaultTown, who, asset: str) -> None:
    b"".join(read_asset(*town.as_(who), asset).chunks)


def test_a_drill_of_the_whole(town):
    """A draft was shared too widely and another published by mistake; outsiders read both, and one calls."""
    draft, page, own = (town.put(b"a draft of the launch post").id for _ in range(3))
    share = town.share(draft)
    public = published(town, page)
    assert now_public(town) == {public}
    for _ in range(3):
        read(town, READER, draft)
    with pytest.raises(NoAsset):
        read(town, OUTSIDER, draft)
    first = town.now
    app = create_public_app(town.store, town.clock)
    with bind("127.0.0.1", 0) as listener, running(app, listener) as base_url:
        assert [httpx.get(f"{base_url}/p/{public}").status_code for _ in range(2)] == [200, 200]
        assert httpx.get(f"{base_url}/p/pub_{'x' * 22}").status_code == 404
        town.now += HOUR

        incident = opened(town, Named(Target.ASSET, draft), Named(Target.PUBLICATION, public))
        contained = contain_incident(*town.place, incident, [], hand(town))
        assert not contained.failed and now_public(town) == set()
        assert httpx.get(f"{base_url}/p/{public}").status_code == 404
    with pytest.raises(NoAsset):
        read(town, READER, draft)
    assert contain_incident(*town.place, incident, [Named(Target.SHARE, share)], hand(town)).failed == ()

    town.now += HOUR
    counted = count_incident(*town.place, incident, hand(town))
    assets, publications = counted.tallies
    assert (assets.source, assets.items, assets.reads, assets.callers) == (Source.ASSETS, 1, 3, 1)
    assert (assets.refused, assets.first, assets.last) == (2, first, first)
    assert (publications.items, publications.reads, publications.callers) == (1, 2, 1)
    table = read_document(*town.place, counted.table)
    assert table["assets"]["callers"] == [[[ACME, READER.id], 3, 3 * 26, first, first]]

    add_finding(*town.place, incident, Finding.CAUSE, "the share was meant for a colleague", hand(town))
    town.now += DAY
    handed_in(town, incident, Phase.INITIAL)
    assert code(lambda: closed(town, incident)) is Code.INCIDENT_ORDER  # no final statement yet
    text = draft_statement(*town.place, incident).text
    assert "meant for a colleague" in text and "3 reads of 1 by 1 principals" in text
    handed_in(town, incident, Phase.FINAL)
    row = incident_rows(town.state, town.now)[0]
    assert row.stand is Stand.REPORTED and not row.overdue
    assert all(duty.met is not None for duty in row.duties)
    closed(town, incident, Lesson("assets", f"/v1/assets/{draft}/preview"))
    assert [lesson for _, lesson in lessons_of(*town.place)] == [
        Lesson("assets", f"/v1/assets/{draft}/preview")
    ]
    assert own not in str(town.state.cases)  # nothing else was drawn in


def test_a_lesson_is_a_row_of_the_audit(town):
    """What answers on a lesson's path is a finding though no crawler could guess it."""

    async def leaky(scope, receive, send):
        shown = scope["type"] == "http" and scope["path"] == "/old/launch"
        if scope["type"] == "lifespan":
            while True:
                await send({"type": f"{(await receive())['type']}.complete"})
        status, body = (200, b"the launch plan") if shown else (404, b"")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    with bind("127.0.0.1", 0) as listener, running(leaky, listener) as base_url:
        target = Listener("assets", base_url)
        assert audit_exposure([target], [], timing=False).findings == ()
        targets, left = with_lessons(
            [target], [Lesson("assets", "/old/launch"), Lesson("tiers", "/v1/models/x")]
        )
        found = audit_exposure(targets, [], timing=False).findings
    assert {(one.what, one.path) for one in found} >= {("answers", "/old/launch"), ("differs", "/old/launch")}
    assert left == [Lesson("tiers", "/v1/models/x")]


def test_a_made_up_twin_has_the_same_form():
    path = f"/v1/assets/ast_{'a' * 22}/preview?version=1"
    twin = made_up(path)
    assert twin != path and len(twin) == len(path) and twin.endswith("/preview?version=1")
    assert (
        made_up("/drafts/plan?x=1").startswith("/drafts/plan") and made_up("/drafts/plan") != "/drafts/plan"
    )


def test_what_cannot_be_taken_away_stops_nothing_else_and_is_said(town):
    asset = town.put().id
    town.share(asset)
    named = [Named(Target.GRANT, "grant_none"), Named(Target.TIER, "none"), Named(Target.ASSET, asset)]
    incident = opened(town, *named)
    made = contain_incident(*town.place, incident, [], hand(town))
    assert {(one.what, one.why) for one in made.failed} == {
        (Target.GRANT, "UNKNOWN_SUBJECT"),
        (Target.TIER, "UNKNOWN_SUBJECT"),
    }
    assert [one.id for one in made.done] == [asset]
    assert case_of(town.state, incident).stand is Stand.OPEN
    assert "It is not contained." in draft_statement(*town.place, incident).text
    with pytest.raises(NoAsset):
        read(town, READER, asset)
    more = Named(Target.SHARE, "shr_none")
    assert contain_incident(*town.place, incident, [more], hand(town), named[:2]).failed != ()
    again = contain_incident(*town.place, incident, [], hand(town))  # nothing that is left is forgotten
    assert {(one.what, one.why) for one in again.failed} == {
        (Target.GRANT, ABSENT),
        (Target.TIER, ABSENT),
        (Target.SHARE, "NoShare"),
    }
    assert case_of(town.state, incident).stand is Stand.OPEN
    contain_incident(*town.place, incident, [], hand(town), [more])
    assert case_of(town.state, incident).stand is Stand.CONTAINED
    assert "there is none, says safety-1" in draft_statement(*town.place, incident).text


def test_a_wrong_clock_does_not_prevent_containing(town):
    asset = town.put().id
    town.share(asset)
    public = published(town, asset)
    release = town.released()
    incident = opened(
        town, Named(Target.ASSET, asset), Named(Target.RELEASE, release.id), Named(Target.TIER, "capybara")
    )
    town.now -= DAY
    made = contain_incident(*town.place, incident, [], hand(town))
    assert made.failed == () and release.id in town.state.fallen and len(town.state.suspensions) == 1
    assert public not in [one.name for one in (town.home.path / "public").iterdir()]
    assert case_of(town.state, incident).stand is Stand.CONTAINED


def test_containing_ends_releases_grants_organisations_tiers_and_safeguards(town):
    release = town.released()
    grant = acts.add_grant(
        *town.place, ACME, "fam", "capybara", "none", release.subject.stage, ["cyber_defence"], [],
        town.now, town.now + DAY, "", "rso-1", town.keys["rso-1"],
    )  # fmt: skip
    named = [
        Named(Target.RELEASE, release.id),
        Named(Target.GRANT, grant.id),
        Named(Target.ORGANISATION, ACME),
        Named(Target.TIER, "capybara"),
        Named(Target.PROFILE, "none"),
    ]
    incident = opened(town, *named)
    assert contain_incident(*town.place, incident, [], hand(town)).failed == ()
    state = town.state
    assert release.id in state.fallen and {grant.id, ACME} <= set(state.revoked)
    assert [one.tier for one in state.suspensions.values()] == ["capybara"]
    assert [one.profile for one in state.incidents.values()] == ["none"]
    again = contain_incident(*town.place, incident, [], hand(town))
    assert len(again.done) == len(named) and len(town.state.suspensions) == 1


@pytest.mark.parametrize("nature", list(Nature))
def test_the_clock_of_each_nature(town, nature):
    suspected = town.now - HOUR
    incident = opened(town, natures=(nature,), suspected_at=suspected)
    first = duties(case_of(town.state, incident), town.state.pack)[0]
    assert (first.row, first.due) == (CLOCKS[nature].row, suspected + CLOCKS[nature].hours * HOUR)
    assert not first.overdue(first.due - 1) and first.overdue(first.due)
    other = "R34" if first.row == "R29" else "R29"
    handed_in(town, incident, Phase.INITIAL, other, "public")
    assert duties(case_of(town.state, incident), None)[0].met is None  # another duty's statement
    handed_in(town, incident, Phase.INITIAL, first.row)
    assert duties(case_of(town.state, incident), None)[0].met == town.now


def test_the_clocks_after_the_first_statement(town):
    incident = opened(town)
    handed_in(town, incident, Phase.INITIAL)
    names = {duty.what: duty for duty in duties(case_of(town.state, incident), None)}
    assert names["next statement"].due == town.now + 28 * DAY and "final statement" not in names
    town.now += DAY
    contain_incident(*town.place, incident, [], hand(town))
    names = {duty.what: duty for duty in duties(case_of(town.state, incident), None)}
    assert names["final statement"].due == town.now + 60 * DAY
    count_incident(*town.place, incident, hand(town))
    handed_in(town, incident, Phase.FINAL)
    names = {duty.what: duty for duty in duties(case_of(town.state, incident), None)}
    assert names["final statement"].met == town.now and "next statement" not in names
    add_finding(*town.place, incident, Finding.HARM, "more than was thought", hand(town))
    names = {duty.what: duty for duty in duties(case_of(town.state, incident), None)}
    assert names["final statement"].met is None  # it did not say this


def test_what_turns_out_worse_starts_another_clock(town):
    incident = opened(town)
    town.now += HOUR
    add_finding(*town.place, incident, Finding.NATURE, "a threat", hand(town), Nature.IMMINENT_DANGER)
    first = duties(case_of(town.state, incident), town.state.pack)[0]
    assert (first.row, first.due) == ("R34", town.now + 24 * HOUR)
    late = incident_rows(town.state, first.due)[0].overdue
    assert [duty.what for duty in late] == ["first statement: imminent_danger"]
    work = lambda: add_finding(  # noqa: E731
        *town.place, incident, Finding.NATURE, "again", hand(town), Nature.CYBER_BREACH
    )
    assert code(work) is Code.ID_TAKEN


@given(hours=st.floats(0.5, 10_000))
def test_a_policy_makes_no_deadline_longer(hours):
    pack = load_pack("house")
    clocks = (Deadline("incident_cyber", "a breach", hours),)
    opened = _case_opened()
    case = Case(opened, Stand.OPEN, (Act(opened, 1000.0),))
    due = duties(case, dataclasses.replace(pack, clocks=clocks))[0].due
    assert due == opened.suspected_at + min(hours, 120.0) * HOUR


def _case_opened():
    return IncidentOpened("inc_x", "d", (Nature.CYBER_BREACH,), PENDING, 1000.0, 1000.0, (), "ana")


def test_every_pair_of_stand_and_act_is_in_the_table_or_refused(town):
    """Brought to each stand by its records alone, an incident takes exactly the acts of the table."""
    safety, gate, place = town.keys["safety-1"], town.gate, town.state.deployment
    both = [town.keys[who] for who in CLOSERS]

    def act(kind: type, state, phase: Phase = Phase.INITIAL) -> None:
        about = (new_id("rec"), place, "inc_1")
        basis = tuple(one.record.id for one in state.cases["inc_1"].acts)
        record, keys = {
            IncidentContained: lambda: (IncidentContained(*about, (), (), "safety-1"), [gate, safety]),
            IncidentCounted: lambda: (
                IncidentCounted(*about, 0.0, town.now, 1, (), (), PENDING, "safety-1"),
                [gate, safety],
            ),
            IncidentReported: lambda: (
                IncidentReported(*about, ("R29",), phase, PENDING, basis, "safety-1"),
                [gate, safety],
            ),
            IncidentFinding: lambda: (
                IncidentFinding(*about, Finding.CAUSE, None, PENDING, "safety-1"),
                [safety],
            ),
            IncidentClosed: lambda: (IncidentClosed(*about, 0, PENDING, CLOSERS), both),
        }[kind]()
        apply(state, state.seq + 1, town.now, seal(record, *keys))

    state = town.state.clone()
    opening = (place, (Nature.CYBER_BREACH,), PENDING, town.now, town.now, (), "safety-1")
    apply(state, state.seq + 1, town.now, seal(IncidentOpened("inc_1", *opening), safety))
    road = [IncidentContained, IncidentCounted, IncidentReported, IncidentClosed, None]
    kinds = [kind for kind in road if kind] + [IncidentFinding]
    for stand, step in zip(Stand, road, strict=True):
        assert state.cases["inc_1"].stand is stand
        for kind in kinds:
            tried = state.clone()
            if (stand, kind) in NEXT:
                act(kind, tried)
                assert tried.cases["inc_1"].stand is NEXT[stand, kind]
            else:
                wanted = Code.INCIDENT_CLOSED if stand is Stand.CLOSED else Code.INCIDENT_ORDER
                assert code(lambda kind=kind, tried=tried: act(kind, tried)) is wanted
        if step:
            act(step, state, Phase.FINAL)


def test_a_statement_says_only_what_is_on_record(town):
    """Every figure and time of a draft stands in a record; what nobody found is said to be unknown."""
    asset = town.put().id
    town.share(asset)
    read(town, READER, asset)
    town.now += 1234.0
    incident = opened(town, Named(Target.ASSET, asset))
    empty = draft_statement(*town.place, incident)
    assert empty.text.count(UNKNOWN) == 7 and "Unknown: nothing has been counted." in empty.text
    town.now += 5000.0
    contain_incident(*town.place, incident, [], hand(town))
    town.now += 700.0
    count = count_incident(*town.place, incident, hand(town))
    statement = draft_statement(*town.place, incident)
    case = case_of(town.state, incident)
    times = {act.at for act in case.acts} | {count.tallies[0].first, count.ends_at, statement.drafted_at}
    times |= {case.opened.received_at} | {duty.due for duty in duties(case, town.state.pack)}
    said = set(re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", statement.text))
    assert said <= {stamp(time) for time in times}
    assert statement.basis == tuple(act.record.id for act in case.acts)


def test_a_stale_statement_and_a_forged_count_are_refused(town):
    incident = opened(town)
    contain_incident(*town.place, incident, [], hand(town))
    count = count_incident(*town.place, incident, hand(town))
    stale = handed_in(town, incident, Phase.INITIAL)
    again = dataclasses.replace(stale, id="stmt_again")
    sealed = seal(again, town.gate, town.keys["safety-1"])
    assert code(lambda: submit(*town.place, sealed)) is Code.STATEMENT_STALE
    forged = seal(dataclasses.replace(count, id="cnt_forged"), town.keys["safety-1"])
    assert code(lambda: submit(*town.place, forged)) is Code.SIGNER_NOT_AUTHORISED


def test_two_close_it_and_neither_an_auditor_nor_one_alone(town):
    incident = opened(town)
    contain_incident(*town.place, incident, [], hand(town))
    count_incident(*town.place, incident, hand(town))
    handed_in(town, incident, Phase.FINAL)
    assert code(lambda: closed(town, incident, by=("rso-1",))) is Code.QUORUM_NOT_MET
    assert code(lambda: closed(town, incident, by=("rso-1", "auditor-1"))) is Code.SIGNER_NOT_AUTHORISED
    auditor = hand(town, "auditor-1")
    assert code(lambda: add_finding(*town.place, incident, Finding.HARM, "none", auditor)) is (
        Code.SIGNER_NOT_AUTHORISED
    )
    closed(town, incident)


def test_a_refused_act_files_nothing_and_documents_are_kept(town):
    incident = opened(town, natures=(Nature.CYBER_BREACH, Nature.CRITICAL_SAFETY))
    contain_incident(*town.place, incident, [], hand(town))
    count_incident(*town.place, incident, hand(town))
    handed_in(town, incident, Phase.FINAL, "R29")
    before = len(town.state.at), town.events()[-1]["seq"]
    assert code(lambda: closed(town, incident)) is Code.DUTIES_OPEN  # nothing under R34 yet
    after = [event["kind"] for event in town.events()[before[1] + 1 :]]
    assert len(town.state.at) == before[0] and after == ["attempt"]
    report = case_of(town.state, incident).opened.report
    with pytest.raises(NotAllowedHere):
        delete_asset(*town.place, report.asset)
    town.now += 9 * 366 * DAY
    with pytest.raises(NotAllowedHere):
        delete_asset(*town.place, report.asset)


def test_nobody_else_reads_who_reported(town):
    incident = opened(town)
    report = case_of(town.state, incident).opened.report
    with pytest.raises(NoAsset):
        read(town, READER, report.asset)
    with town.store.read() as conn:
        stored = b"".join(conn.exec_driver_sql("SELECT envelope FROM records").scalars())
    assert b"newspaper" not in stored and b"drafts are readable" not in stored
