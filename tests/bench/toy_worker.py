"""A worker without an engine: `python toy_worker.py BEHAVIOUR`, with times as from a fixed speed."""

import os
import sys
import time

from mythos.cli.bench_protocol import serve

FIRST, NEXT = 0.02, 0.001  # seconds until the first token, and between two
seen: list[list[int]] = []


def load(request):
    if request.get("behaviour", behaviour) == "missing":
        import no_such_engine  # noqa: F401  # pyright: ignore[reportMissingImports]
    return {"versions": {"toy": "1"}, "settings": {}, "weight_bytes": 1000, "load_seconds": 0.0}


def run(request):
    if behaviour == "dies" and len(seen) > 2:
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    if behaviour == "hangs":
        time.sleep(60)
    if behaviour == "fails":
        raise ValueError("no such prompt")
    os.write(1, b"a library's chatter on stdout\n")
    print("and ours")
    tokens = request["tokens"] - (behaviour == "short")
    cached = []
    for prompt in request["prompts"]:
        shared = max((common(prompt, old) for old in seen), default=0)
        cached.append(shared // 256 * 256 if behaviour != "forgets" else 0)
        seen.append(prompt)
    slow = 2 if behaviour == "slow" else 0.5 if request.get("drafts") and behaviour == "drafts" else 1
    times = [
        [slow * (FIRST + 0.01 * n + NEXT * t) for t in range(tokens)] for n in range(len(request["prompts"]))
    ]
    return {"times": times, "prompt_tokens": [len(p) for p in request["prompts"]], "cached_tokens": cached}


def encode(request):
    return {"prompts": [list(text.encode()) for text in request["texts"]]}


def common(a, b):
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    behaviour = sys.argv[1]
    serve(load=load, run=run, encode=encode)
