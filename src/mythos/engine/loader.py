"""The only way to a loaded tier: a decision in, verified weights out."""

from dataclasses import dataclass

import torch
from llguidance import LLTokenizer

from mythos.data.tokenizer import Tokenizer
from mythos.engine.masks import grammar_tokenizer
from mythos.model.errors import PlainWeights
from mythos.model.quant import Int8Linear, load_served
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import read_weights
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


class Loader:
    """Loads a tier from the data directory when a decision allows it."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def load(self, tier: Tier, decision: Handling | Release) -> LoadedTier:
        """Verify, read, hash, build.

        Raises NotAllowed when the decision is not for this root or does not allow loading, WeightsError when
        what lies on disk is not what the root names.
        """
        again = f"mythos build {tier.name} --family {tier.family}"
        named = decision.subject if isinstance(decision, Release) else decision
        about = (named.family, named.tier, named.root)
        loading = isinstance(decision, Release) or Action.LOAD in decision.actions
        if about != (tier.family, tier.name, tier.root) or tier.root is None or not loading:
            raise NotAllowed(
                f"no decision allows loading the weights of {tier.name}.",
                f"Register them again: {again}",
            )
        try:
            files = read_weights(self._home.weights_dir(tier.root), weights_keyring(self._home), tier.root)
        except PlainWeights as error:
            raise PlainWeights(error.message, f"Encrypt them where they lie: {again}") from None
        model = load_served(files.config, files.tensors).eval()
        model.mtp = torch.nn.ModuleList()  # prediction modules are for training: nothing here runs them
        tokenizer = Tokenizer.from_bytes(files.files["tokenizer.json"])
        held = {t.data_ptr(): t.nbytes for t in [*model.parameters(), *model.buffers()]}
        wide = sum(2 * module.weight.numel() for module in model.modules() if isinstance(module, Int8Linear))
        return LoadedTier(
            root=tier.root,
            profile="none",
            backend="eager-int8",
            tier=tier,
            model=model,
            tokenizer=tokenizer,
            chat_template=files.files["chat_template.jinja"].decode(),
            grammar_tokenizer=grammar_tokenizer(files.files["tokenizer.json"], sorted(tokenizer.eos_ids)),
            eos=torch.tensor(sorted(tokenizer.eos_ids)),
            dtype=torch.bfloat16,
            bytes=sum(held.values()) + wide,
        )
