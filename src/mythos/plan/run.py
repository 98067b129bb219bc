"""A training run as a whole: failures, checkpoints, spares; accelerator-hours, days, money, energy, carbon.

Every function takes numbers or numpy arrays of one shape, so that a draw of uncertain inputs is one call.

Goodput is the share of wall time that ends up in the weights. With failures at exponential intervals of mean
M, a checkpoint of length d after every t of work, and R to notice a failure and be back at the last
checkpoint, the expected wall time of one segment is M e^(R/M) (e^((t+d)/M) - 1), also when failures strike
during checkpoint or restart (Daly 2006, "A higher order estimate of the optimum checkpoint interval for
restart dumps"). The best t is Young's sqrt(2 d M) (1974) while d is far below M; Daly's series has two more
terms.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mythos.records.errors import MythosError

Number = float | NDArray[np.float64]

HOUR = 3600.0
HARDWARE_SHARE = 0.78  # of unexpected interruptions (Llama 3, arXiv 2407.21783, section 3.3.4; recalled)
SPARES_RISK = 0.01  # of needing more spares than there are at a given moment
SECONDS_OF_YEAR = 365.25 * 24 * HOUR
LONGEST = 100 * SECONDS_OF_YEAR


class RunError(MythosError):
    """A run that cannot be: no accelerators, no work, or one that would never end."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run takes. Fields are arrays when the inputs were."""

    goodput: Number
    interval: Number  # seconds of work between checkpoints
    interruptions: Number  # expected over the run
    spares: Number  # accelerators that stand by
    seconds: Number  # wall time
    accelerator_hours: Number  # spares included
    kwh: Number


def mean_time_between_failures(accelerators: Number, per_million_hours: Number) -> Number:
    """Seconds between interruptions of a job on all of them, at that many per million accelerator-hours of
    one."""
    return 1e6 * HOUR / (per_million_hours * accelerators)


def checkpoint_interval(mtbf: Number, checkpoint: Number) -> Number:
    """Seconds of work between checkpoints that lose least: Daly's series, M itself when d >= 2 M."""
    half = checkpoint / (2 * np.asarray(mtbf))
    root = np.sqrt(2 * checkpoint * mtbf)
    series = root * (1 + np.sqrt(half) / 3 + half / 9) - checkpoint
    return np.where(half < 1, series, mtbf)


def goodput(mtbf: Number, checkpoint: Number, restart: Number, interval: Number) -> Number:
    """Share of wall time that is kept work, from seconds; 0 when a segment would practically never end."""
    mtbf, interval = np.asarray(mtbf, dtype=float), np.asarray(interval, dtype=float)
    with np.errstate(over="ignore"):
        segment = mtbf * np.exp(restart / mtbf) * np.expm1((interval + checkpoint) / mtbf)
    return interval / segment


def spares(accelerators: Number, per_million_hours: Number, repair: Number, node: int) -> Number:
    """Accelerators that stand by, in whole nodes of `node`, for `repair` seconds of absence of a failed one.

    The nodes away at any moment are Poisson of their mean (an infinite-server queue, Palm's theorem); there
    are enough when more are away with a probability of at most `SPARES_RISK`.
    """
    away = HARDWARE_SHARE * np.asarray(per_million_hours) * accelerators / 1e6 * repair / HOUR
    return _poisson_quantile(np.asarray(away, dtype=float), 1 - SPARES_RISK) * node


def plan_run(
    work_seconds: Number,
    accelerators: int,
    node: int,
    *,
    failures: Number,
    checkpoint: Number,
    restart: Number,
    repair: Number,
    all_in_kw: float,
    load: Number,
) -> Run:
    """The run of `work_seconds` of uninterrupted training on `accelerators`, which fail in nodes of `node`.

    `failures` per million accelerator-hours, `checkpoint`, `restart` and `repair` in seconds, `load` the
    share of `all_in_kw` (per accelerator, with host, network and cooling) that is drawn. RunError when
    goodput is so low that the run would last a century.
    """
    _check(accelerators, node, work_seconds)
    mtbf = mean_time_between_failures(accelerators, failures)
    interval = checkpoint_interval(mtbf, checkpoint)
    share = goodput(mtbf, checkpoint, restart, interval)
    with np.errstate(divide="ignore"):
        seconds = work_seconds / share
    if not np.all(seconds < LONGEST):
        raise RunError(
            f"on {accelerators:,} accelerators, of which one fails every {float(np.min(mtbf)):.3g} s, the run"
            " would last more than a century",
            "plan for faster restarts, other accelerators or fewer tokens",
        )
    standby = spares(
        accelerators, failures, np.minimum(repair, seconds), node
    )  # none are away before it begins
    hours = (accelerators + standby) * seconds / HOUR
    return Run(
        goodput=share,
        interval=interval,
        interruptions=seconds / mtbf,
        spares=standby,
        seconds=seconds,
        accelerator_hours=hours,
        kwh=hours * all_in_kw * load,
    )


def _check(accelerators: int, node: int, work_seconds: Number) -> None:
    if accelerators < 1 or node < 1:
        raise RunError(f"{accelerators} accelerators in nodes of {node}", "both must be at least 1")
    work = np.asarray(work_seconds, dtype=float)
    if not (np.isfinite(work).all() and (work > 0).all()):
        raise RunError("the work of the run is no positive number of seconds", "check tokens and step time")


def _poisson_quantile(mean: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The least k with P(X <= k) >= share; by Cornish and Fisher above a mean of 500, where sums
    underflow."""
    z = NormalDist().inv_cdf(share)
    large = np.ceil(mean + z * np.sqrt(mean) + (z * z - 1) / 6)
    small = np.minimum(mean, 500.0)
    term = np.exp(-small)
    total, count = term.copy(), np.zeros_like(small)
    k = 0
    while (open_ := total < share).any():
        k += 1
        term = term * small / k
        total = total + term
        count = np.where(open_, k, count)
    return np.where(mean > 500, large, count)
