"""The native backend: what torch computes of the same weights, bits no neighbour changes, sealed code."""

import ctypes
import hashlib
import os
import subprocess
from types import SimpleNamespace

import pytest
import torch
from tests.engine.test_engine import GREEDY, ask, collect, prompt_of
from tests.tiny import tiny_home

from mythos.engine import choose
from mythos.engine.backend import Eager, Segment
from mythos.engine.cache import BLOCK, CHUNK
from mythos.engine.native import build
from mythos.engine.native.backend import Native
from mythos.engine.native.build import Unavailable
from mythos.engine.request import Request
from mythos.model.quant import Int8Embedding, Int8Linear, dequantise, to_int8
from mythos.model.transformer import Transformer
from mythos.records.errors import MythosError
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.store.home import Home
from mythos.store.weights_key import weights_keyring

MODELS = {
    "grouped heads": ModelConfig(97, 3, 128, 4, 2, 32, 256, 4096, tied=True),
    "own head, biases": ModelConfig(97, 2, 64, 4, 4, 16, 96, 2048, attention_bias=True),
    "normed queries": ModelConfig(130, 2, 192, 9, 3, 64, 320, 2048, tied=True, qk_norm=True),
    "many query heads": ModelConfig(97, 2, 64, 8, 1, 32, 64, 2048, tied=True),
    "heads of 48": ModelConfig(97, 2, 96, 2, 1, 48, 96, 2048, tied=True),
    "experts": ModelConfig(97, 2, 64, 4, 2, 32, 96, 2048, tied=True, moe=MoEConfig(8, 2, 48)),
    "experts as in V3": ModelConfig(
        97, 3, 64, 4, 2, 32, 96, 2048, tied=True, dense_layers=(0,),
        moe=MoEConfig(16, 3, 32, shared=1, score="sigmoid", scale=2.5, bias=True),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_HOME", str(path / "home"))
        patch.setenv("MYTHOS_KEYS", str(path / "keys"))
        yield Home.open()


@pytest.fixture(scope="module")
def library(place) -> ctypes.CDLL:
    if missing := [flag for flag in build.NEEDED if flag not in build.processor_flags()]:
        pytest.skip(f"this processor has no {missing[0]}")
    return build.library(place, weights_keyring(place))


def loaded_of(config: ModelConfig, seed: int = 0):
    """Random served weights, as the loader would hand them on, and the float32 model they stand for."""
    torch.manual_seed(seed)
    model, exact = Transformer(config), Transformer(config)
    model.init_weights(std=0.1)
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", ".bias")):
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.2)
    for buffer in model.buffers():
        torch.nn.init.normal_(buffer, std=0.1)
    served = to_int8(model)
    tensors = dict(served.state_dict())
    for name in list(tensors):
        if name.endswith("scale"):
            scale = tensors.pop(name)
            for full in (name.removesuffix("scale") + "weight", name.removesuffix("scale") + "proj"):
                if full in tensors:
                    q = tensors[full]
                    tensors[full] = dequantise(q.flatten(0, -2), scale.flatten()).view(q.shape)
    exact.load_state_dict(tensors)
    loaded = SimpleNamespace(tier=SimpleNamespace(config=config), model=served, dtype=torch.bfloat16)
    return loaded, exact.eval().requires_grad_(False)


def text_of(config: ModelConfig, length: int, seed: int = 1) -> list[int]:
    return torch.randint(0, config.vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def through(backend, table: list[int], tokens: list[int]) -> torch.Tensor:
    """The logits of every position, chunk by chunk."""
    parts = [(at, tokens[at : at + CHUNK]) for at in range(0, len(tokens), CHUNK)]
    return torch.cat([backend.chunk(Segment(table, at, part, len(part))).logits_WV for at, part in parts])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("threads", [1, 3])
def test_logits_are_those_of_the_model(library, name, threads):
    """Near the float32 model: within four times torch's own bf16 pass over the same int8 weights."""
    loaded, exact = loaded_of(MODELS[name])
    tokens, table = text_of(loaded.tier.config, CHUNK + 70), [9, 3, 4, 1, 7, 2]
    exact_cache = Eager(SimpleNamespace(**vars(loaded) | {"dtype": torch.float32, "model": exact}), 12, b"")
    wanted = through(exact_cache, table, tokens)
    plain = through(Eager(loaded, 12, b""), table, tokens)
    got = through(Native(loaded, 12, b"", library, threads), table, tokens)
    scale = wanted.std()
    error, usual = (got - wanted).std() / scale, (plain - wanted).std() / scale
    assert error < 4 * usual, (error, usual)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_has_the_same_bits_in_any_company(library, name):
    """A chunk, one token at a time, several of one sequence at once, and beside others: one computation."""
    loaded, _ = loaded_of(MODELS[name])
    config = loaded.tier.config
    alone, busy = (Native(loaded, 40, b"", library, threads) for threads in (1, 2))
    tokens, other = text_of(config, CHUNK + 100), text_of(config, 200, 2)
    table, far = [5, 6, 20, 21, 11, 12], [30, 31, 32, 33]
    whole = through(alone, table, tokens)
    busy.chunk(Segment(far, 0, other[:150], 0))
    assert torch.equal(through(busy, table, tokens[:70]), whole[:70])
    at, step = 70, 0
    while at < len(tokens):
        count = (1, 3, 1, 8, 17)[step % 5]
        mine = Segment(table, at, tokens[at : at + count], min(count, len(tokens) - at))
        beside = [Segment(far, 150 + step % 40, [other[150 + step % 40]], 1)] * (step % 3)
        got = busy.decode([*beside, mine]).logits_WV[len(beside) :]
        assert torch.equal(got, whole[at : at + count]), (at, count)
        at, step = at + count, step + 1


def test_what_lies_in_unused_positions_changes_nothing(library):
    """Pages come from a pool: bytes of another sequence, whose scales may be anything, are never read."""
    loaded, _ = loaded_of(MODELS["grouped heads"])
    clean, used = (Native(loaded, 12, b"", library, 2) for _ in range(2))
    for layer in used.cache.kv:
        layer.fill_(255)  # as floats, not a number
    tokens, table = text_of(loaded.tier.config, CHUNK + 70), [9, 3, 4, 1, 7, 2]
    assert torch.equal(through(used, table, tokens), through(clean, table, tokens))


def test_a_position_takes_little_more_than_a_byte_a_channel(library):
    loaded, _ = loaded_of(MODELS["normed queries"])  # heads of 64 channels
    assert Native(loaded, 4, b"", library, 1).cache.bytes() == 2 * 3 * 2 * 4 * BLOCK * (64 + 8)


def test_states_are_the_layers_outputs(library):
    loaded, exact = loaded_of(MODELS["grouped heads"])
    tokens = text_of(loaded.tier.config, 40)
    got = Native(loaded, 4, b"", library, 2).chunk(Segment([0], 0, tokens, 0), [2, 0, 2])
    plain = Eager(SimpleNamespace(**vars(loaded) | {"dtype": torch.float32, "model": exact}), 4, b"")
    wanted = plain.chunk(Segment([0], 0, tokens, 0), [0, 2])
    assert got.logits_WV.shape == (0, 97) and sorted(got.states) == [0, 2]
    for layer, state in wanted.states.items():
        assert (got.states[layer] - state).std() < 0.05 * state.std()


def test_what_it_cannot_compute_is_said(library):
    config = ModelConfig(97, 2, 64, 4, 4, 16, 96, 2048, mla=MLAConfig(24, 10, 6, 12))
    with pytest.raises(Unavailable, match="latent attention"):
        Native(SimpleNamespace(tier=SimpleNamespace(config=config)), 4, b"", library, 1)


def test_the_engine_answers_the_same_alone_and_among_others(library, place, tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv(choose.VARIABLE, "native")
    tiny = tiny_home(tmp_path, ("small",))
    told = []
    make = choose.maker(tiny.home, told.append)
    permit, prompts = tiny.permit(), [prompt_of(n, n) for n in (1, 63, 64, 65, 255, 257, 300, 513, 600, 40)]
    with tiny.engine(backend=make) as engine:
        alone = [ask(engine, permit, prompt)[0] for prompt in prompts]
        running = [engine.submit(permit, Request(p, 24, GREEDY, stop_at_eos=False)) for p in prompts]
        together = [collect(generation) for generation in running]
    assert [tokens for tokens, _, _ in together] == alone
    assert {done.backend for _, _, done in together} == {"native-int8"}
    assert len(told) == 1 and "building" in told[0]


def test_code_that_is_not_what_was_sealed_is_never_loaded(library, place):
    keyring, made = weights_keyring(place), next(build.private_place(place).glob("*.so"))
    name, seal = made.stem, made.with_suffix(".seal")
    good, sealed = made.read_bytes(), seal.read_bytes()
    assert build.sealed_bytes(made, keyring, name) == good  # the control
    made.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert build.sealed_bytes(made, keyring, name) is None
    made.write_bytes(good)
    seal.write_bytes(keyring.wrap(b"another digest", build._context(name)))
    assert build.sealed_bytes(made, keyring, name) is None
    seal.write_bytes(keyring.wrap(hashlib.sha256(good).digest(), "native:another"))
    assert build.sealed_bytes(made, keyring, name) is None
    seal.unlink()
    assert build.sealed_bytes(made, keyring, name) is None
    told = []
    made.write_bytes(b"\x7fELF not ours")
    seal.write_bytes(sealed)
    build.library(place, keyring, told.append)
    assert len(told) == 1 and "not what was made here" in told[0]
    told.clear()
    build.library(place, keyring, told.append)
    assert told == []


def test_another_key_or_another_source_builds_again(library, place, tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    other = weights_keyring(Home.open())
    made = next(build.private_place(place).glob("*.so"))
    assert build.sealed_bytes(made, other, made.stem) is None
    before = build._name("g++ 12")
    assert build._name("g++ 13") != before
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    assert build._name("g++ 12") != before


def test_without_a_compiler_the_plain_backend_serves_and_says_so_once(place, tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv(choose.VARIABLE, raising=False)
    loaded, _ = loaded_of(MODELS["grouped heads"])
    told = []
    make = choose.maker(Home.open(str(tmp_path / "home")), told.append)
    assert [make(loaded, 4, b"").name for _ in range(2)] == ["eager-int8"] * 2
    assert len(told) == 1 and "no-such-compiler" in told[0] and "Install" in told[0]
    monkeypatch.setenv(choose.VARIABLE, "native")
    with pytest.raises(Unavailable):
        choose.maker(Home.open(str(tmp_path / "home")), told.append)(loaded, 4, b"")
    monkeypatch.setenv(choose.VARIABLE, "fast")
    with pytest.raises(MythosError, match="MYTHOS_BACKEND"):
        choose.maker(Home.open(str(tmp_path / "home")), told.append)


def test_a_compiler_that_fails_is_no_end(place, tmp_path, monkeypatch):
    broken = tmp_path / "cxx"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1 && exit 0\necho model.cpp: no >&2; exit 1\n'
    )
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(Unavailable, match="model.cpp: no"):
        build.library(Home.open(str(tmp_path / "home")), weights_keyring(place))


def test_weights_are_read_as_they_are_stored():
    """The tests above compare with a float32 model made by this rule."""
    loaded, exact = loaded_of(MODELS["grouped heads"])
    for (name, one), other in zip(loaded.model.named_modules(), exact.modules(), strict=True):
        if isinstance(one, Int8Linear | Int8Embedding):
            assert torch.equal(dequantise(one.weight, one.scale), other.weight), name


def test_the_library_is_in_the_package():
    assert all((build.HERE / source).is_file() for source in build.SOURCES)
    assert BLOCK == 64  # attention.hpp says so too
    done = subprocess.run(["git", "check-ignore", *map(str, build.HERE.glob("*.hpp"))], capture_output=True)
    assert done.stdout == b"" and os.name == "posix"
