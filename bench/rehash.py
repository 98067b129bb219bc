"""How fast weights at rest are decrypted and hashed, against SHA-256 alone on the same bytes.

    python bench/rehash.py [ROOT]

Reads the weights of ROOT (by default the largest) in the data directory, or 256 MB of random ones when there
are none. Rounds are interleaved; printed are medians of each and of the ratios of each round.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch

from mythos.model.quant import served_form
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import THREADS, read_weights, write_weights
from mythos.records.root import CHUNK, leaf_hash
from mythos.spec.config import ModelConfig
from mythos.store.home import Home
from mythos.store.weights_key import weights_keyring

ROUNDS = 9


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def random_weights(parent: Path, home: Home) -> Path:
    config = ModelConfig(
        vocab=49152, layers=32, width=1024, heads=16, kv_heads=4, head_dim=64, ffn=2048, context=64
    )
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in Transformer(config).state_dict().items():
        tensors |= served_form(name, torch.randn(tensor.shape))
    return parent / write_weights(parent, weights_keyring(home), config, tensors, b"{}", "")


def main() -> None:
    home = Home.open()
    with tempfile.TemporaryDirectory(dir=home.cache) as scratch:
        found = list((home.path / "weights").glob(f"{sys.argv[1] if sys.argv[1:] else ''}[0-9a-f]*"))
        size = {path: sum(file.stat().st_size for file in path.iterdir()) for path in found}
        directory = max(found, key=lambda path: size[path]) if found else random_weights(Path(scratch), home)
        keyring = weights_keyring(home)
        files = read_weights(directory, keyring)
        views = [t.flatten().view(torch.uint8).numpy().data for t in files.tensors.values()]
        chunks = [view[at : at + CHUNK] for view in views for at in range(0, len(view), CHUNK)]
        size_gb = sum(map(len, chunks)) / 1e9
        with ThreadPoolExecutor(THREADS) as pool:
            works: dict[str, Callable[[], object]] = {
                "SHA-256, one thread": lambda: [leaf_hash(chunk) for chunk in chunks],
                f"SHA-256, {THREADS} threads": lambda: list(pool.map(leaf_hash, chunks)),
                "read, decrypt and hash": lambda: read_weights(directory, keyring),
            }
            rounds = [{name: size_gb / seconds(work) for name, work in works.items()} for _ in range(ROUNDS)]
    print(f"{directory.name[:12]}, {size_gb * 1e3:.0f} MB of tensors, median of {ROUNDS} rounds")
    last = list(works)[-1]
    for name in works:
        speed = median(round[name] for round in rounds)
        ratio = median(round[last] / round[name] for round in rounds)
        print(f"{name:26} {speed:6.2f} GB/s" + (f"   rehash / this: {ratio:.2f}" if name != last else ""))


if __name__ == "__main__":
    main()
