"""What a training run shows, and when it waits."""

import os
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mythos.cli.output import amount, note
from mythos.store.home import Home, private_directory

if TYPE_CHECKING:
    from mythos.train.loop import Metrics

EVERY = 10.0  # seconds between lines


def reporter(title: str) -> "Callable[[Metrics], None]":
    """One line now and then: loss, speed, share of the machine's matrix products, time left."""
    shown = 0.0

    def report(metrics: "Metrics") -> None:
        nonlocal shown
        if time.monotonic() - shown < EVERY:
            return
        shown = time.monotonic()
        left = divmod(round(metrics.seconds_left), 60)
        load = "" if metrics.expert_load is None else f", busiest expert {metrics.expert_load:.2f}"
        note(
            f"{title}: step {metrics.step:,}, {amount(metrics.tokens)} tokens, loss {metrics.loss:.3f}, "
            f"{metrics.tokens_per_second:,.0f} tok/s ({metrics.peak_share:.2f} of peak){load}, "
            f"{left[0]}:{left[1]:02d} left"
        )

    return report


def compiler(home: Home) -> bool:
    """Whether torch.compile can work here; without a C++ compiler training goes on, slower.

    What it compiles holds no weights. It lies in the data directory, which is private, and its cache of
    graphs, which is pickled, stays off.
    """
    private_directory(home.cache / "inductor")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(home.cache / "inductor")
    os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"
    if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"):
        return True
    note("no C++ compiler (g++): training without torch.compile, at about two thirds of the speed")
    return False
