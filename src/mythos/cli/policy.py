"""`mythos policy list|show|lint|diff|activate|try`."""

from collections import Counter
from dataclasses import asdict

from mythos.cli.desk import profile_named
from mythos.cli.local import Records, open_records, standing
from mythos.cli.naming import family_place, no_tier
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, printable, table
from mythos.gate import policy
from mythos.gate.submit import load_state
from mythos.gate.try_packs import try_packs
from mythos.records.policy import PolicyPack
from mythos.records.release import STAGES
from mythos.records.signed import to_plain
from mythos.spec.load import load_family

BINDING = "the bars a run was planned under are left out; votes and the order of stages are not asked"


def run_list() -> int:
    active = load_state(open_records().store).pack
    packs = [policy.load_pack(name) for name in policy.packaged_packs()]
    rows = [
        {"name": p.name, "version": p.version, "digest": policy.pack_digest(p), "description": p.description}
        for p in packs
    ]
    force = active and {"name": active.name, "version": active.version, "digest": policy.pack_digest(active)}
    if json_wanted():
        emit({"packs": rows, "in_force": force})
        return 0
    table(
        ["pack", "version", "digest", "description"],
        [[*list(r.values())[:2], r["digest"][:16], r["description"]] for r in rows],
    )
    note(f"in force: {active.name} {active.version}" if active else "in force: none; nothing can be released")
    return 0


def run_show(name: str) -> int:
    pack = policy.load_pack(name)
    if json_wanted():
        emit({"digest": policy.pack_digest(pack), "pack": to_plain(pack)})
        return 0
    table(["part", "value"], [[path, _text(value)] for path, value in policy.leaves(pack).items()])
    note(f"digest: {policy.pack_digest(pack)}")
    return 0


def run_lint(name: str) -> int:
    findings = policy.lint(policy.load_pack(name))
    errors = sum(found.severity == "error" for found in findings)
    if json_wanted():
        emit({"pack": name, "errors": errors, "findings": [asdict(found) for found in findings]})
    else:
        for found in findings:
            print(printable(f"{found.severity}: {found.path}: {found.message}"))
        note(f"{name}: {errors} errors, {len(findings) - errors} warnings")
    return Exit.FAILED if errors else Exit.OK


def run_diff(old: str, new: str) -> int:
    changes = policy.diff(policy.load_pack(old), policy.load_pack(new))
    effects = Counter(change.effect for change in changes)
    if json_wanted():
        emit(
            {
                "old": old,
                "new": new,
                "changes": [asdict(change) for change in changes],
                **{e: effects[e] for e in policy.EFFECTS},
            }
        )
        return 0
    table(["part", "old", "new", "effect"], [[c.path, _text(c.old), _text(c.new), c.effect] for c in changes])
    note(", ".join(f"{effects[effect]} {effect}" for effect in policy.EFFECTS))
    return 0


def run_try(tier: str, family: str, packs: str, stage: str | None, profile: str) -> int:
    if stage is not None and stage not in STAGES[1:]:
        raise CommandError(f"there is no stage {stage}", f"one of: {', '.join(STAGES[1:])}", Exit.USAGE)
    records = open_records()
    names = policy.packaged_packs() if packs == "all" else packs.split(",")
    loaded = [_sound(name) for name in names]
    root = _root(records, family, tier)
    profile = profile_named(records.home, root, profile)
    tried = try_packs(load_state(records.store), root, profile, loaded, records.clock.now())
    tried = [one for one in tried if stage is None or one.stage == stage]
    if json_wanted():
        emit(
            {
                "tier": tier,
                "root": root,
                "profile": profile,
                "note": BINDING,
                "tried": [asdict(t) for t in tried],
            }
        )
        return 0
    rows = []
    for one in tried:
        first = [f"{one.pack} {one.version}", one.stage, "yes" if one.ships else "no"]
        if one.ships:
            rows.append([*first, "", "", "", ""])
        for held in one.held:
            rows.append([*first, held.part, held.code, " ".join(held.rows), held.detail])
            first = ["", "", ""]
    table(["pack", "stage", "ships", "held by", "code", "rows", "detail"], rows)
    note(f"{tier}, profile {profile}. Counterfactual: {BINDING}.")
    return 0


def _sound(name: str) -> PolicyPack:
    pack = policy.load_pack(name)
    if any(found.severity == "error" for found in policy.lint(pack)):
        raise CommandError(f"{name} could never be put in force", f"mythos policy lint {name}")
    return pack


def _root(records: Records, family: str, tier: str) -> str:
    found = standing(records, load_family(family_place(family))).family.tiers
    built = {one.name: one.root for one in found if one.root}
    if tier not in built:
        raise no_tier(list(built), tier)
    return built[tier]


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)
