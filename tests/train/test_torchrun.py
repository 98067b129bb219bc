"""The command under torchrun: trains, goes on, exports, and says what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mythos.model.checkpoint import load_checkpoint
from mythos.train.recipes import WEIGHTS
from tests.data.small import build, texts


@pytest.mark.slow
def test_training_a_tier(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    (home / "data" / "nano").mkdir(parents=True, mode=0o700)
    for place in (home, home / "data"):
        place.chmod(0o700)
    for name in WEIGHTS:
        build(home / "data" / "nano", texts(60, 120), name=name)
    env = {
        **os.environ,
        "MYTHOS_HOME": str(home),
        "MYTHOS_KEYS": str(tmp_path / "keys"),
        "OMP_NUM_THREADS": "1",
    }
    module = ["mythos.train.parallel", "nano", "--tier", "haiku", "--rows", "1", "--accumulate", "2"]

    def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", *module]
        return subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=300)

    done = torchrun("--mesh", "pp=2", "--steps", "3", "--every", "1", "--export", str(out))
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["1", "2", "3"]
    assert load_checkpoint(out).config.layers == 4
    done = torchrun("--mesh", "dp=2", "--steps", "3")
    assert done.returncode != 0
    assert "A step has 2 rows in the checkpoint, and 4 on this mesh." in done.stderr
    done = torchrun("--mesh", "dp=4", "--steps", "3")
    assert done.returncode != 0 and "needs 4 ranks, and 2 were started" in done.stderr
    # Its family says nothing of balance, and the default is for one process.
    done = torchrun("--tier", "capybara", "--mesh", "ep=2", "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 1 ")
