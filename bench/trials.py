"""Is there a better setting for one of the other engines? Its variants take turns with what its worker sets.

    python bench/trials.py openvino | llamacpp-q4_0 | llamacpp-q8_0 | xllamacpp  [ROUNDS]

Prints how many times as fast the worker's own setting was as each variant: below 1, the variant is faster and
the worker should be changed. To be run on a quiet machine, like `mythos bench`.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mythos.cli import bench_machine as machine
from mythos.cli.bench import prepare
from mythos.cli.bench_gguf import weight_bytes
from mythos.cli.bench_measure import Case
from mythos.cli.bench_peers import PEERS, STAND_IN, command, in_form, peer_packages, worker
from mythos.cli.bench_rounds import Arm, Bench, Step, noise, results

SET = "as set"
CASES = [Case("prefill", 512), Case("prefill", 2048), Case("decode", 1, 64), Case("decode", 16, 64)]
VARIANTS = {
    "openvino": {
        "256 tokens a step": {"max_num_batched_tokens": 256},
        "4096 tokens a step": {"max_num_batched_tokens": 4096},
        "prefill alone": {"dynamic_split_fuse": False},
        "no prefix cache": {"enable_prefix_caching": False},
        "float32": {"INFERENCE_PRECISION_HINT": "f32"},
        "u8 cache": {"KV_CACHE_PRECISION": "u8"},
        "groups of 64": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"},
        "activations as they are": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"},
    },
    "llamacpp": {
        "micro-batch 128": {"n_ubatch": 128},
        "micro-batch 256": {"n_ubatch": 256},
        "micro-batch 2048": {"n_ubatch": 2048},
        "one cache for all": {"kv_unified": True},
        "threads that do not poll": {"poll": 0},
        "threads that poll longer": {"poll": 100},
        "no repacking": {"use_extra_bufts": False},
        "no flash attention": {"flash_attn_type": 0},
    },
    "xllamacpp": {
        "micro-batch 128": {"n_ubatch": 128},
        "micro-batch 2048": {"n_ubatch": 2048},
        "one cache for all": {"kv_unified": True},
        "copies of idle prompts": {"cache_ram_mib": 8192, "cache_idle_slots": True},
        "no repacking": {"no_extra_bufts": True},
        "no flash attention": {"flash_attn_type": 0},
    },
}


def main() -> None:
    name, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 6
    peer = next(peer for peer in (*PEERS, STAND_IN) if peer.name == name)
    packages = peer_packages(peer)
    if not isinstance(packages, Path):
        sys.exit(f"error: {name}: {packages}")
    _, tier, file = prepare("pocket", None)
    model = {"file": str(file), "file_weight_bytes": weight_bytes(file), "threads": machine.cores()}
    model = in_form(peer, model)
    steps: list[Step] = []
    with ExitStack() as stack:
        gauge = stack.enter_context(worker("gauge", ["-m", "mythos.cli.bench_machine"], machine.cores()))
        arms = []
        for variant, settings in {SET: {}, **VARIANTS[peer.engine]}.items():
            process = stack.enter_context(worker(variant, command(peer), machine.cores(), packages))
            arms.append(Arm(variant, process, process.ask("load", **model, settings=settings)))
        bench = Bench(arms, gauge, tier.config.vocab, tier.name)
        for case in CASES:
            bench.measure([case], rounds, steps)
            show(results(case.metrics[0], steps, SET))
    quiet = noise(steps)
    print(f"{quiet['disturbed']} of {quiet['steps']} steps disturbed")


def show(found: dict[str, Any]) -> None:
    print(f"{found['title']}, {found['unit']}")
    for variant, values in found["arms"].items():
        ratio = found["ratios"].get(variant)
        against = "" if ratio is None else "{median:.2f} ({min:.2f} - {max:.2f})".format(**ratio)
        print(f"  {variant:24} {values['median']:8.1f}  {against}", flush=True)


if __name__ == "__main__":
    main()
