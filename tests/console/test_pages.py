"""What the pages show and do, as a browser without scripts asks for them."""

import base64
import json
import re

import pytest

from mythos.gate import acts
from mythos.records.canonical import canonical
from mythos.records.dsse import add_signature, peek
from mythos.records.incident import Named, Nature, Target
from mythos.records.principal import OPERATOR, Principal
from mythos.records.signed import seal
from mythos.store.keys import create_key, list_keys
from mythos.vault import counting, incidents
from mythos.vault.assets import put_asset, put_version
from mythos.vault.exposure import AuditReport, Finding
from mythos.vault.last_audit import keep_audit
from mythos.vault.publications import place
from tests.console.world import ConsoleTown, browser, console, signed
from tests.gate.town import DAY
from tests.vault.test_exposure import seen
from tests.vault.test_publication import requested
from tests.vault.world import ACME, OTHER, VENDOR


@pytest.fixture
def mine(town, base_url):
    with browser(base_url, town.api["local"]) as made:
        yield made


@pytest.fixture
def theirs(town, base_url):
    with browser(base_url, town.api[ACME]) as made:
        yield made


@pytest.fixture
def asset(town) -> str:
    return town.put(b"the text of it", "The title of it", name="it.txt").id


def asked(town, mine, asset: str, **fields: str) -> str:
    """A request for an asset of the operator's, signed and on record."""
    given = {"why": "because", "person": "requester-1:release_engineer", **fields}
    shown = mine.send(f"/vault/{asset}/publish", given)
    answer = mine.send(shown.url.path, {"envelope": signed(town, shown.text, "requester-1")})
    assert answer.url.path.startswith("/publications/pubreq_"), answer.text
    return answer.url.path


def voted(town, mine, where: str, person: str, choice: str = "approve"):
    shown = mine.send(f"{where}/statement", {"what": "vote", "person": f"{person}:board", "choice": choice})
    return mine.send(f"{where}/records", {"envelope": signed(town, shown.text, person)})


# The vault


def test_the_list_goes_on_page_by_page_and_misses_nothing(town, base_url) -> None:
    key = create_key(*town.place, "many", org=OTHER, purpose="review")[1]
    row = next(row for row in list_keys(town.store) if row.name == "many")
    caller = Principal(row.id, "key", OTHER)
    titles = [f"Number {n:03}" for n in range(103)]
    for title in titles:
        put_asset(town.store, town.clock, caller, [b"x"], title, "draft")
    with browser(base_url, key) as one:
        path, found, pages = "/vault", [], 0
        while path:
            text = one.get(path).text
            found += re.findall(r"Number \d+", text)
            pages += 1
            older = re.search(r'rel="next" href="([^"]+)"', text)
            path = older.group(1).replace("&amp;", "&") if older else ""
        assert found == titles[::-1] and pages == 3
        assert "These are the first 50" in one.get("/vault?q=number").text
        assert one.get("/vault?kind=report").text.count("Number") == 0
        assert one.get("/vault?kind=nothing").status_code == 400


def test_who_can_read_it_why_and_since_when(town, mine, asset) -> None:
    share = town.share(asset)
    town.share(asset, VENDOR, days=0.5, parent=share)
    page = mine.get(f"/vault/{asset}").text
    assert "its owner" in page and page.count("shared by you") == 2 and "as a contractor" in page
    assert share in page and "2026-05-02 12:00 UTC" in page
    assert "is ended" in mine.send(f"/vault/{asset}/revoke", {"share": share}).text
    assert mine.get(f"/vault/{asset}").text.count(">ended<") == 2  # the contractor's with it
    assert mine.send(f"/vault/{asset}/revoke", {"share": "shr_none"}).status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"org": "nobody", "days": "1"}, 403, "is not served here"),
        ({"org": ACME, "days": "0"}, 400, "at most 366 days"),
        ({"org": ACME, "days": "nan"}, 400, "at most 366 days"),
        ({"org": ACME, "days": "inf"}, 400, "at most 366 days"),
        ({"org": ACME, "days": "many"}, 400, "at most 366 days"),
        ({"org": "", "days": "1"}, 400, "not a name"),
        ({"org": VENDOR, "days": "1"}, 403, "contractor"),
    ],
)
def test_a_share_that_cannot_be_says_why_and_keeps_what_was_typed(mine, asset, fields, status, said) -> None:
    answer = mine.send(f"/vault/{asset}/shares", fields)
    assert answer.status_code == status and said in answer.text
    assert f'value="{fields["org"]}"' in answer.text


def test_a_share_of_one_key_that_may_write(town, mine, asset) -> None:
    row = next(row for row in list_keys(town.store) if row.org == ACME)
    fields = {"org": ACME, "days": "2", "principal": row.id, "write": "yes"}
    assert "read, write" in mine.send(f"/vault/{asset}/shares", fields).text


def test_a_reader_learns_of_their_own_leave_only(town, theirs, asset) -> None:
    town.share(asset)
    town.share(asset, OTHER)
    put_version(*town.place, asset, [b"newer"])
    page = theirs.get(f"/vault/{asset}").text
    assert "You can, by the share" in page and OTHER not in page and "Version 1" not in page
    assert theirs.get(f"/vault/{asset}/content").content == b"newer"
    assert theirs.get(f"/vault/{asset}/content?version=1").status_code == 404
    assert theirs.get(f"/vault/{asset}/publish").status_code == 403
    assert theirs.send(f"/vault/{asset}/shares", {"org": OTHER, "days": "1"}).status_code == 403


def test_versions_can_be_taken_by_who_may_write(town, mine, asset) -> None:
    put_version(*town.place, asset, [b"the second"])
    page = mine.get(f"/vault/{asset}").text
    assert page.index("Version 2") < page.index("Version 1")
    assert mine.get(f"/vault/{asset}/content?version=1").content == b"the text of it"
    part = mine.http.get(f"/vault/{asset}/content", headers={"range": "bytes=4-"})
    assert (part.status_code, part.content) == (206, b"second")


def test_head_is_get_without_the_body(mine, asset) -> None:
    for path in ("/vault", f"/vault/{asset}", "/static/console.css", f"/vault/{asset}/content"):
        got, head = mine.http.get(path), mine.http.head(path)
        assert head.content == b"" and head.headers["content-length"] == got.headers["content-length"]
        assert head.status_code == got.status_code == 200


# Publication


def test_the_way_of_a_publication(town, mine, asset) -> None:
    where = asked(town, mine, asset, ends="2026-06-01T00:00")
    page = mine.get(where).text
    assert "waiting for votes" in page and "until" in page and "because" in page and "Open it" not in page
    assert mine.get(f"{where}/copy").content == b"the text of it"
    assert "0 of 2 persons" in mine.send(f"{where}/open", {}).text
    assert "board-1 says approve" in voted(town, mine, where, "board-1").text
    assert "ready to open" in voted(town, mine, where, "board-2").text
    assert "The gate has signed" in mine.send(f"{where}/open", {}).text
    made = list(town.state.publications.values())[-1]
    assert (place(town.store) / made.id / "content").read_bytes() == b"the text of it"
    assert made.id in mine.get(where).text
    shown = mine.send(
        f"{where}/statement", {"what": "withdraw", "person": "safety-1:safety", "reason": "wrong"}
    )
    said = mine.send(f"{where}/records", {"envelope": signed(town, shown.text, "safety-1")}).text
    assert "Withdrawn." in said and "no-store" in said
    assert not (place(town.store) / made.id).exists()
    assert "Withdrawn" in mine.get("/publications").text or "withdrawn" in mine.get("/publications").text


def test_an_embargo_opens_by_itself(town, mine, asset) -> None:
    where = asked(town, mine, asset, starts="2026-05-03T09:00")
    voted(town, mine, where, "board-1")
    voted(town, mine, where, "board-2")
    assert "opens by itself" in mine.send(f"{where}/open", {}).text
    made = list(town.state.publications.values())[-1]
    assert made.starts_at == 1_777_798_800.0 and not (place(town.store) / made.id).exists()


def test_a_veto_stands(town, mine, asset) -> None:
    where = asked(town, mine, asset)
    voted(town, mine, where, "board-1")
    voted(town, mine, where, "board-2")
    shown = mine.send(f"{where}/statement", {"what": "vote", "person": "safety-1:safety", "choice": "veto"})
    page = mine.send(f"{where}/records", {"envelope": signed(town, shown.text, "safety-1")}).text
    assert "vetoed" in page and "Open it" not in page
    assert "VETOED" in mine.send(f"{where}/open", {}).text


def test_only_what_was_shown_is_taken_and_only_signed_as_it_must_be(town, mine, asset) -> None:
    other = asked(town, mine, town.put().id)
    where = asked(town, mine, asset)
    shown = mine.send(
        f"{where}/statement", {"what": "vote", "person": "board-1:board", "choice": "approve"}
    ).text
    good = signed(town, shown, "board-1")
    outer = json.loads(good)
    changed = {**peek(good.encode()), "choice": "veto"}
    forged = {**outer, "payload": base64.b64encode(canonical(changed)).decode()}
    records = (
        (other, good, "another request"),
        (where, signed(town, shown, "requester-1"), "must sign"),
        (where, signed(town, shown, "auditor-1"), "must sign"),
        (where, json.dumps({**outer, "signatures": []}), "no signature"),
        (where, json.dumps(forged), "does not verify"),
        (where, seal(town.state.requests[where.rpartition("/")[2]], town.keys["board-1"]).decode(), "kind"),
        (where, seal(town.state.trust, town.keys["board-1"]).decode(), "kind"),
        (where, "", "no signed record"),
        (where, "[]", "no signed record"),
        (where, "-----BEGIN PRIVATE KEY-----", "no signed record"),
    )
    before = town.state.seq
    for path, envelope, said in records:
        answer = mine.send(f"{path}/records", {"envelope": envelope})
        assert answer.status_code in (400, 403) and said in answer.text, (said, answer.text)
    assert town.state.seq == before
    assert "board-1 says approve" in mine.send(f"{where}/records", {"envelope": good}).text
    assert "ID_TAKEN" in mine.send(f"{where}/records", {"envelope": good}).text


def test_a_request_is_the_one_that_was_laid_out(town, mine, theirs, asset) -> None:
    fields = {"why": "because", "person": "requester-1:release_engineer"}
    shown = mine.send(f"/vault/{asset}/publish", fields)
    path, good = shown.url.path, signed(town, shown.text, "requester-1")
    elsewhere = town.put(b"something else").id
    for change in ({"asset": elsewhere}, {"ends_at": 1.9e9}, {"version": 2}, {"id": "pubreq_" + "x" * 22}):
        changed = canonical({**peek(good.encode()), **change})
        body = {"payload": base64.b64encode(changed).decode(), "signatures": []}
        kind = json.loads(good)["payloadType"]
        envelope = add_signature(json.dumps({**body, "payloadType": kind}).encode(), town.keys["requester-1"])
        answer = mine.send(path, {"envelope": envelope.decode()})
        assert answer.status_code == 400 and "not the request" in answer.text, answer.text
    wrong = path.replace(asset, elsewhere)
    assert mine.get(wrong).status_code == 404
    assert seen(theirs.get(path)) == seen(theirs.get("/nope"))
    assert theirs.send(path, {"envelope": good}).status_code == 404
    assert "is on record" in mine.send(path, {"envelope": good}).text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"why": ""}, "must be told why"),
        ({"starts": "tomorrow"}, "2026-12-01T09:00"),
        ({"starts": "2026-06-02T00:00", "ends": "2026-06-01T00:00"}, "end after it starts"),
        ({"person": "<b>"}, "name the person"),
        ({"person": "ana:king"}, "name the person"),
    ],
)
def test_a_request_that_cannot_be_says_why(mine, asset, fields, said) -> None:
    given = {"why": "because", "person": "requester-1:release_engineer", **fields}
    answer = mine.send(f"/vault/{asset}/publish", given)
    assert answer.status_code == 400 and said.lower() in answer.text.lower()


def test_requests_are_seen_by_those_who_vote_and_by_the_owner(town, mine, theirs, base_url, asset) -> None:
    where = asked(town, mine, asset)
    town.share(asset)  # reading an asset is no leave to see what is asked about it
    for path in (where, f"{where}/copy"):
        assert seen(theirs.get(path)) == seen(theirs.get("/publications/pubreq_" + "x" * 22))
    assert "The title of it" not in theirs.get("/publications").text
    fields = {"token": theirs.token(), "what": "vote", "person": "board-1:board", "choice": "approve"}
    for end in ("statement", "records", "open"):
        assert theirs.post(f"{where}/{end}", fields).status_code == 404
    key = create_key(*town.place, "owner", org=OTHER, purpose="review")[1]
    row = next(row for row in list_keys(town.store) if row.name == "owner")
    caller = Principal(row.id, "key", OTHER)
    own = put_asset(town.store, town.clock, caller, [b"theirs"], "Title of another", "draft")
    name = requested(town, own.id, as_=caller)
    assert "Title of another" in mine.get("/publications").text
    with browser(base_url, key) as owner:
        page = owner.get("/publications").text
        assert "Title of another" in page and "The title of it" not in page
        page = owner.get(f"/publications/{name}").text
        assert "board-1" not in page and "Open it" not in page
        assert owner.send(f"/publications/{name}/open", {}).status_code == 404


def test_a_vote_that_falls_with_its_key_is_shown_as_fallen(town, mine, asset) -> None:
    where = asked(town, mine, asset)
    voted(town, mine, where, "board-2")
    trust = town.state.trust
    signers = [town.keys[who] for who in ("rso-1", "executive-1", "safety-1")]
    fewer = [
        [x for x in part if getattr(x, "holder", getattr(x, "id", "")) != "board-2"]
        for part in (trust.persons, trust.keys)
    ]
    acts.enrol(*town.place, acts.next_root(town.state, *fewer), signers)
    assert "no longer" in mine.get(where).text
    acts.enrol(*town.place, acts.next_root(town.state, trust.persons, trust.keys), signers)


# Incidents


def test_an_incident_with_its_clocks_acts_and_statement(tmp_path) -> None:
    town = ConsoleTown(tmp_path)
    with (
        console(town) as url,
        browser(url, town.api["local"]) as mine,
        browser(url, town.api[ACME]) as theirs,
    ):
        asset = town.put(b"the text of it", "The title of it").id
        assert "mythos incident open" in mine.get("/incidents").text
        town.share(asset)
        theirs.get(f"/vault/{asset}/content")
        hand = incidents.Hand("safety-1", town.keys["safety-1"], town.gate)
        named = [Named(Target.ASSET, asset)]
        words = "<b>They</b> could read the draft."
        made = incidents.open_incident(
            *town.place, words, "A reader", town.now, [Nature.CYBER_BREACH], named, hand
        )
        where = f"/incidents/{made.id}"
        assert (
            ">open<" in mine.get("/incidents").text and "2026-05-06 12:00 UTC" in mine.get("/incidents").text
        )
        page = mine.get(where).text
        assert asset in page and "mythos incident contain" in page and "Nothing has been counted" in page
        incidents.contain_incident(*town.place, made.id, [], hand)
        assert theirs.get(f"/vault/{asset}").status_code == 404
        town.now += 60
        counting.count_incident(*town.place, made.id, hand)
        page = mine.get(where).text
        assert ">counted<" in page and "key_" not in page and "mythos incident report" in page
        row = re.search(r"assets</th>.*?</tr>", page, re.S)
        assert row and ">1<" in row.group(0)
        statement = mine.get(f"{where}/statement").text
        assert "Drafted from" in statement and "<b>" not in statement and "A reader" not in statement
        town.now += 5 * DAY
        assert "overdue" in mine.get("/incidents").text
        for path in ("/incidents", where, f"{where}/statement"):
            assert seen(theirs.get(path)) == seen(theirs.get("/nope"))
        assert mine.get("/incidents/inc_none").status_code == 404
        assert "/incidents" not in theirs.get("/vault").text
    town.store.close()


# The audit


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (AuditReport(False, ("answers",), ("assets",), 12, (), ()), "nothing found"),
        (AuditReport(True, (), ("assets",), 12, (), ()), "so it says nothing"),
        (AuditReport(False, ("answers",), ("assets",), 12, (), ("public",)), "incomplete"),
        (
            AuditReport(
                False, ("answers",), ("x",), 9, (Finding("x", "answers", "GET", "/<b>", "200"),) * 60, ()
            ),
            "60 findings",
        ),
    ],
)
def test_the_last_audit(town, mine, report, said) -> None:
    keep_audit(town.store, town.clock, OPERATOR, report)
    page = mine.get("/audit").text
    assert said in page and "/<b>" not in page
    assert page.count("/&lt;b&gt;") == min(50, len(report.findings))
    assert all(b"answers" not in path.read_bytes() for path in town.home.path.glob("vault/last_audit"))


def test_a_clock_that_is_behind_answers_nobody_and_says_so(town, mine) -> None:
    town.now -= DAY
    try:
        answer = mine.get("/vault")
        assert answer.status_code == 503 and "cannot read its records" in answer.text
    finally:
        town.now += DAY
