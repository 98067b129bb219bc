"""A mesh computes what one process computes. Two processes here; four in the tests marked slow."""

import json
from pathlib import Path

import pytest
import torch

from mythos.plan.errors import PlanError
from mythos.train.parallel.launch import joined, launch
from mythos.train.parallel.mesh import Shape, check, parse_mesh
from mythos.train.settings import TrainError, TrainSettings
from tests.train.meshes import CONFIGS, DENSE, MOE, alone, losses, settings_of

# float32. A loss near ln 64 = 4.16 is known to 5e-7; sums come in another order, and Muon works in bf16,
# where a last bit of the gradient may move an update by a hundredth.
CLOSE = {"adamw": (2e-6, 2e-6), "muon": (3e-4, 2e-3)}

TWO = [
    ("tied", "dp=2", 1, "adamw", False),
    ("tied", "tp=2", 1, "adamw", True),
    ("moe", "ep=2", 1, "adamw", False),
    ("tied", "pp=2", 3, "adamw", False),
    ("dense", "cp=2", 1, "adamw", False),
    ("mla", "tp=2", 1, "adamw", False),
    ("dense", "dp=2", 1, "muon", False),
    ("dense", "pp=2", 1, "adamw", False),
    ("mla", "pp=2", 1, "adamw", False),
]
# With one micro-batch a pipeline computes the first loss in the order of one process. Gradients' norms are
# summed over ranks, and clipping carries their last bit on.
SAME_ORDER = TWO[-2:]
FOUR = [
    ("mla", "pp=2,ep=2", 2, "adamw", False),
    ("mla", "dp=2,ep=2", 1, "adamw", True),
    ("mla", "ep=2,tp=2", 1, "adamw", False),
    ("mla", "cp=2,tp=2", 1, "adamw", False),
    ("mla", "ep=2,cp=2", 2, "adamw", False),
    ("moe", "dp=2,pp=2", 3, "adamw", False),
    ("moe", "ep=4", 1, "adamw", False),
    ("tied", "pp=4", 5, "adamw", True),
    ("tied", "dp=2,tp=2", 1, "muon", False),
    ("mla", "pp=2,tp=2", 1, "muon", False),
    ("mla", "ep=2,dp=2", 1, "muon", False),
]


def compared(place: Path, cases: list, number: int) -> None:
    name, mesh, *rest = cases[number]
    settings = settings_of(*rest)
    found = [json.loads(file.read_text())[number] for file in sorted(place.glob("*.json"))]
    assert all(one == found[0] for one in found)  # every rank knows the same
    want = alone(CONFIGS[name], settings, parse_mesh(mesh).replicas)
    if cases[number] in SAME_ORDER:
        assert found[0][0][0] == want[0][0]
    of_loss, of_norm = CLOSE[settings.optimiser]
    for (loss, norm), (wanted_loss, wanted_norm) in zip(found[0], want, strict=True):
        assert loss == pytest.approx(wanted_loss, abs=of_loss)
        assert norm == pytest.approx(wanted_norm, rel=of_norm)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("two")
    launch(2, losses, (str(place), TWO))
    return place


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("four")
    launch(4, losses, (str(place), FOUR))
    return place


@pytest.mark.parametrize("number", range(len(TWO)), ids=["-".join(map(str, case)) for case in TWO])
def test_two_ranks_equal_one_process(two: Path, number: int) -> None:
    compared(two, TWO, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FOUR)), ids=["-".join(map(str, case)) for case in FOUR])
def test_four_ranks_equal_one_process(four: Path, number: int) -> None:
    compared(four, FOUR, number)


@pytest.mark.parametrize(
    ("config", "mesh", "said"),
    [
        (DENSE, "tp=3", "tp is 3, which does not divide the model's heads"),
        (DENSE, "tp=4", "tp is 4, which does not divide the model's key-value heads (2)"),
        (MOE, "ep=3", "ep is 3, which does not divide the model's routed experts (8)"),
        (DENSE, "ep=2", "ep is 2 but the model has no experts"),
        (DENSE, "pp=6", "pp is 6, and 4 layers leave a pipeline rank without one"),
        (DENSE, "cp=3", "2 x cp is 6, which does not divide sequence"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model(config, mesh: str, said: str) -> None:
    with pytest.raises((TrainError, PlanError)) as error:
        check(config, parse_mesh(mesh), TrainSettings(rows=1, length=32))
    assert said in str(error.value) and str(error.value).count(".") == 2  # what is wrong, and the cure


@pytest.mark.parametrize("text", ["", "pp", "pp=0", "pp=2,pp=2", "xp=2", "pp=-1", "pp=1e3", "pp=99999999"])
def test_what_is_no_mesh(text: str) -> None:
    with pytest.raises(TrainError):
        parse_mesh(text)


def test_places_and_ranks() -> None:
    shape = parse_mesh("pp=2, ep=3,dp=4,tp=2")
    assert [shape.rank(shape.at(rank)) for rank in range(shape.ranks)] == list(range(48))
    for dimensions in (("pp",), ("dp", "ep", "cp"), ("dp", "cp", "tp")):
        groups = {tuple(shape.among(rank, dimensions)) for rank in range(48)}
        assert sorted(rank for group in groups for rank in group) == list(range(48))
    assert shape.among(0, ("tp",)) == [0, 1]  # neighbours


def test_a_missing_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainError, match="needs 4 ranks, and 1 were started"), joined(Shape(pp=4), "cpu"):
        pass
    assert not torch.distributed.is_initialized()
