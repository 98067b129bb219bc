"""What each kind of report has to say, and what of it the program fills in from the records.

reference for the fields: Anthropic RSP v2.2 (capability, safeguards) and v3.3 section 3.3 (risk), EU Code of
Practice M7 (model), California SB 53, 22757.12 (transparency). A field that only a person can fill is a
question; one that nobody filled is named in the report as missing.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mythos.gate.incidents import Case
from mythos.gate.release import in_force, runs_on
from mythos.gate.reports import inside
from mythos.gate.state import State, developers
from mythos.gate.verdict import SAFEGUARD_SUITE, Run, domain_verdict, safeguard_verdict
from mythos.records.clock import stamp
from mythos.records.incident import IncidentCounted, Target
from mythos.records.policy import Domain, SafetyLevel
from mythos.records.profile import NO_PROFILE
from mythos.records.release import Choice, Release, Stage
from mythos.records.report import Cited, Field, IssuedReport, Line, ReportKind
from mythos.records.trust import Role
from mythos.vault.report_sources import NOTHING, Source, bounded, figures, shown

# Questions to persons: name and title, by kind.
ASKED: dict[ReportKind, tuple[tuple[str, str], ...]] = {
    ReportKind.CAPABILITY: (
        ("threat_models", "Threat models: criteria, and which were considered"),
        ("elicitation_effort", "How capabilities were elicited: scaffold, tools, compute, effort"),
        ("human_baseline", "Human baseline"),
        ("sandbagging", "What was done to find deliberate failure"),
        ("forecast", "What is expected until the next assessment"),
    ),
    ReportKind.SAFEGUARDS: (
        ("pathways", "Each pathway of misuse, and the safeguards on it"),
        ("attack_budget", "What attackers were given, and what came of it"),
        ("residual_risk", "Risk that remains"),
        ("limits", "Limits of the safeguards"),
        ("monitoring", "Monitoring, and times to respond"),
        ("security_level", "Security level of the weights"),
    ),
    ReportKind.RISK: (
        ("threats", "Threats: identified and specified"),
        ("mitigations", "Mitigations"),
        ("other_factors", "Other factors"),
        ("threat_analysis", "Analysis by threat"),
        ("overall_risk", "Overall risk"),
        ("risk_benefit", "Risk against benefit"),
        ("outlook", "Outlook"),
        ("changed_practices", "Practices that changed"),
        ("roadmap_misses", "What the roadmap promised and did not hold"),
        ("marginal_risk", "Marginal risk"),
    ),
    ReportKind.MODEL: (
        ("specification", "How the model is meant to behave"),
        ("reasons", "Reasons to proceed"),
        ("void_conditions", "What would void them"),
        ("next_months", "Plan for the next months"),
        ("changes", "Changes since the last report"),
    ),
    ReportKind.TRANSPARENCY: (
        ("developer_site", "Where the developer is found"),
        ("contact", "How a person can reach the developer"),
        ("languages", "Languages"),
        ("modalities", "Forms of output"),
        ("intended_uses", "Intended uses"),
        ("restrictions", "Restrictions and conditions of use"),
        ("risk_assessments", "Summary: assessments of catastrophic risk"),
        ("third_parties", "Summary: part taken by outside evaluators"),
        ("framework_steps", "Summary: other steps under the framework"),
    ),
    ReportKind.DECISION: (),
    ReportKind.EXTERNAL: (
        ("adequacy", "Whether the report is adequate"),
        ("rigour", "Whether its analysis is rigorous"),
        ("disagreements", "Where the reviewer disagrees"),
        ("recommendations", "Recommendations"),
        ("redaction_need", "Whether what is withheld needs to be"),
        ("redaction_extent", "Whether no more is withheld than needs to be"),
        ("redaction_materiality", "Whether what is withheld is material"),
        ("redaction_reasons", "Whether the reasons given are true"),
        ("conflicts", "Conflicts of interest"),
    ),
}
TITLES = {
    ReportKind.CAPABILITY: "Capability report",
    ReportKind.SAFEGUARDS: "Safeguards report",
    ReportKind.RISK: "Risk report",
    ReportKind.MODEL: "Model report",
    ReportKind.TRANSPARENCY: "Transparency report",
    ReportKind.DECISION: "Decision record",
    ReportKind.EXTERNAL: "External review",
}
SHOWN_SAMPLES = 5  # EU Code of Practice M7


@dataclass(frozen=True, slots=True)
class About:
    """What a report is about: weights under a profile, and a release or a report where it is about one."""

    state: State
    known: Mapping[str, Source]
    family: str
    tier: str
    root: str
    profile: str
    release: Release | None
    report: IssuedReport | None
    reviewer: str
    now: float

    def cite(self, *ids: str) -> tuple[Cited, ...]:
        return tuple(self.known[one].cited for one in dict.fromkeys(ids) if one in self.known)

    @property
    def pack(self) -> str:
        """The digest of the pack in force; for a release, of the one it was decided under. "" for none."""
        return self.release.subject.policy if self.release else self.state.policy

    @property
    def policy(self) -> str:
        """The id of the record that put it in force, "" for none."""
        for one in self.known.values():
            if one.kind == "policy" and hashlib.sha256(one.record.pack.encode()).hexdigest() == self.pack:
                return one.id
        return ""

    @property
    def runs(self) -> list[Run]:
        return runs_on(self.state, self.root, self.profile)


def filled_in(kind: ReportKind, about: About) -> list[Field]:
    """The fields of a report that the records fill."""
    if kind is ReportKind.EXTERNAL:
        return [_field("reviewed", "What was reviewed", _reviewed(about))]
    fields = [_field("weights", "Weights and profile", _weights(about))]
    fields.append(_field("policy", "Policy in force", _policy(about)))
    match kind:
        case ReportKind.CAPABILITY:
            fields += [*_domains(about), *_measured(about)]
            fields.append(_field("dissent", "Dissent", _dissent(about)))
        case ReportKind.SAFEGUARDS:
            fields += [*_levels(about), _field("broken", "Safeguards that were broken", _broken(about))]
        case ReportKind.RISK:
            fields += [*_domains(about), *_levels(about)]
            fields.append(_field("deployments", "Where it is deployed", _deployments(about)))
            fields.append(_field("incidents", "Incidents", _incidents(about)))
        case ReportKind.MODEL:
            fields += [*_domains(about), *_measured(about)]
            fields.append(_field("samples", "Samples drawn at random from each evaluation", _samples(about)))
            fields.append(_field("deployments", "Where it is deployed", _deployments(about)))
        case ReportKind.TRANSPARENCY:
            fields.append(_field("release_date", "Release", _deployments(about)))
            fields += _domains(about)
        case ReportKind.DECISION:
            fields += [*_decision(about), _field("dissent", "Dissent", _dissent(about))]
    return fields


def _field(name: str, title: str, lines: Iterator[Line]) -> Field:
    found = tuple(lines)
    return Field(name, title, found or (Line("", f"{NOTHING}.", ()),))


def _weights(about: About) -> Iterator[Line]:
    plans = [plan for plan in about.state.plans.values() if plan.root == about.root]
    cited = about.cite(*(plan.id for plan in plans[:1]), *([about.release.id] if about.release else []))
    yield Line("tier", f"{about.family}/{about.tier}", cited)
    yield Line("root", about.root, cited)
    profiled = [plan.id for plan in plans if plan.profile == about.profile]
    yield Line("profile", about.profile, about.cite(*profiled[:1]) or cited)


def _policy(about: About) -> Iterator[Line]:
    pack, cited = about.state.packs.get(about.pack), about.cite(about.policy)
    if pack is not None:
        yield Line("pack", f"{pack.name} {pack.version}", cited)
        yield Line("digest", about.pack, cited)
        yield Line("confidence", shown(pack.confidence), cited)


def _domains(about: About) -> list[Field]:
    """A field for each domain of the policy, so that one can be withheld alone."""
    domains = about.state.pack.domains if about.state.pack else ()
    return [_field(f"domain.{one.name}", one.title, _domain(about, one)) for one in domains]


def _domain(about: About, domain: Domain) -> Iterator[Line]:
    state, pack = about.state, about.state.pack
    assert pack is not None
    found = domain_verdict(domain, pack, state.packs, about.runs, about.now, state.drill, developers(state))
    looked = [run for run in about.runs if run.plan.suite in (*domain.suites, domain.precursor)]
    evidence = [piece.id for run in looked for piece in run.evidence]
    cited = about.cite(*evidence) or about.cite(about.policy)
    yield Line("verdict", f"{found.verdict}, {found.code}", cited)
    yield Line("because", found.detail, cited)
    if found.samples:
        yield Line("suite", found.suite, cited)
        yield Line("not failed", f"{found.successes} of {found.samples}", cited)
        yield Line("at most", bounded(found.upper), cited)
        yield Line("bar that counted", shown(found.alert), about.cite(about.policy))
        yield Line("below that bar by", f"{found.alert - float(bounded(found.upper)):.4f}", cited)
    bars = about.cite(about.policy)
    yield Line("alert of the danger", shown(domain.alert), bars)
    yield Line("level of the danger", shown(domain.level), bars)
    if found.expires_at:
        yield Line("until", stamp(found.expires_at), cited)


def _measured(about: About) -> list[Field]:
    return [
        _field("evaluations", "Evaluations", _evaluations(about)),
        _field("elicitation", "Elicitation: what each way of asking showed", _elicitation(about)),
        _field("external", "Evaluations from outside", _external(about)),
    ]


def _evaluations(about: About) -> Iterator[Line]:
    for run in about.runs:
        plan, cited = run.plan, about.cite(run.plan.id, *(piece.id for piece in run.evidence))
        labels = sorted({one.by for piece in run.evidence if piece.judge for one in piece.judge.labelled})
        judged = f", judged against labels by {', '.join(labels)}" if labels else ""
        isolation = ", ".join(sorted({piece.isolation for piece in run.evidence})) or "not run"
        text = f"{plan.items} samples under profile {plan.profile}, planned {stamp(run.planned_at)}{judged}"
        text += f"; isolation: {isolation}; suite {plan.suite_digest[:16]}, harness {plan.harness[:16]}"
        yield Line(plan.suite, text, cited)


def _elicitation(about: About) -> Iterator[Line]:
    for run in about.runs:
        for piece in run.evidence[-1:]:
            found = figures(about.known[piece.id])
            ways = ", ".join(run.plan.elicitations)
            text = f"{ways}; the most that one showed: {shown(found['not_failed'])} of"
            text += f" {shown(found['samples'])}, at most {bounded(found['at_most'])}"
            yield Line(run.plan.suite, text, about.cite(piece.id))


def _external(about: About) -> Iterator[Line]:
    for run in about.runs:
        if run.role is Role.EXTERNAL:
            away = (
                "of another organisation"
                if not inside(about.state, run.plan.evaluator)
                else "of the developer"
            )
            text = f"by {run.plan.evaluator} of {run.org}, {away}"
            yield Line(run.plan.suite, text, about.cite(run.plan.id, *(p.id for p in run.evidence)))


def _levels(about: About) -> list[Field]:
    levels = about.state.pack.safety_levels if about.state.pack else ()
    return [_field(f"level.{one.name}", f"Safety level: {one.name}", _level(about, one)) for one in levels]


def _level(about: About, level: SafetyLevel) -> Iterator[Line]:
    state, pack = about.state, about.state.pack
    assert pack is not None
    own = [run for run in about.runs if run.plan.profile == about.profile]
    verdict, code, detail, until = safeguard_verdict(level, pack, state.packs, own, about.now, state.drill)
    looked = [piece.id for run in own if run.plan.suite == SAFEGUARD_SUITE for piece in run.evidence]
    cited, bars = about.cite(*looked) or about.cite(about.policy), about.cite(about.policy)
    yield Line("verdict", f"{verdict}, {code}", cited)
    yield Line("because", detail, cited)
    yield Line("must detect", shown(level.min_detection), bars)
    yield Line("may over-refuse", shown(level.max_over_refusal), bars)
    yield Line("safeguards", ", ".join(level.safeguards), bars)
    yield Line("categories", ", ".join(level.categories), bars)
    if until:
        yield Line("until", stamp(until), cited)


def _broken(about: About) -> Iterator[Line]:
    for one in about.state.incidents.values():
        if one.profile == about.profile and one.profile != NO_PROFILE:
            yield Line(stamp(about.state.at[one.id]), "it was entered as broken", about.cite(one.id))


def _dissent(about: About) -> Iterator[Line]:
    for cast in about.state.votes.values():
        if cast.vote.choice is Choice.VETO and cast.vote.subject.root == about.root:
            word = "withdrawn since" if cast.withdrawn else "it stands"
            text = f"{cast.vote.person} ({cast.role}) at {cast.vote.subject.stage}: {word}"
            yield Line("veto", text, about.cite(cast.vote.id))


def _deployments(about: About) -> Iterator[Line]:
    state = about.state
    for release in state.releases.values():
        subject = release.subject
        if (subject.root, subject.profile) != (about.root, about.profile):
            continue
        until, why = state.fallen.get(release.id, (release.expires_at, ""))
        fate = "open" if in_force(state, release, about.now) else f"ended {why}".strip()
        text = f"to {subject.audience.split('@')[0]} for {', '.join(subject.purposes)}"
        text += f", from {stamp(state.at[release.id])} until {stamp(until)}: {fate}"
        yield Line(str(subject.stage), text, about.cite(release.id, *release.votes))


def _incidents(about: About) -> Iterator[Line]:
    releases = {r.id for r in about.state.releases.values() if r.subject.root == about.root}
    for case in about.state.cases.values():
        named = {(one.what, one.id) for one in case.opened.named}
        own = {(Target.TIER, about.tier), (Target.PROFILE, about.profile)}
        if named & (own | {(Target.RELEASE, one) for one in releases}):
            yield _incident(about, case)


def _incident(about: About, case: Case) -> Line:
    last = case.last(IncidentCounted)
    reads = sum(tally.reads for tally in last.record.tallies) if last else None
    counted = "not counted" if reads is None else f"{reads} reads counted"
    text = f"{case.opened.id}, reported {stamp(case.opened.received_at)}: {case.stand}, {counted}"
    natures = ", ".join(nature.replace("_", " ") for nature in case.natures)
    return Line(natures, text, about.cite(*(act.record.id for act in case.acts)))


def _samples(about: About) -> Iterator[Line]:
    """Five of each, by the digest of the plan, which was on record before the first sample."""
    for run in about.runs:
        for piece in run.evidence[-1:]:
            seed = about.known[run.plan.id].digest

            def place(key: str, seed: str = seed) -> str:
                return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()

            ordered = sorted(piece.samples, key=lambda one: place(f"{one.elicitation} {one.id}"))
            rows = [f"{one.id} ({one.elicitation}): {one.outcome}" for one in ordered[:SHOWN_SAMPLES]]
            yield Line(run.plan.suite, "; ".join(rows), about.cite(run.plan.id, piece.id))


def _decision(about: About) -> list[Field]:
    release = about.release
    assert release is not None  # checked before
    own = about.cite(release.id)
    state, subject = about.state, release.subject
    before = tuple(Stage)[tuple(Stage).index(subject.stage) - 1]
    votes = (
        Line(
            state.votes[vote].vote.person,
            f"approves as {state.votes[vote].role}, {stamp(state.votes[vote].at)}",
            about.cite(vote),
        )
        for vote in release.votes
    )
    verdicts = (
        Line(name, code, (*own, *about.cite(*release.evidence))) for name, code in release.verdicts.items()
    )
    evidence = (
        Line(
            state.plans[state.evidence[one].plan].suite,
            f"{one}, digest {about.known[one].digest}",
            about.cite(one),
        )
        for one in release.evidence
    )
    stages = (
        Line("from", str(before), own),
        Line("to", str(subject.stage), own),
        Line("audience", subject.audience, own),
        Line("purposes", ", ".join(subject.purposes), own),
        Line("strategy", release.strategy, own),
        Line("asked by", release.requester, own),
        Line("decided", stamp(state.at[release.id]), own),
    )
    pack = state.packs[subject.policy]
    void = (
        Line("time", f"it ends {stamp(release.expires_at)}", own),
        Line("votes", "a veto, or a vote taken back or whose key is gone", own),
        Line("evidence", "evidence that lapses, or that says worse", own),
        Line("safeguards", "its profile is entered as broken", own),
        Line("policy", f"another pack than {pack.name} {pack.version} takes effect", own),
    )
    fate = state.fallen.get(release.id)
    ended = (Line("ended", f"{stamp(fate[0])}, {fate[1]}", own),) if fate else ()
    return [
        _field("stages", "What was decided", iter(stages + ended)),
        _field("votes", "Votes it rests on", votes),
        _field("verdicts", "Verdicts it rests on", verdicts),
        _field("evidence", "Evidence it rests on", evidence),
        _field("void", "What ends it", iter(void)),
    ]


def _reviewed(about: About) -> Iterator[Line]:
    report = about.report
    assert report is not None  # checked before
    cited = about.cite(report.id)
    yield Line("report", f"{report.id}, {TITLES[report.kind]}", cited)
    yield Line("digest", about.known[report.id].digest, cited)
    yield Line("withheld", ", ".join(one.field for one in report.redactions) or "nothing", cited)
    yield Line("reviewer", f"{about.reviewer} of {about.state.orgs_of.get(about.reviewer, '')}", cited)
