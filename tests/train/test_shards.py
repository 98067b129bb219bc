"""Checkpoints of a job: taken up by other meshes, and after a rank was killed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mythos.train.checkpoint import CheckpointError
from mythos.train.parallel.launch import launch
from mythos.train.parallel.mesh import Shape, make_mesh
from mythos.train.parallel.model import Box, RankModel, fill, local_parameters, shard
from mythos.train.parallel.run import ATTEMPTS, _same
from mythos.train.parallel.shards import _overlap, find, whole_tensors
from mythos.train.settings import TrainError, TrainSettings
from tests.train.meshes import EVERY, MOE, TRAINED, deserted, interrupted, keyring, trained

# (run, mesh, accumulate, model, steps): the first run of each pair is stopped, the second goes on elsewhere.
ONE = [("whole", "dp=2", 1, "moe", TRAINED), ("moved", "ep=2", 1, "moe", 3), ("deep", "dp=2", 1, "mla", 3)]
THEN = [("moved", "dp=2", 1, "moe", TRAINED), ("deep", "pp=2", 2, "mla", TRAINED)]
DEEP = [("deep-whole", "pp=2", 2, "mla", TRAINED)]


def losses(run: Path, mesh: str) -> dict[int, float]:
    return dict(json.loads((run / f"0-{mesh}.json").read_text()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    place.chmod(0o700)
    launch(2, trained, (str(place), ONE))
    launch(2, trained, (str(place), THEN + DEEP))
    return place


def test_another_mesh_goes_on(place: Path) -> None:
    """Experts and their momenta move to other ranks; the losses are those of the run that was not stopped."""
    straight, moved = losses(place / "whole", "dp=2"), losses(place / "moved", "dp=2")
    assert sorted(moved) == [4, 5, 6]
    for step, loss in moved.items():
        assert loss == pytest.approx(straight[step], abs=1e-3)  # Muon in bf16 (test_parallel.py)
    straight, moved = losses(place / "deep-whole", "pp=2"), losses(place / "deep", "pp=2")
    for step, loss in moved.items():
        assert loss == pytest.approx(straight[step], abs=2e-5)  # as far as three steps of AdamW carry 2e-6


def test_what_is_saved_is_the_whole(place: Path) -> None:
    found = find(place / "deep", keyring())
    assert found is not None and found.step == TRAINED
    tensors, others = whole_tensors(found), find(place / "deep-whole", keyring())
    assert others is not None
    for name, tensor in whole_tensors(others).items():
        assert torch.allclose(tensors[name], tensor, atol=2e-4), name
    assert {path.name for path in (place / "deep" / "shards").iterdir()} == {"step-00000006"}


def test_a_killed_rank_costs_an_interval_at_most(place: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert launch(2, interrupted, (str(tmp_path), "run"), restarts=1) == 1
    starts = [json.loads(line) for line in (tmp_path / "run" / ATTEMPTS).read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 2]  # it was killed in step 5, when 4 were done
    assert 4 - starts[1]["step"] <= EVERY
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    straight = losses(place / "whole", "dp=2")
    assert {row["step"]: row["loss"] for row in rows} == straight  # bit for bit, each step once
    assert 0 < rows[-1]["goodput"] < 1


def test_a_lost_rank_is_said_in_a_sentence(tmp_path: Path) -> None:
    launch(2, deserted, (str(tmp_path),))
    said = (tmp_path / "said").read_text()
    assert said.startswith("Rank 0 lost another of 2 ranks") and "last checkpoint" in said


def test_files_that_are_not_of_the_checkpoint(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "whole", run)
    step = next((run / "shards").iterdir())
    other = next((place / "moved" / "shards").iterdir())
    shutil.rmtree(step / "rank-00001")
    with pytest.raises(CheckpointError, match="damaged"):
        find(run, keyring())
    shutil.copytree(other / "rank-00001", step / "rank-00001")
    with pytest.raises(CheckpointError, match="The files of rank 1 in .* are not those of this checkpoint"):
        find(run, keyring())
    shutil.rmtree(step / "whole")
    assert find(run, keyring()) is None  # not all had written


def test_a_step_of_other_rows() -> None:
    with pytest.raises(TrainError, match="8 rows in the checkpoint, and 4 on this mesh"):
        _same({"rows": 8}, {"rows": 4})


def test_overlaps() -> None:
    box = Box((8, 4), (2, 0), (4, 4))
    assert _overlap(box, Box((8, 4), (5, 1), (3, 2))) == Box((8, 4), (5, 1), (1, 2))
    assert _overlap(box, Box((8, 4), (6, 0), (2, 4))) is None
    assert _overlap(box, Box((9, 4), (5, 1), (3, 2))) is None


def test_fresh_weights_do_not_depend_on_the_mesh(tmp_path: Path) -> None:
    """One process plays both ranks of a fake job: each draws what the whole has there."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    drawn = []
    for shape, rank in ((Shape(), 0), (Shape(ep=2), 1), (Shape(tp=2), 1), (Shape(dp=2), 0)):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=shape.ranks)
        try:
            model = RankModel(MOE, TrainSettings(), make_mesh(shape, rank))
            shard(model, "cpu", torch.float32)
            fill(model, 7)
            drawn.append((dict(model.boxes), {n: t.clone() for n, t in local_parameters(model).items()}))
        finally:
            dist.destroy_process_group()
    whole = drawn[0][1]
    for boxes, tensors in drawn[1:]:
        for name, tensor in tensors.items():
            assert torch.equal(tensor, whole[name][boxes[name].slices]), name
    assert os.environ.get("RANK") is None
