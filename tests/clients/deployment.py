"""A deployment for a client to talk to: a throw-away home, registered weights, the real server on loopback.

The weights are those of a tiny random model, so that hundreds of requests take a minute: what it says means
nothing, how it is said must be right. Two things here exist in no shipped command or setting: keys of our
choosing, known to the service by their hash alone, and further names for a tier.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from mythos.engine.engine import Engine
from mythos.engine.loader import Loader
from mythos.gate.authorize import load_standing
from mythos.gate.handling import issue_handling
from mythos.ledger.log import last_time
from mythos.model.quant import to_int8
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import write_weights
from mythos.records.clock import Clock
from mythos.records.principal import LOCAL_ORG, OPERATOR, Principal
from mythos.serve.server import bind, make_server
from mythos.serve.service import Service
from mythos.serve.settings import Settings
from mythos.spec.config import ModelConfig
from mythos.spec.family import Family, MadeBy, Price, SamplingDefaults, Tier
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.weights import register

KEY = "sk-mythos-of-these-tests"
TIER = "opus"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 8192


def byte_tokenizer() -> bytes:
    """The tokenizer.json of a vocabulary of single bytes and three control tokens."""
    alphabet = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    return tokenizer.to_str().encode()


def tiny_family(max_output: int) -> Family:
    """One tier. A short `max_output`, in tokens, ends the answers of a model that does not know when to."""
    config = ModelConfig(
        vocab=256 + len(CONTROL),
        layers=2,
        width=64,
        heads=4,
        kv_heads=2,
        head_dim=16,
        ffn=128,
        context=CONTEXT,
    )
    tier = Tier(
        name=TIER,
        family="tiny",
        description="random weights",
        config=config,
        made_by=MadeBy("fetch"),
        parents=(),
        price=Price(0.0, 0.0),
        sampling=SamplingDefaults(temperature=0.0),
        context=CONTEXT,
        max_output=max_output,
    )
    return Family("tiny", "for tests of clients", "none", (tier,))


def random_model(config: ModelConfig) -> Transformer:
    """A model with weights from a fixed seed."""
    generator = torch.Generator().manual_seed(7)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)  # norms
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
    return model


@contextmanager
def deployed(
    place: Path,
    keys: Iterable[str],
    aliases: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    damage: bool = False,
    max_output: int = 256,
) -> Iterator[tuple[Service, str]]:
    """The service of a new home under `place`, and its base URL while it runs.

    `keys` are the operator's for as long as the service lives. `damage` flips a bit of the stored weights.
    """
    home = Home(place / "home", place / "keys")
    for directory in (home.path, home.path / "weights", home.path / "cache"):
        directory.mkdir(mode=0o700, parents=True)
    store = Store.open(home)
    clock = Clock(lambda: last_time(store))
    family = tiny_family(max_output)
    tier = family.tiers[0]
    tensors = to_int8(random_model(tier.config)).state_dict()
    root = write_weights(home.path / "weights", tier.config, tensors, byte_tokenizer(), TEMPLATE)
    if damage:
        stored = home.weights_dir(root) / "model.safetensors"
        data = bytearray(stored.read_bytes())
        data[-1] ^= 1
        stored.write_bytes(data)
    envelope = issue_handling(home, clock, family.name, tier.name, root)
    register(store, clock, OPERATOR, family.name, tier.name, root, {}, envelope)

    def tiers(wanted: str):
        standing = load_standing(home, store, family)
        found = next(tier for tier in standing.family.tiers if tier.root == wanted)
        return found, standing.decisions[found.name]

    engine = Engine(Loader(home), tiers, memory_limit=2**30, now=clock.now)
    holder = Principal(OPERATOR.id, "key", LOCAL_ORG)
    session_keys = {hashlib.sha256(key.encode()).hexdigest(): holder for key in keys}
    service = Service(home, store, clock, family, engine, settings or Settings(), session_keys)
    engine.start()
    try:
        with listening(service, aliases) as base_url:
            yield service, base_url
    finally:
        engine.stop()


@contextmanager
def listening(service: Service, aliases: Mapping[str, str] | None) -> Iterator[str]:
    """The base URL of the service while it answers from a thread of its own."""
    bound = bind("127.0.0.1", 0)
    ready = threading.Event()
    server = make_server(service, ready.set, aliases)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    try:
        assert ready.wait(60), "the server did not start"
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        bound.close()
