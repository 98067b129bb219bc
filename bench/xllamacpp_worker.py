"""The worker of xllamacpp: llama.cpp's own server in this process, asked by Python calls, without HTTP.

It stands in for llama.cpp compiled for the machine (llamacpp_worker.py) where that cannot be done: the wheel
is built for AVX2, without AVX-512 or AMX.
Settings are its defaults with 16 slots, a cache for each (not one shared by all) that keeps its last prompt,
and without the second copy of idle prompts in memory, which would cost time at every new prompt.
bench/trials.py tries other settings.
"""

import threading
import time

from mythos.cli.bench_protocol import serve

STREAMS = 16
SLOT_TOKENS = 2304  # the longest prompt measured is 2080 tokens


class Xllamacpp:
    def load(self, request):
        import xllamacpp

        began = time.perf_counter()
        params = xllamacpp.CommonParams()
        params.model.path = request["file"]
        params.n_parallel = STREAMS
        params.n_ctx = STREAMS * SLOT_TOKENS
        params.cpuparams.n_threads = request["threads"]
        params.cpuparams_batch.n_threads = request["threads"]
        params.cache_prompt = True
        params.cache_ram_mib = 0
        params.cache_idle_slots = False
        params.verbosity = 0
        for name, value in request.get("settings", {}).items():  # of trials.py
            setattr(params, name, value)
        self._server = xllamacpp.Server(params)
        return {
            "versions": {"xllamacpp": xllamacpp.__version__},
            "settings": {
                "n_parallel": STREAMS,
                "n_ctx": params.n_ctx,
                "n_batch": params.n_batch,
                "n_ubatch": params.n_ubatch,
                "kv_unified": params.kv_unified,
                "cache_prompt": params.cache_prompt,
                "cache_ram_mib": params.cache_ram_mib,
                "system": xllamacpp.get_system_info().strip(),
            },
            "weight_bytes": request["file_weight_bytes"],  # read as they lie in the file
            "load_seconds": time.perf_counter() - began,
        }

    def run(self, request):
        prompts = request["prompts"]
        times = [[] for _ in prompts]
        ends = [{} for _ in prompts]
        failures = []

        def ask(n):
            def take(chunk):
                now = time.perf_counter() - began
                if "timings" not in chunk:
                    failures.append(str(chunk)[:300])
                    return
                # Half a character is held back, so chunks are not tokens: the server's own count tells.
                times[n].extend([now] * (chunk["timings"]["predicted_n"] - len(times[n])))
                ends[n] = chunk

            options = {
                "prompt": prompts[n],
                "max_tokens": request["tokens"],
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": True,
                "stream": True,
                "timings_per_token": True,
            }
            self._server.handle_completions(options, take)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(prompts))]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(failures[0])
        usage = [end["usage"] for end in ends]
        return {
            "times": times,
            "prompt_tokens": [each["prompt_tokens"] for each in usage],
            "cached_tokens": [each["prompt_tokens_details"]["cached_tokens"] for each in usage],
        }


if __name__ == "__main__":
    worker = Xllamacpp()
    serve(load=worker.load, run=worker.run)
