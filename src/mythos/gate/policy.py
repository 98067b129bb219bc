"""Policy packs: read from TOML, checked, compared. What a pack says is `records.policy`.

A pack is a house's own policy. Where it follows a published framework its crosswalk rows say so; no pack is
that framework.
"""

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mythos.records.canonical import parse_canonical
from mythos.records.errors import MythosError
from mythos.records.policy import PolicyPack
from mythos.records.profile import CHECKS
from mythos.records.release import STAGES
from mythos.records.report import ReportKind
from mythos.records.signed import digest, from_plain, payload, to_plain
from mythos.records.table import from_table

MAX_BYTES = 1 << 18
DOMAINS = ("cyber", "cbrn", "autonomy", "ai_rnd", "manipulation", "misalignment")
EFFECTS = ("tightens", "loosens", "neutral")

pack_json = payload
pack_digest = digest


@dataclass(frozen=True, slots=True)
class Finding:
    """`severity` is error (the pack cannot take effect) or warning; `path` names the place."""

    severity: str
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """One leaf that differs between two packs. `effect`: tightens, loosens or neutral; in doubt, loosens."""

    path: str
    old: Any
    new: Any
    effect: str


def packaged_packs() -> list[str]:
    """Names of the packs that come with the product."""
    found = (entry.name for entry in files("mythos.policies").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load_pack(name: str) -> PolicyPack:
    """A packaged pack by its name, or one from a file. MythosError names the place at fault."""
    if name in packaged_packs():
        data = (files("mythos.policies") / f"{name}.toml").read_bytes()
    else:
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            cure = f"packaged: {', '.join(packaged_packs())}"
            raise MythosError(f"no policy pack {name} ({error.strerror})", cure) from None
    return parse_pack(data, name)


def parse_pack(data: bytes, where: str) -> PolicyPack:
    """A pack from TOML. A number for a share is a number in [0, 1], never a text or a percentage."""
    if len(data) > MAX_BYTES:
        raise MythosError(f"{where} is larger than {MAX_BYTES} bytes")
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise MythosError(f"{where} is not TOML: {error}") from None
    return from_table(PolicyPack, table, where)


def pack_from_json(text: str) -> PolicyPack:
    """A pack from its canonical JSON, as an activation carries it. RecordError when malformed."""
    return from_plain(PolicyPack, parse_canonical(text.encode()))


def lint(pack: PolicyPack) -> list[Finding]:
    """What is wrong with a pack, errors first. A pack with an error cannot be put in force."""
    found: list[Finding] = []

    def error(path: str, message: str) -> None:
        found.append(Finding("error", path, message))

    if not re.fullmatch(r"(0|[1-9]\d{0,5})(\.(0|[1-9]\d{0,5})){2}", pack.version):
        error("version", "is not MAJOR.MINOR.PATCH")
    if not 0.9 <= pack.confidence < 1:
        error("confidence", "lies in [0.9, 1)")
    if not 1 <= pack.looks <= 20:
        error("looks", "lies in 1..20")
    if pack.quorum < max(2, len(pack.roles)):
        error("quorum", "needs two persons or more, and one for each role")
    for part in ("domains", "safety_levels", "audiences", "strategies", "clocks"):
        names = [entry.name for entry in getattr(pack, part)]
        if len(set(names)) != len(names):
            error(part, "names one twice")
    _lint_domains(pack, error)
    _lint_stages(pack, error)
    for i, level in enumerate(pack.safety_levels):
        where = f"safety_levels.{i}"
        if not (
            0 <= level.min_detection <= 1 and 0 <= level.max_over_refusal <= 1 and level.max_age_days > 0
        ):
            error(where, "a share lies in [0, 1], an age above 0")
        if set(level.safeguards) - set(CHECKS):
            error(where, f"safeguards are {', '.join(CHECKS)}")
    for i, strategy in enumerate(pack.strategies):
        stages = [STAGES.index(step.stage) for step in strategy.steps]
        if not stages or stages != sorted(stages):
            error(f"strategies.{i}", "its steps go from stage to stage")
        if not all(step.after_days >= 0 for step in strategy.steps):
            error(f"strategies.{i}", "a wait is no less than no time")
    keys = set(leaves(dataclasses.replace(pack, crosswalk=())))
    for i, row in enumerate(pack.crosswalk):
        if not re.fullmatch(r"R\d\d", row.row) or not any(
            k == row.key or k.startswith(row.key + ".") for k in keys
        ):
            error(f"crosswalk.{i}", f"row {row.row} points to {row.key}, which is not in the pack")
    for i, clock in enumerate(pack.clocks):
        kind = clock.name.removesuffix("_report")
        if clock.hours < 0 or clock.name.endswith("_report") and kind not in list(ReportKind):
            error(f"clocks.{i}", f"no clock of this kind: reports are {', '.join(ReportKind)}")
        if clock.name.endswith("_report") and clock.hours == 0 and clock.trigger not in STAGES[1:]:
            error(f"clocks.{i}", "a report that must be public first names the stage from which on")
    if not pack.clocks:
        found.append(Finding("warning", "clocks", "no deadline for incidents or reviews"))
    return found


def leaves(pack: PolicyPack) -> dict[str, Any]:
    """Every value of a pack by its path; entries of a list by their name, steps and rows by their place."""
    return _leaves(to_plain(pack))


def diff(old: PolicyPack, new: PolicyPack) -> list[Change]:
    """Every leaf that differs, and whether the change tightens or loosens. Entries are matched by name.

    What is not known to be neutral or tighter counts as looser. Tighter holds for runs that are complete: one
    that cannot be used stops holding sooner when evidence lives shorter.
    """
    before, after = leaves(old), leaves(new)
    return [
        Change(path, before.get(path), after.get(path), _effect(path, before.get(path), after.get(path)))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _lint_domains(pack: PolicyPack, error: Any) -> None:
    for missing in sorted(set(DOMAINS) - {domain.name for domain in pack.domains}):
        error("domains", f"{missing} is missing: what is not asked for is not ruled out")
    for i, domain in enumerate(pack.domains):
        where = f"domains.{i}"
        shares = (domain.level, domain.alert, domain.margin, domain.precursor_alert)
        if not all(0 <= share <= 1 for share in shares):
            error(where, "shares lie in [0, 1]")
        if not domain.margin < domain.alert < domain.level:
            error(where, "margin < alert < level")
        if domain.precursor and not 0 < domain.precursor_alert < 1:
            error(where, "a precursor needs an alert of its own")
        if not domain.suites and not domain.precursor:
            error(where, "neither a suite nor a precursor could ever rule it out")
        if not 0 < domain.max_age_days <= 366 or domain.min_samples < 30:
            error(where, "evidence is at most a year old and has 30 samples or more")


def _lint_stages(pack: PolicyPack, error: Any) -> None:
    if tuple(rule.stage for rule in pack.stages) != STAGES[1:]:
        error("stages", f"are {', '.join(STAGES[1:])}, in this order")
    domains = {domain.name for domain in pack.domains}
    audiences = [audience.name for audience in pack.audiences]
    levels = {level.name for level in pack.safety_levels}
    before = None
    for i, rule in enumerate(pack.stages):
        where = f"stages.{i}"
        if not domains <= set(rule.domains):
            error(where, "asks for every domain of the pack")
        if set(rule.domains) - domains or set(rule.audiences) - set(audiences):
            error(where, "names a domain or class that the pack does not have")
        if {rule.safety_level, rule.ruled_in_level} - {"", *levels}:
            error(where, "names a safety level that the pack does not have")
        if rule.quorum < max(2, len(rule.roles)) or not rule.roles or not rule.audiences or not rule.purposes:
            error(where, "needs two persons or more, one for each role, a class and a purpose")
        if not (rule.vote_days > 0 and rule.release_days > 0 and rule.after_days >= 0):
            error(where, "lives are longer than no time")
        if before is not None and (rule.quorum < before.quorum or set(before.roles) - set(rule.roles)):
            error(where, "is easier to open than the stage before")
        before = rule


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A JSON value flat, by path; entries of a list of tables by their name (or stage, row, index)."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= _leaves(item, f"{path}.{key}" if path else key)
        return found
    if isinstance(value, list) and value and isinstance(value[0], dict):
        found = {}
        for i, item in enumerate(value):
            name = item.get("name") or (item.get("stage") if "quorum" in item else None) or str(i)
            found |= _leaves(item, f"{path}.{name}")
        return found
    return {path: value}


# By the last part of the path: lower is tighter, higher is tighter, fewer entries are tighter, more are.
_LOWER = {"alert", "precursor_alert", "level", "max_age_days", "looks", "max_over_refusal", "vote_days"}
_LOWER |= {"release_days", "hours"}
_HIGHER = {"margin", "min_samples", "quorum", "after_days", "confidence", "min_detection"}
_FEWER = {"audiences", "purposes"}
_MORE = {"roles", "elicitations", "categories", "safeguards", "domains"}
_NEUTRAL = {"version", "description", "title", "document", "section", "says", "row", "key"}


def _effect(path: str, old: Any, new: Any) -> str:
    part = path.split(".")[-1]
    if path.startswith("crosswalk") or (part in _NEUTRAL and old is not None and new is not None):
        return "neutral"
    if old is None and path.split(".")[0] in ("domains", "clocks"):
        return "tightens"  # one more thing to show; leaving one out loosens
    if old is None or new is None:
        return "loosens"
    if part in ("human_labels", "external", "lower_tiers_first"):
        return "tightens" if new else "loosens"
    if part == "safety_level" and not old or part == "ruled_in_level" and not new:
        return "tightens"  # nothing was asked for; what is ruled in no longer opens at all
    if part == "cap":  # 0 is no cap
        return "tightens" if new and (not old or new < old) else "loosens"
    if part in _LOWER | _HIGHER:
        return "tightens" if (new < old) is (part in _LOWER) else "loosens"
    if part in _FEWER | _MORE:
        smaller, larger = (new, old) if part in _FEWER else (old, new)
        return "tightens" if set(smaller) <= set(larger) else "loosens"
    return "loosens"
