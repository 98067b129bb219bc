"""A policy pack: what a release needs, as data. `gate.policy` reads packs from TOML; this is what they say.

A pack is known by name, version and digest (SHA-256 of its canonical JSON), and never changed: a new version
is a new pack.
"""

from dataclasses import dataclass

from mythos.records.release import Stage
from mythos.records.trust import Role


@dataclass(frozen=True, slots=True)
class Domain:
    """A danger, and what rules it out. Rates are success rates on a suite, in [0, 1].

    Ruled out: the upper bound of every named suite, over the worst elicitation, lies below `alert - margin`.
    Ruled in: a lower bound reaches `level`. Without a suite of its own (`suites` empty) or evidence from it,
    the precursor decides: a harmless suite that must go well before the danger is conceivable, a house
    assumption. `max_age_days` is the evidence's life. `elicitations` must all be in the evidence.
    """

    name: str
    title: str
    level: float
    alert: float
    margin: float
    suites: tuple[str, ...]
    precursor: str  # "" for none
    precursor_alert: float
    max_age_days: float
    min_samples: int
    elicitations: tuple[str, ...]
    human_labels: bool  # a judged suite needs human labels outside a DRILL
    external: bool  # evidence by an external evaluator is needed too


@dataclass(frozen=True, slots=True)
class SafetyLevel:
    """Safeguards a profile must have, and the bounds of what was measured of them.

    `human_labels`: outside a DRILL the judge of refusals must be measured against labels that humans gave.
    """

    name: str
    safeguards: tuple[str, ...]  # input_check | output_check | exchange_check
    categories: tuple[str, ...]  # that its classifiers must cover
    min_detection: float
    max_over_refusal: float
    max_age_days: float
    human_labels: bool


@dataclass(frozen=True, slots=True)
class AudienceClass:
    """Whom a stage may admit. Admitting one member changes neither rule nor digest, so it voids no vote."""

    name: str
    rule: str
    cap: int  # organisations; 0 for no cap


@dataclass(frozen=True, slots=True)
class StageRule:
    """What opening a stage needs. `after_days`: how long the stage before must have been open."""

    stage: Stage
    quorum: int  # persons, the requester not counted
    roles: tuple[Role, ...]  # each held by a different one of them
    audiences: tuple[str, ...]
    purposes: tuple[str, ...]
    domains: tuple[str, ...]  # that must be ruled out, or ruled in under `ruled_in_level`
    safety_level: str  # every profile of this stage; "" for none
    ruled_in_level: str  # profiles for a domain that is ruled in; "" means: never
    after_days: float
    vote_days: float  # life of a vote
    release_days: float  # life of a release


@dataclass(frozen=True, slots=True)
class Step:
    stage: Stage
    audience: str
    purposes: tuple[str, ...]
    after_days: float


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to roll out: its steps are allowed in this order and no others. It only restricts the stages."""

    name: str
    description: str
    steps: tuple[Step, ...]
    lower_tiers_first: bool  # each parent or lower tier of the family must stand at this stage before


@dataclass(frozen=True, slots=True)
class Deadline:
    """A clock: what must happen within `hours` of what."""

    name: str
    trigger: str
    hours: float


@dataclass(frozen=True, slots=True)
class Crosswalk:
    """Where a published framework says what this pack does: `key` is the part of the pack that meets it."""

    row: str  # R01...
    document: str
    section: str
    says: str
    key: str


@dataclass(frozen=True, slots=True)
class PolicyPack:
    """`looks` is how many times samples of one plan may be looked at: each look pays alpha / looks."""

    name: str
    version: str  # MAJOR.MINOR.PATCH
    description: str
    confidence: float  # one-sided
    looks: int
    quorum: int  # persons who activate it
    roles: tuple[Role, ...]
    domains: tuple[Domain, ...]
    safety_levels: tuple[SafetyLevel, ...]
    audiences: tuple[AudienceClass, ...]  # in order of opening
    stages: tuple[StageRule, ...]
    strategies: tuple[Strategy, ...]
    clocks: tuple[Deadline, ...]
    crosswalk: tuple[Crosswalk, ...]

    def stage(self, stage: Stage) -> StageRule | None:
        return next((rule for rule in self.stages if rule.stage is stage), None)

    def domain(self, name: str) -> Domain | None:
        return next((domain for domain in self.domains if domain.name == name), None)
