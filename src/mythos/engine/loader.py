"""The only way to a loaded tier: a decision in, verified weights out."""

from dataclasses import dataclass

import torch
from llguidance import LLTokenizer

from mythos.data.tokenizer import Tokenizer
from mythos.engine.masks import grammar_tokenizer
from mythos.engine.ranks import Ranks, meet, start
from mythos.engine.split import split
from mythos.model.errors import PlainWeights
from mythos.model.parts import check_ranks, cuts, load_part
from mythos.model.quant import Int8Linear, load_served
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import WeightsFiles, read_part, read_weights
from mythos.records.decision import Handling
from mythos.records.errors import MythosError
from mythos.records.permit import Action
from mythos.records.release import Release
from mythos.spec.family import Tier
from mythos.store.home import Home
from mythos.store.weights_key import weights_keyring


class NotAllowed(MythosError):
    """No valid decision for exactly these weights."""

    reason = "NO_DECISION_FOR_ROOT"


@dataclass(frozen=True, slots=True)
class LoadedTier:
    """Weights in memory that were hashed as they were read, and what belongs to them.

    `bytes` counts the form that a backend makes of them too: bf16 copies, or the native order.
    With `ranks`, `model` has the part of rank 0 and `bytes` counts those of all.
    """

    root: str
    profile: str
    backend: str
    tier: Tier
    model: Transformer
    tokenizer: Tokenizer
    chat_template: str
    grammar_tokenizer: LLTokenizer
    eos: torch.Tensor
    dtype: torch.dtype
    bytes: int
    ranks: Ranks | None = None


class Loader:
    """Loads a tier from the data directory when a decision allows it, over `ranks` processes."""

    def __init__(self, home: Home, ranks: int = 1) -> None:
        self._home, self._ranks = home, ranks
        self._threads = max(1, torch.get_num_threads() // ranks)

    def load(self, tier: Tier, decision: Handling | Release) -> LoadedTier:
        """Verify, read, hash, build.

        Raises NotAllowed when the decision is not for this root or does not allow loading, WeightsError when
        what lies on disk is not what the root names; CannotSplit and RankLost with several ranks.
        """
        again = f"mythos build {tier.name} --family {tier.family}"
        root = tier.root or ""
        allowed(tier.family, tier.name, root, decision)
        ranks = None
        try:
            if self._ranks > 1:
                check_ranks(tier.config, self._ranks)
                ranks = start(
                    self._home, tier.family, tier.name, root, decision.id, self._ranks, self._threads
                )
                torch.set_num_threads(self._threads)
                model, files = read_rank(self._home, root, 0, self._ranks)
                split(model, meet(ranks))
            else:
                files = read_weights(self._home.weights_dir(root), weights_keyring(self._home), root)
                model = load_served(files.config, files.tensors)
                # Prediction modules are for training: nothing here runs them.
                model.mtp = torch.nn.ModuleList()
        except BaseException as error:
            if ranks is not None:
                ranks.close()
            if isinstance(error, PlainWeights):
                raise PlainWeights(error.message, f"Encrypt them where they lie: {again}") from None
            raise
        tokenizer = Tokenizer.from_bytes(files.files["tokenizer.json"])
        return LoadedTier(
            root=root,
            profile="none",
            backend="eager-int8" if ranks is None else f"sharded-int8-x{ranks.count}",
            tier=tier,
            model=model,
            tokenizer=tokenizer,
            chat_template=files.files["chat_template.jinja"].decode(),
            grammar_tokenizer=grammar_tokenizer(files.files["tokenizer.json"], sorted(tokenizer.eos_ids)),
            eos=torch.tensor(sorted(tokenizer.eos_ids)),
            dtype=torch.bfloat16,
            bytes=held_bytes(model) + (0 if ranks is None else ranks.bytes),
            ranks=ranks,
        )


def allowed(family: str, tier: str, root: str, decision: Handling | Release | None) -> None:
    """NotAllowed unless `decision` is for exactly these weights and allows loading."""
    named = decision.subject if isinstance(decision, Release) else decision
    loading = isinstance(decision, Release) or (decision is not None and Action.LOAD in decision.actions)
    if (
        named is None
        or not root
        or (named.family, named.tier, named.root) != (family, tier, root)
        or not loading
    ):
        raise NotAllowed(
            f"no decision allows loading the weights of {tier}.",
            f"Register them again: mythos build {tier} --family {family}",
        )


def read_rank(home: Home, root: str, rank: int, ranks: int) -> tuple[Transformer, WeightsFiles]:
    """What one of `ranks` holds of the weights, verified, and their files."""
    files = read_part(
        home.weights_dir(root), weights_keyring(home), root, lambda config: cuts(config, rank, ranks)
    )
    return load_part(files.config, files.tensors), files


def held_bytes(model: Transformer) -> int:
    """Bytes of a model's tensors, each counted once, and of the form that a backend makes of them."""
    held = {t.data_ptr(): t.nbytes for t in [*model.parameters(), *model.buffers()]}
    wide = sum(2 * module.weight.numel() for module in model.modules() if isinstance(module, Int8Linear))
    return sum(held.values()) + wide
