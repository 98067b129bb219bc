"""A tiny tier with random weights, made and registered the way real ones are. For tests of engine and server.

home = tiny_home(tmp_path)              # a data directory with one registered tier
engine = home.engine()                  # started; stop it
permit = home.permit()
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from mythos.engine.backend import Eager
from mythos.engine.choose import Maker
from mythos.engine.engine import Engine
from mythos.engine.loader import Loader
from mythos.gate.authorize import Standing, authorize, decision_on, load_standing
from mythos.gate.handling import issue_handling
from mythos.model.quant import served_form
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import write_weights
from mythos.records.clock import Clock
from mythos.records.decision import Handling
from mythos.records.permit import Action, Permit
from mythos.records.principal import OPERATOR, Principal
from mythos.records.release import Release
from mythos.spec.config import ModelConfig
from mythos.spec.family import Family, MadeBy, Price, SamplingDefaults, Tier
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.profiles import find_profile
from mythos.store.weights import register
from mythos.store.weights_key import weights_keyring

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONFIG = ModelConfig(
    vocab=512, layers=3, width=128, heads=4, kv_heads=2, head_dim=32, ffn=256, context=4096, tied=True
)


def tiny_tokenizer() -> bytes:
    """Byte-level, without merges: every byte is a token, then the control tokens, then filler."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: i for i, text in enumerate([*CONTROL, *symbols])}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True) for text in CONTROL])
    fill = CONFIG.vocab - inner.get_vocab_size()
    inner.add_tokens([AddedToken(f"<fill{i}>", special=False) for i in range(fill)])
    return json.dumps(json.loads(inner.to_str())).encode()


def tiny_tensors(config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in Transformer(config).state_dict().items():
        if tensor.dim() == 1:
            tensors[name] = torch.ones_like(tensor, dtype=torch.float32)
        else:
            tensors |= served_form(
                name, torch.randn(tensor.shape, generator=random) / tensor.shape[-1] ** 0.5
            )
    return tensors


def tiny_tier(name: str, config: ModelConfig = CONFIG) -> Tier:
    return Tier(
        name=name,
        family="tiny",
        description="random weights",
        config=config,
        made_by=MadeBy("fetch", "nowhere"),
        parents=(),
        price=Price(1.0, 2.0),
        sampling=SamplingDefaults(0.2, 0.9),
        context=config.context,
        max_output=1024,
    )


@dataclass(frozen=True, slots=True)
class TinyHome:
    home: Home
    store: Store
    clock: Clock
    family: Family

    def standing(self) -> Standing:
        return load_standing(self.home, self.store, self.family)

    def decided(self, root: str, decision: str) -> tuple[Tier, Handling | Release]:
        standing = self.standing()
        found = decision_on(standing, root, decision, self.clock.now())
        if found is None:
            raise PermissionError("the decision does not hold")
        return next(tier for tier in standing.family.tiers if tier.root == root), found

    def permit(self, tier: str = "small", org: str = "local") -> Permit:
        """A permit from the real gate; another organisation's is made from it, for tests of sharing."""
        got = authorize(self.standing(), OPERATOR, Action.ANSWER, tier, "local_tryout", self.clock.now())
        assert isinstance(got, Permit), got
        return replace(got, principal=Principal("operator", "operator", org))

    @contextmanager
    def engine(
        self,
        memory_limit: int = 2 << 30,
        backend: Maker = Eager,
        clock: Callable[[], float] = time.perf_counter,
        ranks: int = 1,
    ) -> Iterator[Engine]:
        find, loader = partial(find_profile, self.home), Loader(self.home, ranks)
        engine = Engine(loader, self.decided, memory_limit, self.clock.now, find, backend, clock)
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()


def tiny_home(path: Path, names: tuple[str, ...] = ("small",), config: ModelConfig = CONFIG) -> TinyHome:
    """A data directory under `path` with a tier of random weights for each of `names`."""
    home = Home.open(path / "home")
    store = Store.open(home)
    clock = Clock()
    return TinyHome(home, store, clock, tiny_tiers(home, store, clock, names, config))


def tiny_tiers(
    home: Home, store: Store, clock: Clock, names: tuple[str, ...], config: ModelConfig = CONFIG
) -> Family:
    """Tiers of random weights, registered in a data directory that exists."""
    family = Family("tiny", "for tests", "none", tuple(tiny_tier(name, config) for name in names))
    parent, keyring = home.weights_dir("0" * 64).parent, weights_keyring(home)
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for seed, name in enumerate(names):
        root = write_weights(parent, keyring, config, tiny_tensors(config, seed), tiny_tokenizer(), TEMPLATE)
        envelope = issue_handling(home, clock, "tiny", name, root)
        register(store, clock, OPERATOR, "tiny", name, root, {"made_by": "random"}, envelope)
    return family
