"""What each form of opus costs in quality: perplexity on fixed text, and answers compared.

    python bench/quality.py [--tokens 16384] [--prompts 200] [--new 64] [--groups] [--json]

Text is Python's own language reference (`pydoc_data.topics`), in sequences of 512. Forms: float32 from the
source file; the served int8 weights in float32 (`stored`); the plain backend; the native one; each over
float32, with the 95% interval of a bootstrap over sequences. Then greedy
answers of the native and the plain backend to sentences of that text: how many are the same, and where they
part, how far the plain backend's two best logits lie from each other there. `--groups` adds `stored` with its
activations rounded to int8, one scale for so many channels, as the native backend does with 64.
"""

import argparse
import json
import math
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from mythos.cli import local
from mythos.cli.bench import prepare
from mythos.engine.backend import Backend, Eager, Segment
from mythos.engine.cache import BLOCK, CHUNK
from mythos.engine.loader import Loader
from mythos.engine.native.backend import Native
from mythos.engine.native.build import library
from mythos.model.attention import causal_attend
from mythos.model.gguf import iter_weights, model_config, read_gguf
from mythos.model.quant import dequantise
from mythos.model.transformer import Transformer
from mythos.store.weights_key import weights_keyring

LENGTH, RESAMPLES = 512, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--groups", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    family, tier, file = prepare("pocket", "opus")
    records = local.open_records()
    loaded = Loader(records.home).load(tier, local.standing(records, family).decisions[tier.name])
    code = library(records.home, weights_keyring(records.home), print)
    native = Native(loaded, 64, b"", code, torch.get_num_threads())
    plain = Eager(loaded, 64, b"")
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    parts = torch.tensor(loaded.tokenizer.encode(text)[: asked.tokens]).split(LENGTH)
    forms = {"float32": source(file), "stored": stored(loaded.model, tier.config)}
    losses = {name: [loss(whole(model, part), part) for part in parts] for name, model in forms.items()}
    for backend in (plain, native):
        losses[backend.name] = [loss(through(backend, part.tolist()), part) for part in parts]
    if asked.groups:
        for size in (None, 192, 64, 32):
            model = rounded(stored(loaded.model, tier.config), size)
            name = f"scale for {size or 'a row'}"
            losses[name] = [loss(whole(model, part), part) for part in parts]
    sentences = [p for p in text.split(". ") if 40 < len(p) < 400]
    prompts = sentences[:: max(1, len(sentences) // asked.prompts)][: asked.prompts]
    compared = compare(plain, native, [loaded.tokenizer.encode(p) for p in prompts], asked.new)
    found = {name: over(of, losses["float32"], parts) for name, of in losses.items()}
    if asked.json:
        print(json.dumps({"tokens": asked.tokens, "perplexity": found, "answers": compared}))
        return
    for name, (value, more, low, high) in found.items():
        print(f"{name:12} perplexity {value:.4f} ({more:+.3%} of float32, {low:+.3%} to {high:+.3%})")
    print(
        f"{compared['same']} of {compared['prompts']} answers of {asked.new} tokens are the same; "
        f"{compared['tokens_until']:.0f} tokens until they part (median); there the plain backend's two best "
        f"logits differ by {compared['gap_median']:.3f} (median), {compared['gap_most']:.3f} (most)"
    )


def source(file) -> Transformer:
    """The model of the source file, dequantised to float32."""
    gguf = read_gguf(file)
    model = Transformer(model_config(gguf))
    model.load_state_dict(dict(iter_weights(gguf, model.config)), assign=True)
    return model.eval().requires_grad_(False)


def stored(served: Transformer, config) -> Transformer:
    """The served weights in float32."""
    tensors = dict(served.state_dict())
    for name in [name for name in tensors if name.endswith(".scale")]:
        weight = name.removesuffix("scale") + "weight"
        tensors[weight] = dequantise(tensors[weight], tensors.pop(name))
    model = Transformer(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def rounded(model: Transformer, size: int | None) -> Transformer:
    """Puts rounding to int8 in front of every product: one scale for `size` channels, or for a row."""

    def to_int8(x: torch.Tensor) -> torch.Tensor:
        groups = x.unflatten(-1, (-1, size or x.shape[-1]))
        scale = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
        return ((groups / scale).round() * scale).flatten(-2)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (to_int8(inputs[0]),))
    head = model.embed.head
    model.embed.head = lambda x: head(to_int8(x))  # type: ignore[method-assign]
    return model


@torch.inference_mode()
def whole(model: Transformer, part: torch.Tensor) -> torch.Tensor:
    return model(part, torch.arange(len(part)), causal_attend([len(part)]))


def through(backend: Backend, tokens: list[int]) -> torch.Tensor:
    table = list(range(-(-len(tokens) // BLOCK)))
    chunks = [(at, tokens[at : at + CHUNK]) for at in range(0, len(tokens), CHUNK)]
    return torch.cat([backend.chunk(Segment(table, at, c, len(c))).logits_WV for at, c in chunks])


def loss(logits: torch.Tensor, part: torch.Tensor) -> float:
    """Nats of every token of a sequence but its first."""
    return F.cross_entropy(logits[:-1], part[1:], reduction="sum").item()


def over(losses: list[float], right: list[float], parts) -> tuple[float, float, float, float]:
    """(perplexity, how much of it is above that of `right`, low, high)."""
    count_N, more_N = np.array([len(part) - 1 for part in parts]), np.array(losses) - np.array(right)
    picks = np.random.default_rng(0).integers(0, len(count_N), (RESAMPLES, len(count_N)))
    low, high = np.expm1(np.quantile(more_N[picks].sum(1) / count_N[picks].sum(1), [0.025, 0.975]))
    return math.exp(sum(losses) / count_N.sum()), math.expm1(more_N.sum() / count_N.sum()), low, high


def compare(plain: Backend, native: Backend, prompts: list[list[int]], new: int) -> dict[str, float]:
    until, gaps = [], []
    for prompt in prompts:
        answers = [greedy(backend, prompt, new) for backend in (plain, native)]
        parted = next(
            (i for i, (a, b) in enumerate(zip(*(a[0] for a in answers), strict=True)) if a != b), None
        )
        if parted is not None:
            until.append(parted)
            gaps.append(answers[0][1][parted])
    return {
        "prompts": len(prompts),
        "same": len(prompts) - len(until),
        "tokens_until": median(until) if until else new,
        "gap_median": median(gaps) if gaps else 0.0,
        "gap_most": max(gaps, default=0.0),
    }


def greedy(backend: Backend, prompt: list[int], new: int) -> tuple[list[int], list[float]]:
    """Tokens, and at each the distance of the two best logits."""
    table = list(range(-(-(len(prompt) + new) // BLOCK)))
    row = through(backend, prompt)[-1]
    tokens, gaps = [], []
    for at in range(len(prompt), len(prompt) + new):
        best = row.topk(2).values
        gaps.append(float(best[0] - best[1]))
        tokens.append(int(row.argmax()))
        row = backend.decode([Segment(table, at, tokens[-1:], 1)]).logits_WV[0]
    return tokens, gaps


if __name__ == "__main__":
    main()
