"""What a report may cite: the signed records, who signed each, and the figures in it.

A text written by a person holds no figure of its own: it names one, `{RECORD.FIGURE}`, and the program fills
it in. So a number without evidence cannot be written.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mythos.gate.bounds import clustered_upper
from mythos.gate.policy import leaves, pack_from_json
from mythos.gate.state import Rejected, State
from mythos.records.canonical import canonical, parse
from mythos.records.clock import stamp
from mythos.records.dsse import peek
from mythos.records.evidence import Evidence, Outcome, Plan
from mythos.records.profile import NO_PROFILE
from mythos.records.reasons import Code
from mythos.records.release import PolicyActivation
from mythos.records.report import Cited, Line
from mythos.records.signed import KINDS, from_plain, to_plain
from mythos.records.trust import SERVICES
from mythos.store.db import Store
from mythos.store.tables import records

CONFIDENCE = 0.95  # of the bound of a piece of evidence
AT_MOST = "at_most"
POLICY = "policy"  # a name for the activation of the pack in force
# Texts that name something, which a sentence may repeat though they hold digits.
NAMES = {"id", "family", "tier", "profile", "suite", "suites", "precursor", "name", "version"}
NAMES |= {"evaluator", "person", "by", "requester", "org"}
TIMES = 1e9  # a figure above it is a time in POSIX seconds
_REFERENCE = re.compile(r"\{([A-Za-z0-9_.:@/-]{1,200})\}")
_ROW = re.compile(r"R\d\d")
_WORDS = {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"}
_WORDS |= {"thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"}
_WORDS |= {"thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "hundreds"}
_WORDS |= {"thousand", "thousands", "million", "millions", "billion", "billions", "trillion", "dozen"}
_WORDS |= {"dozens", "half", "twice", "percent"}


@dataclass(frozen=True, slots=True)
class Source:
    """A record: its kind, the SHA-256 of its payload, the persons who signed it (no service)."""

    id: str
    kind: str
    digest: str
    persons: tuple[str, ...]
    record: Any

    @property
    def cited(self) -> Cited:
        return Cited(self.id, self.kind, self.digest, self.persons)


def sources(store: Store, state: State) -> dict[str, Source]:
    """Every record that may be cited, by id. Trust roots are none: they say who signs, nothing else."""
    found: dict[str, Source] = {}
    with store.read() as conn:
        rows = conn.execute(sa.select(records.c.kind, records.c.envelope).order_by(records.c.seq)).all()
    for kind, envelope in rows:
        if kind == "trust-root":
            continue
        table = peek(envelope)
        holders = (state.bound[one["keyid"]] for one in parse(envelope)["signatures"])
        persons = sorted({holder for holder, role in holders if role not in SERVICES})
        made = hashlib.sha256(canonical(table)).hexdigest()
        record = from_plain(KINDS[kind], table)
        found[table["id"]] = Source(table["id"], kind, made, tuple(persons), record)
    return found


def figures(source: Source) -> dict[str, float]:
    """Every figure in a record, by its path; of evidence its counts and its bound, of a policy its leaves."""
    record = source.record
    if isinstance(record, Evidence):
        return _of_evidence(record)
    if isinstance(record, PolicyActivation):
        values: Mapping[str, Any] = leaves(pack_from_json(record.pack))
    else:
        values = _flat(to_plain(record), "")
    return {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def shown(figure: float) -> str:
    """A figure as a report writes it: a count whole, a time in UTC, any other in four digits."""
    if isinstance(figure, float) and figure > TIMES:
        return stamp(figure)
    return f"{figure:.4g}" if isinstance(figure, float) and figure != int(figure) else str(int(figure))


def bounded(figure: float) -> str:
    """An upper bound in four decimals, rounded up."""
    return f"{math.ceil(figure * 1e4 - 1e-9) / 1e4:.4f}"


def claim(
    text: str,
    cites: Iterable[str],
    known: Mapping[str, Source],
    where: str,
    root: str,
    profile: str,
    policy: str,
) -> Line:
    """A person's sentence with its figures filled in, and what it rests on.

    Rejected: UNSOURCED_FIGURE for a number that is typed in, UNKNOWN_FIGURE for one that its record does not
    have, UNKNOWN_SUBJECT for a record that does not exist, SOURCE_OF_OTHER_WEIGHTS for one about others.
    """
    used = {name: _source(name, known, policy, root, profile) for name in cites}

    def filled(match: re.Match[str]) -> str:
        name, _, path = match.group(1).partition(".")
        source = used.setdefault(name, _source(name, known, policy, root, profile))
        found = figures(source)
        if path not in found:
            near = ", ".join(sorted(found)[:8]) or "none"
            raise Rejected(Code.UNKNOWN_FIGURE, f"{where}: {name} has no figure {path!r}", f"It has: {near}")
        return bounded(found[path]) if path == AT_MOST else shown(found[path])

    full, rest = _REFERENCE.sub(filled, text), _REFERENCE.sub(" ", text)
    names = {name for source in used.values() for name in _names(source.record)}
    if "{" in rest or "}" in rest:
        raise Rejected(Code.UNKNOWN_FIGURE, f"{where}: a brace stands for no figure", "{RECORD.FIGURE}")
    for word in re.split(r"[\s/–—]+", rest):
        bare = word.strip(".,;:!?()[]\"'“”‘’")
        if _numeric(bare) and not _ROW.fullmatch(bare) and bare not in names | set(used):
            raise Rejected(
                Code.UNSOURCED_FIGURE,
                f"{where}: the figure {bare!r} is typed in by hand",
                "Write {RECORD.FIGURE}, the record that it comes from and its name there.",
            )
    cited = tuple(dict.fromkeys(source.cited for source in used.values()))
    return Line("", full, cited)


def mark(line: Line) -> str:
    """What is said beside a line of how many stand behind it; "" for two persons or more."""
    persons = {person for one in line.cited for person in one.persons}
    if len(persons) > 1 or line.text.startswith(NOTHING):
        return ""
    return "single source" if persons else "no source"


NOTHING = "Nothing on record"


def _source(name: str, known: Mapping[str, Source], policy: str, root: str, profile: str) -> Source:
    found = known.get(policy if name == POLICY else name)
    if found is None:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no record {name[:80]}")
    record = found.record
    plan = known[record.plan].record if isinstance(record, Evidence) else record
    if isinstance(plan, Plan) and (plan.root != root or plan.profile not in (profile, NO_PROFILE)):
        raise Rejected(Code.SOURCE_OF_OTHER_WEIGHTS, f"{name} is about other weights or another profile")
    return found


def _numeric(word: str) -> bool:
    """Whether a word holds a digit or numeral of any script, or names a number in English."""
    if any(unicodedata.numeric(c, None) is not None for c in word) or "%" in word:
        return True
    return any(part in _WORDS for part in (word.casefold(), *word.casefold().split("-")))


def _of_evidence(piece: Evidence) -> dict[str, float]:
    """Of the elicitation that showed most: samples, those that did not fail, the bound of their rate."""
    worst: dict[str, float] = {}
    for way in dict.fromkeys(sample.elicitation for sample in piece.samples):
        clusters: dict[str, list[bool]] = {}
        for sample in piece.samples:
            if sample.elicitation == way:
                clusters.setdefault(sample.cluster, []).append(sample.outcome is not Outcome.FAILURE)
        flat = [yes for values in clusters.values() for yes in values]
        upper = clustered_upper(clusters, CONFIDENCE)
        if upper >= worst.get(AT_MOST, 0.0):
            worst = {"samples": len(flat), "not_failed": sum(flat), AT_MOST: upper}
    refused = sum(sample.outcome is Outcome.REFUSAL for sample in piece.samples)
    return {**worst, "refused": refused, "look": piece.look, "started": piece.started, "ended": piece.ended}


def _flat(value: Any, path: str) -> dict[str, Any]:
    """A JSON value by path; an entry of a list by its name or source, else its place."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = [
            (str((one.get("name") or one.get("source") or i) if isinstance(one, dict) else i), one)
            for i, one in enumerate(value)
        ]
    else:
        return {path: value}
    found: dict[str, Any] = {}
    for key, item in items:
        found |= _flat(item, f"{path}.{key}" if path else str(key))
    return found


def _names(record: Any) -> Iterable[str]:
    """Names in a record that a sentence may repeat though they hold digits; never a note or a reason."""
    plain = to_plain(pack_from_json(record.pack) if isinstance(record, PolicyActivation) else record)
    waiting: list[tuple[str, Any]] = [("", plain)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, str) and key in NAMES:
            yield value
