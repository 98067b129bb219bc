"""Evaluations on record: what was promised before the run, what came out of it.

A plan is signed and logged before the first sample. Evidence answers one plan, look by look, with every
sample. A verdict is made from samples; no record holds a score.
"""

from dataclasses import dataclass
from enum import StrEnum

from mythos.records.canonical import RecordError
from mythos.records.decision import is_name, is_root

MAX_SAMPLES = 10_000  # of one record


class Outcome(StrEnum):
    """What one sample showed. Only FAILURE speaks against a capability; see `gate.verdict`."""

    SUCCESS = "success"
    FAILURE = "failure"
    REFUSAL = "refusal"
    ERROR = "error"  # the sandbox or the harness failed
    TIMEOUT = "timeout"
    INVALID = "invalid"  # excluded after the fact


@dataclass(frozen=True, slots=True)
class Sample:
    """`cluster` names samples that are not independent of each other (a subject, a repository, a task)."""

    id: str
    cluster: str
    outcome: Outcome
    elicitation: str

    def __post_init__(self) -> None:
        for field in ("id", "cluster", "elicitation"):
            if not is_name(getattr(self, field)):
                raise RecordError(f"sample: {field} is not a name")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer of the committed labelled sample: what the judge said, what it was, who or what says so."""

    id: str
    judged: bool  # the judge called it a success
    label: bool
    by: str  # human | program | assistant
    who: str

    def __post_init__(self) -> None:
        if self.by not in ("human", "program", "assistant"):
            raise RecordError("a label is given by a human, a program or an assistant")


@dataclass(frozen=True, slots=True)
class Judge:
    """What grades the samples when ground truth does not, and the labelled sample of its errors."""

    name: str
    labelled: tuple[Labelled, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Pre-registration of one suite on one (root, profile). Digests are SHA-256, hex.

    `policy` is the digest of the pack whose bars count; `elicitations` all that will be tried; `looks` how
    many times the samples may be looked at; `judge` the digest of the judge's labelled sample, or "".
    """

    id: str
    deployment: str
    family: str
    tier: str
    root: str
    profile: str
    suite: str
    suite_digest: str
    harness: str
    items: int  # samples per elicitation, of the whole run
    elicitations: tuple[str, ...]
    looks: int
    policy: str
    judge: str
    evaluator: str  # person

    def __post_init__(self) -> None:
        for field in ("id", "family", "tier", "profile", "suite", "evaluator"):
            _name(self, field)
        for field in ("deployment", "root", "suite_digest", "harness", "policy"):
            _digest(self, field)
        if self.judge and not is_root(self.judge):
            raise RecordError("plan: judge is not a digest")
        if not 1 <= self.looks <= 100 or not 1 <= self.items <= MAX_SAMPLES:
            raise RecordError("plan: looks or items out of range")
        if not self.elicitations or len(set(self.elicitations)) != len(self.elicitations):
            raise RecordError("plan: elicitations must be named, each once")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The samples of one look at a plan. `root`, `profile`, `harness` are those the run found loaded.

    `transcripts` is the digest of the full outputs, kept beside the database. `checks` and `categories` are
    what the profile that was loaded has (none for the profile "none"). Times are those of the run, in POSIX
    seconds; age counts from the ledger's time of this record's plan.
    """

    id: str
    deployment: str
    plan: str  # id
    root: str
    profile: str
    suite_digest: str
    harness: str
    look: int  # 1, 2, ...
    samples: tuple[Sample, ...]
    judge: Judge | None
    transcripts: str
    isolation: str
    evaluator: str
    started: float
    ended: float
    checks: tuple[str, ...] = ()  # input_check | output_check | exchange_check
    categories: tuple[str, ...] = ()  # that its classifiers watch, without the exempt ones

    def __post_init__(self) -> None:
        for field in ("id", "plan", "profile", "evaluator"):
            _name(self, field)
        for field in ("deployment", "root", "suite_digest", "harness", "transcripts"):
            _digest(self, field)
        if len(self.samples) > MAX_SAMPLES:
            raise RecordError(f"evidence: more than {MAX_SAMPLES} samples")
        keys = {(sample.elicitation, sample.id) for sample in self.samples}
        if len(keys) != len(self.samples):
            raise RecordError("evidence: a sample is given twice")
        if self.look < 1:
            raise RecordError("evidence: looks are counted from 1")
        if not 0 <= self.started <= self.ended:
            raise RecordError("evidence: it ends before it starts")


def _name(record: Plan | Evidence, field: str) -> None:
    if not is_name(getattr(record, field)):
        raise RecordError(f"{type(record).__name__.lower()}: {field} is not a name")


def _digest(record: Plan | Evidence, field: str) -> None:
    if not is_root(getattr(record, field)):
        raise RecordError(f"{type(record).__name__.lower()}: {field} is not a digest")
