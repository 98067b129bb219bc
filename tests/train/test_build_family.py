"""A family from scratch, built the way `mythos build` does: run, weights, registration, ladder.
Tiny and real.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch

from mythos.data.documents import Document
from mythos.data.safety import exchanges, safety_chats
from mythos.data.sources import SAFETY
from mythos.data.train_tokenizer import CHAT_TEMPLATE
from mythos.gate.authorize import load_standing
from mythos.ledger.log import ledger
from mythos.model.weights_dir import read_weights
from mythos.records.clock import Clock
from mythos.records.decision import open_handling
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family
from mythos.spec.load import FamilyError, parse_family
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.operator_key import trusted_keys
from mythos.store.weights import decisions_in, registered, revoke_decision
from mythos.store.weights_key import weights_keyring
from mythos.train import loop, stages
from mythos.train.behaviour import SUITE, measure_refusals, record_refusals
from mythos.train.build import BuildError, build_tier
from mythos.train.checkpoint import load as load_checkpoint
from mythos.train.ladder import measure, step_up
from mythos.train.loop import Metrics
from mythos.train.material import Material
from mythos.train.quality import Prediction
from mythos.train.recipes import COMMON_KEPT, PARENT_BIAS, WEIGHTS, Training, run_directory
from mythos.train.settings import Budget, TrainError
from mythos.train.weights import plain_tensors
from tests.data.small import build, tokenizer_json

FAMILY = """
name = "steps"
description = "two tiny tiers"
licence = "none"
[config]
vocab = 300
head_dim = 16
heads = 2
kv_heads = 1
context = 256
[[tiers]]
name = "small"
description = "dense"
made_by = { kind = "pretrain", share = 0.5, optimiser = "muon", learning_rate = 3e-3 }
config = { layers = 1, width = 32, ffn = 64 }
price = { input = 0.0, output = 0.0 }
context = 256
max_output = 64
[[tiers]]
name = "large"
description = "experts"
made_by = { kind = "pretrain", share = 0.5, optimiser = "adamw", learning_rate = 3e-3 }
config = { layers = 2, width = 64, ffn = 128, moe = { routed = 4, top_k = 2, width = 32, bias = true } }
price = { input = 0.0, output = 0.0 }
context = 256
max_output = 64
[[tiers]]
name = "student"
description = "one layer of two"
parents = ["large"]
made_by.kind = "distil"
made_by.prune = "depth"
made_by.share = 0.5
made_by.optimiser = "adamw"
made_by.learning_rate = 1e-3
made_by.truth = 0.2
config = { layers = 1, width = 64, ffn = 128, moe = { routed = 4, top_k = 2, width = 32, bias = true } }
price = { input = 0.0, output = 0.0 }
context = 256
max_output = 64
[[tiers]]
name = "taught"
description = "one layer of two, then conversations, then pairs"
parents = ["large"]
made_by.kind = "distil"
made_by.prune = "depth"
made_by.share = 0.5
made_by.optimiser = "muon"
made_by.learning_rate = 1e-3
made_by.truth = 0.2
made_by.sft = 0.3
made_by.dpo = 0.2
config = { layers = 1, width = 64, ffn = 128, moe = { routed = 4, top_k = 2, width = 32, bias = true } }
price = { input = 0.0, output = 0.0 }
context = 256
max_output = 64
[[tiers]]
name = "wide"
description = "experts from the small one"
parents = ["small"]
made_by = { kind = "experts", copies = 5, share = 0.5, optimiser = "adamw", learning_rate = 3e-3 }
config = { layers = 1, width = 32, ffn = 64, moe = { routed = 5, top_k = 2, width = 64, bias = true } }
price = { input = 0.0, output = 0.0 }
context = 256
max_output = 64
"""
SMALL, LARGE = Budget(tokens=4096 * 20), Budget(tokens=4096 * 60)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Modules of the standard library under four names: real text, of which a part is held out."""
    place, found = tmp_path_factory.mktemp("data"), {}
    sources = sorted(Path(json.__file__).parent.glob("*.py")) + sorted(
        Path(json.__file__).parents[1].glob("t*.py")
    )
    for index, name in enumerate(WEIGHTS):
        texts = (
            text for path in sources[index::4] for text in path.read_text().split("\n\n") if len(text) > 80
        )
        documents = [Document("made", f"{name}{n}", f"{name}{n}", t) for n, t in enumerate(texts)]
        documents += [talk(name, n) for n in range(40)]
        found[name] = build(place, documents, name=name)
    train, held_out = ({name: of[split] for name, of in found.items()} for split in ("train", "held_out"))
    safety = build(place, safety_chats().documents, name=SAFETY)["train"]
    return Material(tokenizer_json(), CHAT_TEMPLATE, train | {SAFETY: safety}, held_out)


def talk(domain: str, number: int) -> Document:
    turns = (
        {"role": "user", "content": f"What is {number} times {number} in {domain}?"},
        {"role": "assistant", "content": f"It is {number * number}."},
    )
    return Document("made", f"{domain}/talk{number}", f"{domain}/talk{number}", messages=turns)


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    return parse_family(FAMILY.encode(), "steps.toml")


def make(family: Family, tier: str, training: Training | None) -> str:
    home = Home.open()
    quiet = lambda *_: None  # noqa: E731
    return build_tier(home, Store.open(home), Clock(), OPERATOR, family, family.tier(tier), quiet, training)


def of(material: Material, budget: Budget, told: list[Metrics] | None = None) -> Training:
    return Training(material, budget, told.append if told is not None else lambda _: None, compiled=False)


def test_a_family_is_trained_measured_and_kept(family: Family, material: Material) -> None:
    told: list[Metrics] = []
    small = make(family, "small", of(material, SMALL, told))
    assert len(told) == 20
    large = make(family, "large", of(material, LARGE, told))
    home = Home.open()
    store = Store.open(home)
    rows = {row.tier: row for row in registered(store)}
    assert (rows["small"].root, rows["large"].root) == (small, large)
    run = rows["large"].lineage["run"]
    assert run["data"] == {name: material.train[name].digest for name in WEIGHTS}
    assert "stages" not in run
    assert (
        run["budget"] == {"tokens": 4096 * 60, "seconds": None} and run["settings"]["balance"] == "quantile"
    )

    before = len(told)
    assert make(family, "small", of(material, SMALL, told)) == small  # the same inputs: nothing is done
    assert make(family, "small", None) == small  # nothing said of them: what is there is kept
    assert len(told) == before

    here = (home, store, Clock(), OPERATOR, family)
    quality = {name: measure(*here, family.tier(name), material.held_out, lambda *_: None) for name in rows}
    again = measure(*here, family.tier("large"), material.held_out, lambda *_: None)
    assert all((again[name].nats_N == quality["large"][name].nats_N).all() for name in again)
    estimate, low, high = step_up(quality["large"], quality["small"])
    assert 0 < low < estimate < high
    assert step_up(quality["small"], quality["large"])[0] == pytest.approx(-estimate)

    student = make(family, "student", of(material, Budget(tokens=2048 * 30)))
    assert make(family, "student", of(material, Budget(tokens=2048 * 30))) == student
    lineage = registered(store)[-1].lineage
    assert lineage["parents"] == lineage["run"]["parents"] == {"large": large}
    taught = measure(*here, family.tier("student"), material.held_out, lambda *_: None)
    make(family, "student", of(material, Budget(tokens=2048)))
    begun = measure(*here, family.tier("student"), material.held_out, lambda *_: None)
    assert step_up(taught, begun)[1] > 0

    longer = make(family, "small", of(material, Budget(tokens=4096 * 21)))
    assert longer != small  # another budget: other weights
    assert make(family, "small", of(material, SMALL)) == small  # and back: what is there is current again
    assert [row for row in registered(store) if row.tier == "small"][-1].root == small


def test_a_family_says_how_its_steps_are_cut(family: Family, material: Material) -> None:
    """All switches at once, on experts, and they are part of what the weights follow from."""
    cut = "train = { rows = 4, accumulate = 2, recompute = true, balance = 'bias' }"
    text = FAMILY.replace("width = 32, bias = true } }", "width = 32, bias = true } }\n" + cut, 1)
    told: list[Metrics] = []
    make(parse_family(text.encode(), "steps.toml"), "large", of(material, Budget(tokens=2048 * 3), told))
    settings = registered(Store.open(Home.open()))[-1].lineage["run"]["settings"]
    assert (settings["rows"], settings["accumulate"], settings["recompute"]) == (4, 2, True)
    assert settings["balance"] == "bias" and [metrics.tokens for metrics in told] == [2048, 4096, 6144]
    assert told[-1].expert_load is not None


def test_each_seed_is_a_tier_of_its_own_and_all_are_kept(family: Family, material: Material) -> None:
    told: list[Metrics] = []
    few = Budget(tokens=4096 * 3)
    roots = [
        make(family, "small", replace(of(material, few, told), seed=seed)) for seed in (2, 1, 0, 1, 2, 0)
    ]
    assert len(set(roots)) == 3 and roots[:3] == [roots[4], roots[3], roots[5]]
    assert len(told) == 9  # each was trained once
    assert registered(Store.open(Home.open()))[-1].root == roots[2]  # the last one asked for is in use


def test_a_student_ends_in_its_own_words(family: Family, material: Material) -> None:
    make(family, "large", of(material, LARGE))
    text = FAMILY.replace("made_by.truth = 0.2", "made_by.truth = 0.2\nmade_by.on_policy = 0.5")
    told: list[Metrics] = []
    own = parse_family(text.encode(), "steps.toml")
    root = make(own, "student", of(material, Budget(tokens=2048 * 4), told))
    assert [metrics.step for metrics in told] == [1, 2, 1, 2]
    assert make(own, "student", of(material, Budget(tokens=2048 * 4), told)) == root and len(told) == 4


def test_a_revoked_root_is_not_given_a_new_decision(family: Family, material: Material) -> None:
    """Also when the tier has other weights by now, whose decision stands."""
    small = make(family, "small", of(material, SMALL))
    store = Store.open(Home.open())
    with store.read() as conn:
        (decision,) = decisions_in(conn, family.name)
    handling = open_handling(decision.envelope, trusted_keys(Home.open()))
    revoke_decision(store, Clock(), OPERATOR, handling.id, "a finding")
    other = make(family, "small", of(material, Budget(tokens=4096 * 21)))
    assert other != small
    with pytest.raises(BuildError, match="was revoked; building does not renew it"):
        make(family, "small", of(material, SMALL))


def test_experts_are_copied_without_a_budget_and_trained_with_one(family: Family, material: Material) -> None:
    make(family, "small", of(material, SMALL))
    copied = make(family, "wide", None)
    home = Home.open()
    here = (home, Store.open(home), Clock(), OPERATOR, family)

    def quality(tier: str):
        return measure(*here, family.tier(tier), material.held_out, lambda *_: None)

    assert step_up(quality("wide"), quality("small"))[0] == pytest.approx(0, abs=2e-3)  # the same function
    told: list[Metrics] = []
    budget = Budget(tokens=2048 * 100)
    trained = make(family, "wide", of(material, budget, told))
    assert trained != copied and make(family, "wide", of(material, budget)) == trained
    assert [metrics.step for metrics in told if metrics.step == 1] == [1] * 5  # four experts and the merge
    assert told[-1].expert_load == 2.5  # every token goes to the parent's own, one of its two
    files = read_weights(home.weights_dir(trained), weights_keyring(home), trained)
    assert files.tensors["layers.0.mlp.gate.e_score_correction_bias"].tolist() == [PARENT_BIAS, 0, 0, 0, 0]
    (place,) = (home.path / "runs").glob("steps-wide-*/merged")
    run = load_checkpoint(place, weights_keyring(home))
    parent = read_weights(home.weights_dir(copied), weights_keyring(home), copied).tensors
    name = "layers.0.input_layernorm.weight"  # outside the experts: most of the way, not all of it
    assert run is not None and not torch.equal(run.tensors[f"master.{name}"], parent[name])
    kept = torch.lerp(parent[name], run.tensors[f"master.{name}"], COMMON_KEPT)
    assert torch.equal(files.tensors[name], kept)
    # So it is of the parent's own MLP, and not of the experts; served within one step of int8.
    down = "layers.0.mlp.experts.down_proj"
    was = plain_tensors(parent)[down][0]
    became = run.tensors[f"master.{down}"]
    wanted = torch.stack([torch.lerp(was, became[0], COMMON_KEPT), *became[1:]])
    step = wanted.abs().amax(-1, keepdim=True) / 127
    assert ((plain_tensors(files.tensors)[down] - wanted).abs() <= 1.01 * step).all()
    assert (became[0] - wanted[0]).abs().mean() > 2 * step.mean()
    estimate, low, _ = step_up(quality("wide"), quality("small"))
    assert 0 < low < estimate
    assert make(family, "wide", None) == trained  # nothing said of training: what is there is kept


def test_experts_are_trained_only_behind_a_selection_bias(family: Family, material: Material) -> None:
    make(family, "small", of(material, SMALL))
    unbiased = parse_family(FAMILY.replace("width = 64, bias = true", "width = 64").encode(), "steps.toml")
    assert unbiased.tier("wide") != family.tier("wide")
    with pytest.raises(TrainError, match="The routers of wide have no selection bias"):
        make(unbiased, "wide", of(material, Budget(tokens=2048 * 20)))


def test_a_stopped_build_goes_on(family: Family, material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(family, "small", of(material, SMALL))
    monkeypatch.setenv("MYTHOS_HOME", str(Home.open().path.parent / "other"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    class Stopped(Exception):
        pass

    def stop(metrics: Metrics) -> None:
        if metrics.step == 7:
            raise Stopped

    with pytest.raises(Stopped):
        make(family, "small", Training(material, SMALL, stop, compiled=False))
    assert not registered(Store.open(Home.open()))
    told: list[Metrics] = []
    assert make(family, "small", of(material, SMALL, told)) == whole
    assert [metrics.step for metrics in told] == list(range(7, 21))  # step 7 was told before it was kept


def test_conversations_and_pairs_follow_distillation(
    family: Family, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage has its share of the budget, a stop in the last one changes nothing, and what the tier and
    its parent decline stands in its record."""
    monkeypatch.setattr(stages, "exchanges", lambda: exchanges()[:24])
    monkeypatch.setattr(stages, "MOST", 48)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    large = make(family, "large", of(material, SMALL))
    budget, told = Budget(tokens=2048 * 30), []

    class Stopped(Exception):
        pass

    def stop(metrics: Metrics) -> None:
        told.append(metrics)
        if len(told) == 26:
            raise Stopped

    with pytest.raises(Stopped):
        make(family, "taught", Training(material, budget, stop, compiled=False))
    taught = make(family, "taught", of(material, budget, told))
    steps = [metrics.step for metrics in told]
    assert steps == [*range(1, 16), *range(1, 10), 1, 2, *range(2, 7)]  # 0.5, 0.3 and 0.2 of the tokens
    assert told[24].loss == pytest.approx(math.log(2), abs=0.02)  # no pair is preferred yet
    home = Home.open()
    store = Store.open(home)
    lineage = registered(store)[-1].lineage
    run = lineage["run"]
    assert set(run["data"]) == {*WEIGHTS, SAFETY} == set(run["weights"])
    assert list(run["stages"]) == ["dpo", "sft"] and run["stages"]["dpo"]["settings"]["optimiser"] == "adamw"
    place = run_directory(home, family.tier("taught"), run)
    outcome = json.loads((place / "dpo" / stages.OUTCOME).read_bytes())
    assert outcome["pairs"] >= 12 and outcome["pairs"] + outcome["too_long"] == sum(
        outcome["principles"].values()
    )
    assert outcome["in_order"] > outcome["pairs"] / 2
    assert not any(b"prompt" in file.read_bytes() for file in (place / "pairs").rglob("*.enc"))

    shutil.rmtree(place)
    shutil.rmtree(home.weights_dir(taught))
    assert make(family, "taught", of(material, budget)) == taught  # in one go
    assert make(family, "taught", of(material, budget, told)) == taught and len(told) == len(steps)

    here = (home, store, Clock(), OPERATOR, load_standing(home, store, family).family)
    found = {
        name: measure_refusals(*here, here[-1].tier(name), lambda *_: None) for name in ("large", "taught")
    }
    assert found["taught"].root == taught and (found["taught"].harmful, found["taught"].fair) == (80, 80)
    for _ in range(2):  # the second time nothing is new
        record_refusals(store, Clock(), OPERATOR, family, found)
    rows = {row.tier: row for row in registered(store)}
    measured = rows["taught"].lineage["measured"][SUITE]
    assert measured["root"] == taught and measured["parents"]["large"]["root"] == large
    assert measured["parents"]["large"]["declined"] == found["large"].declined
    assert rows["large"].lineage["measured"][SUITE]["parents"] == {}
    with store.read() as conn:
        events = [json.loads(event) for event in conn.execute(sa.select(ledger.c.event)).scalars()]
    assert [e["tier"] for e in events if e["kind"] == "weights.measured"] == ["large", "taught"]
    assert make(family, "taught", of(material, budget, told)) == taught and len(told) == len(steps)


def test_stages_of_experts_follow_the_merge(family: Family, material: Material) -> None:
    make(family, "small", of(material, SMALL))
    text = FAMILY.replace("copies = 5, share = 0.5,", "copies = 5, share = 0.5, sft = 0.5,")
    staged = parse_family(text.encode(), "steps.toml")
    told: list[Metrics] = []
    make(staged, "wide", of(material, Budget(tokens=2048 * 20), told))
    assert [metrics.step for metrics in told][-10:] == list(range(1, 11))
    assert [metrics.step for metrics in told if metrics.step == 1] == [1] * 6


def test_without_a_pair_that_fits_the_stage_changes_nothing(
    family: Family, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 256 letters hold none of these; the tier is what its main part made of it."""
    monkeypatch.setattr(stages, "exchanges", lambda: exchanges()[:3])
    text = FAMILY.replace("learning_rate = 3e-3 }", "learning_rate = 3e-3, dpo = 0.5 }", 1)
    staged = parse_family(text.encode(), "steps.toml")
    root = make(staged, "small", of(material, Budget(tokens=2 * 4096 * 20)))
    assert root == make(family, "small", of(material, SMALL))
    (place,) = (Home.open().path / "runs").glob("steps-small-*/dpo")
    outcome = json.loads((place / stages.OUTCOME).read_bytes())
    assert outcome["pairs"] == outcome["in_order"] == 0 < outcome["too_long"]


@pytest.mark.parametrize(
    "shares", ["sft = 0.6, dpo = 0.4", "sft = 0.0", "dpo = -0.1", "dpo = nan", "sft = 1"]
)
def test_shares_of_stages_leave_something(shares: str) -> None:
    text = FAMILY.replace("learning_rate = 3e-3 }", f"learning_rate = 3e-3, {shares} }}", 1)
    with pytest.raises(FamilyError, match="sft"):
        parse_family(text.encode(), "steps.toml")


def test_a_tier_to_train_needs_a_budget(family: Family) -> None:
    with pytest.raises(BuildError, match="how long was not said") as raised:
        make(family, "small", None)
    assert raised.value.cure == "mythos build steps --tier small --budget 45m"


def test_another_vocabulary_is_told(family: Family, material: Material) -> None:
    narrow = parse_family(FAMILY.replace("vocab = 300", "vocab = 290").encode(), "steps.toml")
    with pytest.raises(TrainError, match="300 tokens, small knows 290"):
        make(narrow, "small", of(material, SMALL))


def test_what_is_not_allowed_is_not_measured(family: Family, material: Material) -> None:
    home = Home.open()
    with pytest.raises(TrainError, match="cannot be measured"):
        measure(
            home, Store.open(home), Clock(), OPERATOR, family, family.tier("small"), material.held_out, print
        )


def test_a_step_up_is_paired() -> None:
    """The same noise on both sides cancels: a small gain on every text is seen through it."""
    random = np.random.default_rng(0)
    hard, sizes = random.uniform(50, 5000, 200), np.full(200, 1000)
    worse = {"a": Prediction(hard, sizes), "b": Prediction(hard * 2, sizes)}
    better = {"a": Prediction(hard - 7, sizes), "b": Prediction(hard * 2 - 14, sizes)}
    estimate, low, high = step_up(better, worse)
    assert estimate == pytest.approx((7 + 14) / 2 / math.log(2) / 1000)
    assert high - low < 1e-9
    _, low, high = step_up(worse, worse)
    assert low == high == 0
