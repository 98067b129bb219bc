"""The worker of llama.cpp, compiled for this machine: its C interface, one batch for all sequences.

A short loop stands in for llama.cpp's server, and does less: prompts go in as token ids in batches of 2,048;
then every step decodes one token of each sequence. The greatest logit (numpy's argmax) is the next token. No
text is made. Settings are llama.cpp's defaults, which leave flash attention to its own choice, keep keys and
values in f16 and repack the weights for the processor; the threads live on between steps, as in its programs.
Each of 16 sequences has its own cache, which keeps its last prompt. bench/trials.py tries other settings.
"""

import ctypes
import json
import time
from pathlib import Path

from mythos.cli.bench_protocol import serve

STREAMS = 16
SLOT_TOKENS = 2304  # the longest prompt measured is 2080 tokens
BATCH = 2048
REUSE = 0.1  # of a prompt must lie in a sequence's cache to be taken from there, as llama.cpp's server has it


class ThreadpoolParams(ctypes.Structure):
    """struct ggml_threadpool_params of ggml.h, which the Python binding leaves out."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class LlamaCpp:
    def load(self, request):
        import numpy
        from llama_cpp import llama_cpp

        began = time.perf_counter()
        self._lib, self._np = llama_cpp, numpy
        settings = dict(request.get("settings", {}))  # of trials.py
        threads = request["threads"]
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = settings.pop("use_extra_bufts", params.use_extra_bufts)
        self._model = llama_cpp.llama_model_load_from_file(request["file"].encode(), params)
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {request['file']}")
        poll = settings.pop("poll", 50)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = STREAMS * SLOT_TOKENS
        params.n_seq_max = params.n_outputs_max = STREAMS
        params.n_batch = BATCH
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        for name, value in settings.items():
            setattr(params, name, value)
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise ValueError("llama.cpp cannot make a context")
        self._pool(threads, poll)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch_arrays()
        self._kept = [[] for _ in range(STREAMS)]  # the tokens in each sequence's cache
        stamp = json.loads((Path(llama_cpp.__file__).parents[1] / "compiled").read_text())
        attention = {-1: "its choice", 0: "off", 1: "on"}[params.flash_attn_type]
        return {
            "versions": {name: stamp[name] for name in ("llama-cpp-python", "clang")},
            "settings": {
                "n_seq_max": STREAMS,
                "n_ctx": params.n_ctx,
                "n_batch": params.n_batch,
                "n_ubatch": params.n_ubatch,
                "kv_unified": params.kv_unified,
                "flash attention": attention,
                "poll": poll,
                "system": llama_cpp.llama_print_system_info().decode().strip(),
            },
            "weight_bytes": request["file_weight_bytes"],
            "load_seconds": time.perf_counter() - began,
        }

    def _pool(self, threads, poll):
        """The threads: without a pool of ours it would start and end them at every step."""
        place = Path(self._lib.__file__).parent / "lib"
        base, cpu = (ctypes.CDLL(str(place / f"libggml-{name}.so")) for name in ("base", "cpu"))
        params = ThreadpoolParams()
        base.ggml_threadpool_params_init(ctypes.byref(params), ctypes.c_int(threads))
        params.poll = poll
        cpu.ggml_threadpool_new.restype = ctypes.c_void_p
        pool = ctypes.c_void_p(cpu.ggml_threadpool_new(ctypes.byref(params)))
        attach = self._lib._lib.llama_attach_threadpool
        attach.argtypes, attach.restype = [ctypes.c_void_p] * 3, None
        attach(self._context, pool, pool)

    def _batch_arrays(self):
        """One llama_batch over numpy arrays, which are filled anew for every call."""
        np, lib = self._np, self._lib
        self._token, self._pos, self._sequence = (np.zeros(BATCH, np.int32) for _ in range(3))
        self._wanted = np.zeros(BATCH, np.int8)
        self._ones = np.ones(BATCH, np.int32)
        at = self._sequence.ctypes.data + 4 * np.arange(BATCH, dtype=np.int64)
        self._pointers = at.astype(np.uintp)

        def pointer(array, kind):
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        self._batch = lib.llama_batch(
            token=pointer(self._token, ctypes.c_int32),
            pos=pointer(self._pos, ctypes.c_int32),
            n_seq_id=pointer(self._ones, ctypes.c_int32),
            seq_id=pointer(self._pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=pointer(self._wanted, ctypes.c_int8),
        )

    def _decode(self, count):
        """The greatest logit's token of each wanted row among the first `count` of the batch."""
        self._batch.n_tokens = count
        status = self._lib.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")
        rows = int(self._wanted[:count].sum())
        if not rows:
            return ()
        logits = self._lib.llama_get_logits(self._context)
        return self._np.ctypeslib.as_array(logits, (rows, self._vocabulary)).argmax(axis=1)

    def run(self, request):
        prompts, tokens = request["prompts"], request["tokens"]
        began = time.perf_counter()
        times = [[] for _ in prompts]
        slots, cached = self._slots(prompts)
        todo = [
            (n, i, i == len(ids) - 1) for n, ids in enumerate(prompts) for i in range(cached[n], len(ids))
        ]
        newest = [0] * len(prompts)
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            ended = [n for n, _, last in part if last]
            count = len(part)
            self._token[:count] = [prompts[n][i] for n, i, _ in part]
            self._pos[:count] = [i for _, i, _ in part]
            self._sequence[:count] = [slots[n] for n, _, _ in part]
            self._wanted[:count] = [last for _, _, last in part]
            found = self._decode(count)
            now = time.perf_counter() - began
            for n, token in zip(ended, found, strict=True):
                newest[n] = int(token)
                times[n].append(now)
        count = len(prompts)
        self._token[:count] = newest
        self._pos[:count] = [len(ids) for ids in prompts]
        self._sequence[:count] = slots
        self._wanted[:count] = 1
        for _ in range(tokens - 1):
            self._token[:count] = self._decode(count)
            self._pos[:count] += 1
            now = time.perf_counter() - began
            for each in times:
                each.append(now)
        for n, slot in enumerate(slots):
            self._lib.llama_memory_seq_rm(self._memory, slot, len(prompts[n]), -1)  # what was generated
            self._kept[slot] = list(prompts[n])
        return {"times": times, "prompt_tokens": [len(ids) for ids in prompts], "cached_tokens": cached}

    def _slots(self, prompts):
        """A sequence for each prompt, what it need not be told again of it, and the rest forgotten."""
        free = list(range(STREAMS))
        slots, cached = [], []
        for ids in prompts:
            shared = {slot: common(ids, self._kept[slot]) for slot in free}
            slot = max(free, key=lambda slot: shared[slot])
            count = min(shared[slot], len(ids) - 1)
            if count < REUSE * len(ids):
                slot, count = free[0], 0
            free.remove(slot)
            self._lib.llama_memory_seq_rm(self._memory, slot, count, -1)
            self._kept[slot] = []  # until this run ends well
            slots.append(slot)
            cached.append(count)
        return slots, cached


def common(a, b):
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    worker = LlamaCpp()
    serve(load=worker.load, run=worker.run)
