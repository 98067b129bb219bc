"""Plans, evidence and the samples in it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mythos.gate.submit import submit
from mythos.records.evidence import Evidence, Judge, Labelled, Outcome, Sample
from mythos.records.ids import new_id
from mythos.records.signed import digest, payload, seal
from tests.gate.town import DAY, hexdigest

if TYPE_CHECKING:
    from tests.attacks.adapter import Adapter


def op_measure(
    adapter: "Adapter", root: str = "W1", humaneval: int = 0, mmlu: int = 80, tier: str = "capybara"
) -> None:
    for suite, items, count in (("humaneval", 164, humaneval), ("mmlu_dev", 273, mmlu)):
        adapter.town.evidence(
            adapter.town.plan(suite, adapter.roots[root], items, family=adapter.family, tier=tier), count
        )


def op_register_run(
    adapter: "Adapter", suite: str = "humaneval", root: str = "W1", name: str = "plan", items: int = 100,
    labels: dict[str, Any] | None = None, signer: str = "evaluator-1", **other: Any,
) -> None:  # fmt: skip
    other = {k: tuple(v) if isinstance(v, list) else v for k, v in other.items()}
    if labels:
        other["judge"] = digest(judge(**labels))
    if "policy" in other:
        other["policy"] = adapter.kept[other["policy"]]
    other = {"family": adapter.family, "evaluator": signer, "signer": signer, **other}
    adapter.kept[name] = adapter.town.plan(suite, adapter.roots[root], items, **other)


def op_submit_evidence(
    adapter: "Adapter",
    plan: str = "plan",
    successes: int | list[int] = 0,
    signer: str = "evaluator-1",
    first: int | None = None,  # submit only so many samples
    outcomes: dict[str, int] | None = None,  # the first samples, by outcome
    clusters: int = 0,
    labels: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,  # other values of the record
    days: float = 0.0,  # that it began so long ago
    name: str = "evidence",
    more: int = 0,  # samples beyond the plan
    only: str = "",  # samples of one elicitation alone
) -> None:
    of = adapter.kept[plan]
    counts = successes if isinstance(successes, list) else [successes] * len(of.elicitations)
    samples = []
    for elicitation, count in zip(of.elicitations, counts, strict=True):
        kinds = [Outcome.SUCCESS] * count
        for kind, number in (outcomes or {}).items():
            kinds += [Outcome(kind)] * number
        kinds += [Outcome.FAILURE] * (of.items - len(kinds))
        kinds += [Outcome.FAILURE] * more
        for i, kind in enumerate(kinds[:first]):
            cluster = f"c{i * clusters // of.items}" if clusters else f"s{i}"
            samples.append(Sample(f"s{i}", cluster, kind, elicitation))
    samples = [s for s in samples if only in ("", s.elicitation)]
    other = dict(fields or {})
    for part in ("root", "harness", "suite_digest", "deployment"):
        if part in other:
            other[part] = adapter.roots.get(other[part], hexdigest(other[part]))
    if labels:
        other["judge"] = judge(**labels)
    if days:
        other["started"] = adapter.town.now - days * DAY
    adapter.kept[name] = adapter.town.evidence(of, samples=tuple(samples), signer=signer, **other)


def op_submit_raw(
    adapter: "Adapter", find: str, replace_with: str, plan: str = "plan", signer: str = "evaluator-1"
) -> None:
    """Evidence whose bytes were edited before signing: what a program of one's own can send."""
    piece = _evidence_text(adapter, plan).replace(find, replace_with)
    adapter.send("evidence", piece.encode(), adapter.town.keys[signer])


def op_replay(adapter: "Adapter", record: str, signer: str, edit: dict[str, Any] | None = None) -> None:
    """A kept record once more: the same bytes, or with other values under the same id."""
    again = replace(adapter.kept[record], **edit or {})
    submit(*adapter.place, seal(again, adapter.town.keys[signer]))


def _evidence_text(adapter: "Adapter", plan: str) -> str:
    of = adapter.kept[plan]
    samples = tuple(Sample(f"s{i}", f"s{i}", Outcome.FAILURE, of.elicitations[0]) for i in range(of.items))
    piece = Evidence(
        new_id("ev"), of.deployment, of.id, of.root, of.profile, of.suite_digest, of.harness, 1, samples,
        None, hexdigest("t"), "none", of.evaluator, adapter.town.now, adapter.town.now,
    )  # fmt: skip
    return payload(piece).decode()


def judge(by: str, right: int, wrong: int, name: str = "rules-1") -> Judge:
    """A labelled sample with so many right and wrong calls on each side."""
    items = []
    for label in (True, False):
        for i in range(right + wrong):
            judged = label if i < right else not label
            items.append(Labelled(f"{label}-{i}", judged, label, by, "somebody"))
    return Judge(name, tuple(items))
