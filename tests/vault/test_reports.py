"""Reports: figures from records alone, commitments that open offline, pages that show what they carry."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from mythos.gate import acts
from mythos.gate.policy import lint, load_pack
from mythos.gate.state import Rejected
from mythos.records.bundle import BROKEN, UNTRUSTED, VERIFIED
from mythos.records.canonical import RecordError, canonical, parse_canonical
from mythos.records.policy import Deadline
from mythos.records.reasons import Code, Verdict
from mythos.records.report import (
    Committed,
    Field,
    Ground,
    IssuedReport,
    Line,
    Redaction,
    ReportKind,
    commitment,
    new_salt,
)
from mythos.records.trust import Key, Person, Role
from mythos.store.home import write_private
from mythos.vault import publications
from mythos.vault.incidents import Hand
from mythos.vault.report_fields import ASKED
from mythos.vault.report_page import document_in, render, verify_page
from mythos.vault.report_sources import claim, mark, sources
from mythos.vault.reports import (
    Claim,
    Matter,
    Words,
    lay_open,
    make_report,
    publish_report,
    report_rows,
    write_report,
)
from tests.gate.town import W1, W2
from tests.vault.test_incidents import opened
from tests.vault.test_publication import published, voted
from tests.vault.world import VaultTown

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "verify_report.py"
NONE = Words()
HIDE = Redaction("domain.cyber", Ground.SAFETY, "names the flaws that were tried")


@pytest.fixture
def town(tmp_path):
    """A town whose machine has the log's key, so that its heads are signed by the log that is enrolled."""
    town = VaultTown(tmp_path)
    pem = town.ledger.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(town.home.keys / "ledger.key", pem, replace=False)
    town.measure()
    yield town
    town.store.close()


def hand(town, who: str = "rso-1") -> Hand:
    return Hand(who, town.keys[who], town.gate)


def made(town, kind=ReportKind.CAPABILITY, words=NONE, who: str = "rso-1", **matter) -> IssuedReport:
    about = Matter(**(matter or {"family": "fam", "tier": "capybara", "root": W1, "profile": "none"}))
    return make_report(*town.place, kind, about, words, hand(town, who))


def answered(kind=ReportKind.CAPABILITY, *redactions: Redaction) -> Words:
    """Every question answered, without a figure."""
    claims = tuple(Claim(name, "it was looked at", ("policy",)) for name, _ in ASKED[kind])
    return Words(claims, redactions)


def page(town, report: IssuedReport, public: bool = False) -> bytes:
    return write_report(*town.place, report.id, public)


def code(work) -> Code:
    with pytest.raises(Rejected) as refused:
        work()
    return refused.value.code


def evidence(town) -> str:
    return next(iter(town.state.evidence))


def edited(data: bytes, change) -> bytes:
    """The page with its data changed by `change`, the rest as it was."""
    document = parse_canonical(document_in(data), 1 << 25)
    change(document)
    text = canonical(document).decode()
    for plain, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(plain, escaped)
    return re.sub(
        rb'(id="report">).*?(</script>)', lambda m: m[1] + text.encode() + m[2], data, flags=re.DOTALL
    )


def test_the_full_and_the_public_version_open_one_commitment(town):
    report = made(town, words=answered(ReportKind.CAPABILITY, HIDE))
    full, public = (page(town, report, public) for public in (False, True))
    found = [verify_page(one, town.state.deployment) for one in (full, public)]
    assert [one.status for one in found] == [VERIFIED, VERIFIED]
    assert found[0].record == found[1].record == report
    assert [one.commitment for one in found[0].fields] == [one.commitment for one in found[1].fields]
    assert [one.name for one in found[1].fields if one.field is None] == ["domain.cyber"]
    assert b"names the flaws that were tried" in public and b"humaneval: 0/164" in full
    title = b"Scaled or end-to-end offensive cyber operations"
    assert title in full and title not in public
    assert not report.missing


def test_a_page_is_verified_without_home_or_network(town, monkeypatch, tmp_path):
    report = made(town)
    file, trust = tmp_path / "report.html", town.state.deployment
    file.write_bytes(page(town, report))
    monkeypatch.setenv("MYTHOS_HOME", "/nowhere")
    from mythos.cli.main import run

    assert run(["report", "verify", str(file), "--trust", trust]) == 0
    assert run(["report", "verify", str(file)]) == 5
    assert run(["report", "verify", str(file), "--trust", "0" * 64]) == 1
    text = file.read_text()
    assert (
        not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", text)
        and "url(" not in text
        and "@import" not in text
    )


CHANGES = {
    "a figure on the page": lambda data: data.replace(b"80 of 273", b"08 of 273"),
    "a figure in the data": lambda data: edited(
        data, lambda d: d["fields"][3]["lines"][0].update(text="ALLOW, RULED_OUT")
    ),
    "a field dropped": lambda data: edited(data, lambda d: d["fields"].pop(4)),
    "two fields exchanged": lambda data: edited(data, lambda d: d["fields"].insert(2, d["fields"].pop(3))),
    "withheld without a reason": lambda data: edited(
        data, lambda d: d["fields"].__setitem__(4, {"name": d["fields"][4]["name"]})
    ),
    "a salt exchanged": lambda data: edited(data, lambda d: d["fields"][4].update(salt=new_salt())),
    "the mark taken off": lambda data: data.replace(b"single source", b"", 1),
    "the DRILL mark taken off": lambda data: data.replace(b"DRILL: a rehearsal", b"A rehearsal"),
    "a script added": lambda data: data.replace(b"</main>", b"</main><script>1</script>"),
    "a second set of data": lambda data: data.replace(
        b"</body>", b'<script type="application/json" id="report">{}</script></body>'
    ),
    "no record": lambda data: edited(data, lambda d: d["entries"].pop()),
    "another field": lambda data: edited(data, lambda d: d.update(more=1)),
}


@pytest.mark.parametrize("how", CHANGES)
def test_whatever_is_changed_on_a_page_breaks_it(town, how):
    data = page(town, made(town, words=answered()))
    changed = CHANGES[how](data)
    assert changed != data
    assert verify_page(changed, town.state.deployment).status == BROKEN


IN_THE_DATA = {"a figure in the data", "a field dropped", "two fields exchanged", "withheld without a reason"}
IN_THE_DATA |= {"a salt exchanged", "no record", "another field", "a second set of data"}


def test_a_script_that_stands_alone_says_the_same(town, tmp_path):
    """It checks the data that a page carries, and prints them: how the page looks is not its business."""
    report = made(town, words=answered(ReportKind.CAPABILITY, HIDE))
    full, public = (page(town, report, public) for public in (False, True))
    file = tmp_path / "page.html"

    def alone(data: bytes, *trust: str) -> tuple[int, str]:
        file.write_bytes(data)
        ran = subprocess.run([sys.executable, SCRIPT, file, *trust], capture_output=True, text=True)
        return ran.returncode, ran.stdout

    trust = ("--trust", town.state.deployment)
    for data in (full, public):
        code, text = alone(data, *trust)
        assert code == 0 and text.endswith("verified\n")
        assert ("WITHHELD, safety: names the flaws that were tried" in text) is (data is public)
    assert "0/164" in alone(full)[1] and alone(full)[0] == 5
    assert alone(full, "--trust", "0" * 64)[0] == 1
    for how in IN_THE_DATA:
        assert alone(CHANGES[how](full), *trust)[0] == 1, how


def test_any_single_character_of_the_data_or_the_page(town):
    """Bytes of the whole page, one at a time, at a stride: none may be changed."""
    data = page(town, made(town))
    for at in range(0, len(data), 911):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert verify_page(changed, town.state.deployment).status == BROKEN, data[at - 20 : at + 20]


FIGURES = ["42", "0.05", "5 %", "½", "Ⅳ", "٤٢", "forty", "twenty-one", "half of", "a million", "x0.05"]
FIGURES += ["1e-3", "12/164", "R290", "v2", "percent", "{policy.nope}", "{nothing.samples}", "a brace }"]


@pytest.mark.parametrize("text", FIGURES)
def test_a_figure_without_evidence_is_refused(town, text):
    words = Words((Claim("threat_models", f"it shows {text} here", (evidence(town),)),))
    before = len(town.state.at), town.events()[-1]["seq"]
    got = code(lambda: made(town, words=words))
    assert got in (Code.UNSOURCED_FIGURE, Code.UNKNOWN_FIGURE, Code.UNKNOWN_SUBJECT)
    after = [event for event in town.events() if event["seq"] > before[1]]
    assert len(town.state.at) == before[0]
    assert [(event["outcome"], event["facts"]) for event in after] == [("refused", {"code": str(got)})]


def test_a_figure_from_evidence_is_filled_in(town):
    piece = evidence(town)
    text = (
        f"at most {{{piece}.at_most}} of {{{piece}.samples}}, alert {{policy.domains.cyber.alert}}, see R16"
    )
    report = made(town, words=Words((Claim("threat_models", text),)))
    shown = verify_page(page(town, report)).fields
    line = next(one.field for one in shown if one.name == "threat_models").lines[0]
    assert line.text == "at most 0.0182 of 164, alert 0.3, see R16"
    assert {one.record for one in line.cited} >= {piece} and piece in report.sources


@given(st.text(max_size=60))
def test_no_text_smuggles_in_a_digit(text):
    """Whatever a person writes: what is accepted holds no numeral but in a row of the crosswalk."""
    try:
        line = claim(text, (), {}, "field", W1, "none", "")
    except Rejected:
        return
    assert not re.search(r"\d", re.sub(r"\bR\d\d\b", "", line.text, flags=re.ASCII))


def test_sources_are_persons_not_records(town):
    known = sources(town.store, town.state)
    one, two = (known[name].cited for name in list(town.state.evidence)[:2])
    policy = next(one.cited for one in known.values() if one.kind == "policy")
    assert one.persons == ("evaluator-1",)
    assert mark(Line("", "x", (one,))) == mark(Line("", "x", (one, two))) == "single source"
    assert mark(Line("", "x", ())) == "no source" and mark(Line("", "x", (policy,))) == ""
    assert mark(Line("", "x", (one, policy))) == ""


def test_evidence_on_other_weights_is_none_here(town):
    town.measure(W2, tier="opus")
    other = next(p.id for p in town.state.evidence.values() if p.root == W2)
    words = Words((Claim("threat_models", "as measured", (other,)),))
    assert code(lambda: made(town, words=words)) is Code.SOURCE_OF_OTHER_WEIGHTS


def test_text_of_a_person_is_text(town):
    text = "</script><script>alert()</script><img src=x onerror=y> &amp;"
    data = page(town, made(town, words=Words((Claim("threat_models", text, ("policy",)),))))
    assert b"<script>alert" not in data and b"<img" not in data
    assert verify_page(data, town.state.deployment).status == VERIFIED


@pytest.mark.parametrize("kind", [k for k in ReportKind if k is not ReportKind.EXTERNAL])
def test_every_kind_is_made_and_verified(town, kind):
    release = town.released(town.subject())
    opened(town)
    matter = {"about": release.id} if kind is ReportKind.DECISION else {}
    report = made(town, kind, answered(kind), **matter)
    found = verify_page(page(town, report), town.state.deployment)
    assert found.status == VERIFIED and not report.missing and (report.root, report.tier) == (W1, "capybara")
    texts = {line.text for one in found.fields if one.field for line in one.field.lines}
    if kind is ReportKind.DECISION:
        assert {line.label for one in found.fields if one.name == "votes" for line in one.field.lines} == {
            town.state.votes[vote].vote.person for vote in release.votes
        }
    if kind in (ReportKind.MODEL, ReportKind.TRANSPARENCY):
        assert any("researchers" in text for text in texts)


def test_what_nobody_answered_is_named(town):
    report = made(town, words=Words((Claim("forecast", "nothing new", ("policy",)),)))
    assert report.missing == ("threat_models", "elicitation_effort", "human_baseline", "sandbagging")
    assert b"Incomplete: threat_models" in page(town, report)
    assert report_rows(town.state)[0].missing == report.missing
    for words in (Words((Claim("nonsense", "x"),)), Words((), (replace(HIDE, field="nonsense"),))):
        assert code(lambda words=words: made(town, words=words)) is Code.UNKNOWN_FIELD


def test_a_review_is_signed_from_outside(town):
    report = made(town)
    assert code(lambda: made(town, ReportKind.EXTERNAL, about=report.id)) is Code.REVIEWER_NOT_INDEPENDENT
    for who, org in (("insider", "town"), ("outsider", "elsewhere")):
        town.keys[who] = Ed25519PrivateKey.generate()
        trust = town.state.trust
        persons = [*trust.persons, Person(who, org)]
        keys: list[Key] = [*trust.keys, acts.public_key(town.keys[who], who, Role.EXTERNAL)]
        signers = [town.keys[one] for one in ("rso-1", "board-1", "board-2")]
        acts.enrol(*town.place, acts.next_root(town.state, persons, keys), signers)
    work = lambda who: made(town, ReportKind.EXTERNAL, who=who, about=report.id)  # noqa: E731
    assert code(lambda: work("insider")) is Code.REVIEWER_NOT_INDEPENDENT
    review = work("outsider")
    assert verify_page(page(town, review), town.state.deployment).status == VERIFIED


def test_a_withheld_value_cannot_be_guessed(town):
    """A share of one in a hundred: with what the public version carries no guess can be tried."""
    lines = lambda n: (Line("share", f"{n} of 100", ()),)  # noqa: E731
    salt = new_salt()
    secret = commitment(Field("share", "Share", lines(37)), salt)
    guesses = {commitment(Field("share", "Share", lines(n)), "0" * 32) for n in range(101)}
    assert secret not in guesses
    assert commitment(Field("share", "Share", lines(37)), salt) == secret
    data = page(town, made(town, words=answered(ReportKind.CAPABILITY, HIDE)), public=True)
    document = json.loads(document_in(data))
    assert [one for one in document["fields"] if one["name"] == "domain.cyber"] == [{"name": "domain.cyber"}]


def test_a_record_of_a_report_is_held_to_its_form():
    good = IssuedReport(
        "rep_x", "d", ReportKind.RISK, "fam", "t", "a" * 64, "none", "", "",
        (Committed("a", "1" * 64), Committed("b", "2" * 64)), (replace(HIDE, field="a"),), (), (), "ana",
    )  # fmt: skip
    for wrong in (
        {"fields": ()},
        {"fields": (Committed("a", "1" * 64), Committed("a", "2" * 64))},
        {"fields": (Committed("a", "1" * 64), Committed("b", "1" * 64))},
        {"fields": (Committed("a", "1" * 63), Committed("b", "2" * 64))},
        {"redactions": (replace(HIDE, field="c"),)},
        {"redactions": (replace(HIDE, field="a"), replace(HIDE, field="a"))},
        {"root": "x"},
    ):
        with pytest.raises(RecordError):
            replace(good, **wrong)
    with pytest.raises(RecordError):
        Redaction("a", Ground.LAW, "  ")


def wanting(stage: str = "early_access"):
    pack = load_pack("house")
    clocks = (*pack.clocks, Deadline("transparency_report", stage, 0.0))
    return replace(pack, version="1.0.2", clocks=clocks)


def test_a_stage_waits_for_the_report_that_the_policy_wants_public(town):
    town.activate(wanting())
    town.measure()
    about = town.subject()
    for who in ("rso-1", "safety-1", "executive-1", "board-1"):
        town.vote(who, about)

    def said():
        answer = town.check(about)
        return answer.verdict, {because.code for because in answer.reasons}

    assert said() == (Verdict.BLOCK, {Code.REPORT_NOT_PUBLISHED})
    for words in (Words(), answered(ReportKind.TRANSPARENCY)):
        report = made(town, ReportKind.TRANSPARENCY, words)
        request = publish_report(*town.place, report.id, town.now, 0.0, "why", hand(town, "requester-1"))
        assert said()[0] is Verdict.BLOCK  # asked for is not public
        voted(town, request, "rso-1", "board-1")
        publications.publish(*town.place, request, town.gate)
        assert said()[0] is (Verdict.BLOCK if report.missing else Verdict.ALLOW)
    assert said() == (Verdict.ALLOW, set())
    publications.withdraw(*town.place, request, "why", "board-1", town.keys["board-1"])
    assert said()[0] is Verdict.BLOCK
    assert code(lambda: lay_open(*town.place, report.id, request, hand(town))) is Code.ID_TAKEN


def test_something_else_is_not_a_public_version(town):
    report = made(town, words=answered(ReportKind.CAPABILITY, HIDE))
    other = town.put(b"not a report").id
    full = town.put(page(town, report)).id
    for asset in (other, full):
        published(town, asset)
        request = list(town.state.requests)[-1]
        work = lambda request=request: lay_open(*town.place, report.id, request, hand(town))  # noqa: E731
        with pytest.raises(RecordError if asset == other else Rejected):
            work()
    assert not town.state.laid_open


def test_a_clock_for_a_report_names_a_stage():
    assert not [f for f in lint(wanting()) if f.severity == "error"]
    for clock in (
        Deadline("transparency_report", "internal", 0.0),
        Deadline("nonsense_report", "general", 0.0),
        Deadline("incident_cyber", "a breach", -1.0),
    ):
        pack = replace(load_pack("house"), clocks=(clock,))
        assert [f for f in lint(pack) if f.severity == "error"], clock


def test_no_page_is_made_of_what_does_not_verify(town):
    document = parse_canonical(document_in(page(town, made(town))), 1 << 25)
    document["fields"][0]["lines"] = []
    with pytest.raises(RecordError):
        render(document)
    assert verify_page(b"<html></html>").status == BROKEN
    assert verify_page(page(town, made(town))).status == UNTRUSTED
