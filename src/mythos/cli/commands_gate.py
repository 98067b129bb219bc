"""The table of the gate's commands: who is enrolled, what was measured, who voted, what is open to whom."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.commands_policy import app as policy
from mythos.cli.commands_profile import app as profile
from mythos.cli.naming import DEFAULT_FAMILY
from mythos.cli.options import Family, Json
from mythos.records.release import Stage
from mythos.records.trust import Role

As = Annotated[str, typer.Option("--as", metavar="PERSON[:ROLE]", help="Who signs.")]
By = Annotated[list[str], typer.Option("--by", metavar="PERSON[:ROLE]", help="Who signs; again for more.")]
Draft = Annotated[Path | None, typer.Option(help="Write it here for others to sign; submit nothing.")]
Tier = Annotated[str, typer.Argument(help="A built tier.")]
StageOption = Annotated[Stage, typer.Option(help="Which stage.")]
Audience = Annotated[str | None, typer.Option(help="A class of the policy. Default: that of the strategy.")]
Purposes = Annotated[
    list[str] | None, typer.Option("--purpose", help="Again for more. Default: those of the strategy.")
]
Profile = Annotated[str, typer.Option(help="The safeguard profile, by name or name@digest.")]
Strategy = Annotated[str, typer.Option(help="How it rolls out, by the policy in force.")]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]


def _group(text: str) -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, help=text)


trust = _group("The trust root: who decides here.")
person = _group("Enrolled persons: enrol, list, remove.")
evaluate = _group("Plan a suite on a tier, run it.")
evidence = _group("What was measured.")
gate = _group("What the gate says.")
vote = _group("Votes: cast, withdraw, list.")
release = _group("Stages: open, halt, suspend, resume, status.")
org = _group("Organisations other than the operator's.")
grant = _group("What an organisation may use.")


def add_to(app: typer.Typer) -> None:
    """Hang every group of this table into the command line."""
    for name, group in (
        ("trust", trust), ("person", person), ("policy", policy), ("profile", profile),
        ("evaluate", evaluate), ("evidence", evidence), ("gate", gate), ("vote", vote),
        ("release", release), ("org", org), ("grant", grant),
    ):  # fmt: skip
        app.add_typer(group, name=name)
    app.command("sign")(sign)
    app.command("submit")(submit)


@trust.command("init")
def trust_init(
    name: Annotated[str, typer.Argument(help="The deployment's name.")],
    threshold: Annotated[int, typer.Option(min=1, help="How many persons change it.")],
    persons: Annotated[list[str], typer.Option("--person", metavar="NAME[@ORG]:ROLE[=PUBLIC KEY]")],
    drill: Annotated[bool, typer.Option("--drill", help="A rehearsal; counts nowhere else.")] = False,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """Enrol the first persons and make the keys that are not given."""
    from mythos.cli.persons import trust_init as run

    return run(name, drill, threshold, persons, draft)


@trust.command("show")
def trust_show(
    out: Annotated[Path | None, typer.Option(help="Write all versions here, for --trust.")] = None,
    json: Json = False,
) -> int:
    """Who is enrolled, and the digest to compare."""
    from mythos.cli.persons import trust_show as run

    return run(out)


@trust.command("check")
def trust_check(file: Path, json: Json = False) -> int:
    """Compare a trust root from elsewhere with this one."""
    from mythos.cli.persons import trust_check as run

    return run(file)


@person.command("enrol")
def person_enrol(
    name: str,
    role: Annotated[Role, typer.Option(help="What the key is for.")],
    by: By,
    org: Annotated[str | None, typer.Option(help="Default: the deployment's name.")] = None,
    public: Annotated[str | None, typer.Option(help="Their public key; else one is made here.")] = None,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """Enrol a person, or give one another role."""
    from mythos.cli.persons import enrol

    return enrol(name, role, org, public, by, draft)


@person.command("list")
def person_list(json: Json = False) -> int:
    """Everybody with a key, and whether it is here."""
    from mythos.cli.persons import persons

    return persons()


@person.command("remove")
def person_remove(name: str, by: By, draft: Draft = None, json: Json = False) -> int:
    """End a person's enrolment, and with it their votes."""
    from mythos.cli.persons import remove

    return remove(name, by, draft)


@policy.command("activate")
def policy_activate(
    pack: Annotated[str, typer.Argument(help="A packaged pack, or a TOML file.")],
    by: By,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """Put a pack in force."""
    from mythos.cli.persons import activate

    return activate(pack, by, draft)


def sign(
    file: Path,
    who: As,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> int:
    """Add a signature to a draft, after showing it."""
    from mythos.cli.persons import sign as run

    return run(file, who, yes)


def submit(file: Path, json: Json = False) -> int:
    """Hand in a signed draft."""
    from mythos.cli.persons import hand_in_file

    return hand_in_file(file)


@evaluate.command("plan")
def evaluate_plan(
    tier: Tier,
    suite: Annotated[str, typer.Option(help="One of docs/reference/suites.md, as humaneval.")],
    who: As,
    elicitation: Annotated[list[str] | None, typer.Option(help="Default: all that the suite has.")] = None,
    profile: Profile = "none",
    family: Family = DEFAULT_FAMILY,
    json: Json = False,
) -> int:
    """Promise a suite before its first sample."""
    from mythos.cli.evaluations import plan

    return plan(family, tier, suite, elicitation or (), profile, who)


@evaluate.command("run")
def evaluate_run(
    tier: Tier,
    suite: Annotated[str | None, typer.Option(help="Default: all that is planned.")] = None,
    who: Annotated[str | None, typer.Option("--as", help="Sign and submit what comes out.")] = None,
    family: Family = DEFAULT_FAMILY,
    json: Json = False,
) -> int:
    """Run what is planned; go on where it stopped."""
    from mythos.cli.evaluations import run

    return run(family, tier, suite, who)


@evidence.command("submit")
def evidence_submit(
    tier: Tier, who: As, suite: str | None = None, family: Family = DEFAULT_FAMILY, json: Json = False
) -> int:
    """Sign and submit runs; unfinished ones are finished."""
    from mythos.cli.evaluations import run

    return run(family, tier, suite, who)


@evidence.command("list")
def evidence_list(tier: Annotated[str | None, typer.Argument()] = None, json: Json = False) -> int:
    """Samples, bounds, age, and who labelled."""
    from mythos.cli.evaluations import evidence as run

    return run(tier)


def _subject(
    family: str, tier: str, stage: Stage, audience: str | None, purposes: list[str] | None, profile: str
) -> tuple[str, str, Stage, str | None, list[str] | tuple[()], str]:
    return family, tier, stage, audience, purposes or (), profile


@gate.command("check")
def gate_check(
    tier: Tier,
    stage: StageOption,
    audience: Audience = None,
    purpose: Purposes = None,
    profile: Profile = "none",
    requester: Annotated[str | None, typer.Option(help="Default: the release engineer.")] = None,
    strategy: Strategy = "staged",
    family: Family = DEFAULT_FAMILY,
    json: Json = False,
) -> int:
    """May this be released, and why not? Exits 0 for ALLOW, 3 for HOLD, 4 for BLOCK."""
    from mythos.cli.releases import gate_check as run

    return run(_subject(family, tier, stage, audience, purpose, profile), strategy, requester)


@vote.command("cast")
def vote_cast(
    tier: Tier,
    stage: StageOption,
    who: As,
    audience: Audience = None,
    purpose: Purposes = None,
    profile: Profile = "none",
    veto: Annotated[bool, typer.Option("--veto", help="Against it, until you withdraw it.")] = False,
    note: Annotated[str, typer.Option(help="For the record.")] = "",
    strategy: Strategy = "staged",
    family: Family = DEFAULT_FAMILY,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """Approve, or veto, one release as its evidence stands."""
    from mythos.cli.releases import cast

    return cast(_subject(family, tier, stage, audience, purpose, profile), strategy, who, veto, note, draft)


@vote.command("withdraw")
def vote_withdraw(
    vote_id: Annotated[str, typer.Argument(metavar="VOTE")],
    who: As,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """Take your vote, or veto, back."""
    from mythos.cli.releases import withdraw

    return withdraw(vote_id, who, draft)


@vote.command("list")
def vote_list(json: Json = False) -> int:
    """Every vote ever cast."""
    from mythos.cli.releases import votes

    return votes()


@release.command("open")
def release_open(
    tier: Tier,
    stage: StageOption,
    who: As,
    audience: Audience = None,
    purpose: Purposes = None,
    profile: Profile = "none",
    strategy: Strategy = "staged",
    family: Family = DEFAULT_FAMILY,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """Open a stage, if the gate allows it."""
    from mythos.cli.releases import open_

    return open_(_subject(family, tier, stage, audience, purpose, profile), strategy, who, False, draft)


@release.command("rollback")
def release_rollback(
    tier: Tier,
    stage: StageOption,
    who: As,
    audience: Audience = None,
    purpose: Purposes = None,
    profile: Profile = "none",
    strategy: Strategy = "staged",
    family: Family = DEFAULT_FAMILY,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """Open it for earlier weights, registered again."""
    from mythos.cli.releases import open_

    return open_(_subject(family, tier, stage, audience, purpose, profile), strategy, who, True, draft)


@release.command("halt")
def release_halt(
    release_id: Annotated[str, typer.Argument(metavar="RELEASE")],
    who: As,
    reason: Reason = "",
    json: Json = False,
) -> int:
    """End a release at once and for good."""
    from mythos.cli.releases import halt

    return halt(release_id, who, reason)


@release.command("suspend")
def release_suspend(
    who: As,
    where: Annotated[
        list[str] | None, typer.Option(metavar="ATTRIBUTE=VALUE", help="Whom. Default: everybody.")
    ] = None,
    tier: Annotated[str, typer.Option(help="Default: every tier.")] = "",
    reason: Reason = "",
    json: Json = False,
) -> int:
    """Refuse whoever matches; unknown matches."""
    from mythos.cli.releases import suspend

    return suspend(tier, where or (), who, reason)


@release.command("resume")
def release_resume(
    suspension: Annotated[str, typer.Argument(metavar="SUSPENSION")],
    by: By,
    draft: Draft = None,
    json: Json = False,
) -> int:
    """End a suspension, by the policy's quorum."""
    from mythos.cli.releases import resume

    return resume(suspension, by, draft)


@release.command("status")
def release_status(tier: Annotated[str | None, typer.Argument()] = None, json: Json = False) -> int:
    """What is open, until when, and what fell why."""
    from mythos.cli.releases import status

    return status(tier)


@org.command("add")
def org_add(
    name: str,
    audience: Annotated[str, typer.Option(help="The class that admits it.")],
    who: As,
    attr: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="jurisdiction=DE")] = None,
    contractor_of: Annotated[str, typer.Option(help="The organisation it works for.")] = "",
    json: Json = False,
) -> int:
    """Make an organisation known."""
    from mythos.cli.grants import add_org

    return add_org(name, audience, attr or (), contractor_of, who)


@org.command("list")
def org_list(json: Json = False) -> int:
    """Every organisation ever known."""
    from mythos.cli.grants import orgs

    return orgs()


@grant.command("add")
def grant_add(
    organisation: str,
    tier: str,
    stage: StageOption,
    purpose: Annotated[list[str], typer.Option(help="Again for more.")],
    who: As,
    profile: Profile = "none",
    days: Annotated[float, typer.Option(min=0.001, max=3660)] = 30.0,
    jurisdiction: Annotated[list[str] | None, typer.Option(help="Default: any.")] = None,
    parent: Annotated[str, typer.Option(help="For a contractor: the grant it hangs on.")] = "",
    family: Family = DEFAULT_FAMILY,
    json: Json = False,
) -> int:
    """Let an organisation use a tier, for a time."""
    from mythos.cli.grants import add_grant

    return add_grant(
        organisation, family, tier, stage, purpose, profile, days, jurisdiction or (), parent, who
    )


@grant.command("revoke")
def grant_revoke(
    what: Annotated[str, typer.Argument(metavar="GRANT|ORG")],
    who: As,
    reason: Reason = "",
    json: Json = False,
) -> int:
    """End a grant or an organisation."""
    from mythos.cli.grants import revoke

    return revoke(what, who, reason)


@grant.command("list")
def grant_list(json: Json = False) -> int:
    """Every grant, live or ended."""
    from mythos.cli.grants import grants

    return grants()
