"""What a training run shows, and when it waits."""

import os
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mythos.cli.local import Records, standing
from mythos.cli.output import CommandError, amount, note
from mythos.cli.progress import progress
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family, Tier
from mythos.store.home import Home, private_directory

if TYPE_CHECKING:
    from mythos.store.answering import Idle
    from mythos.train.loop import Metrics
    from mythos.train.material import Material

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


def prepared(records: Records, family: Family) -> "tuple[Material, Idle, bool]":
    """The family's material, made where it is missing; what waits for a server; whether blocks are compiled.

    A tier that is fetched is built first: its tokenizer is the family's.
    """
    from mythos.data.train_tokenizer import CHAT_TEMPLATE
    from mythos.evaluate.items import evaluation_items
    from mythos.store.answering import Idle
    from mythos.train.material import material, own_tokenizer

    with progress(f"{family.name}: data") as report:
        fetched = [tier for tier in family.tiers if tier.made_by.kind == "fetch"]
        if fetched:
            tokenizer, template = _tokenizer_of(records, family, fetched[0])
        else:
            vocab = family.tiers[0].config.vocab
            tokenizer, template = own_tokenizer(records.home, family.name, vocab, report), CHAT_TEMPLATE
        stuff = material(records.home, family.name, tokenizer, template, evaluation_items, report)
    return stuff, Idle(records.home), compiler(records.home)


def _tokenizer_of(records: Records, family: Family, tier: Tier) -> tuple[bytes, str]:
    """Tokenizer and chat template of a tier that is fetched, which is built first if it is not there."""
    from mythos.gate.authorize import authorize
    from mythos.model.weights_dir import TEMPLATE, TOKENIZER, read_weights
    from mythos.records.permit import Action, Refusal
    from mythos.store.weights_key import weights_keyring
    from mythos.train.build import build_tier

    with progress(f"{family.name}/{tier.name}") as report:
        build_tier(records.home, records.store, records.clock, OPERATOR, family, tier, report)
    now = records.clock.now()
    answer = authorize(standing(records, family), OPERATOR, Action.LOAD, tier.name, "training", now)
    if isinstance(answer, Refusal):
        raise CommandError(f"{tier.name} cannot be used: {answer.message}", f"mythos build {tier.name}")
    directory = records.home.weights_dir(answer.root)
    files = read_weights(directory, weights_keyring(records.home), answer.root).files
    return files[TOKENIZER], files[TEMPLATE].decode()


def give_way() -> None:
    """All else on this machine goes first."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
