"""The worker of OpenVINO GenAI: the same GGUF file in its continuous-batching pipeline.

Prompts go in as token ids and tokens come out as ids: it makes no text, which the others do. Precision (bf16
products where the processor has them, activations quantised per group of 32) and key/value cache are its
defaults; prefix caching is on, with room for 16 sequences. bench/trials.py tries other settings.
"""

import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from mythos.cli.bench_protocol import serve

PACKAGES = ("openvino-genai", "openvino", "openvino-tokenizers")
BATCHED_TOKENS = 512  # prompt and decode tokens in one step
STREAMS = 16
CACHE_GB = 2


class OpenVINO:
    def load(self, request):
        import openvino
        import openvino_genai

        self._lib, self._genai = openvino, openvino_genai
        began = time.perf_counter()
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        scheduler.max_num_seqs = STREAMS
        scheduler.cache_size = CACHE_GB
        properties = {"INFERENCE_NUM_THREADS": request["threads"], "enable_save_ov_model": True}
        for name, value in request.get("settings", {}).items():  # of trials.py
            if hasattr(scheduler, name):
                setattr(scheduler, name, value)
            else:
                properties[name] = value
        with tempfile.TemporaryDirectory() as folder:
            # It writes the model as converted beside the file: that says how many bytes its weights have.
            file = Path(folder) / "model.gguf"
            os.symlink(request["file"], file)
            self._pipe = openvino_genai.ContinuousBatchingPipeline(
                str(file), scheduler_config=scheduler, device="CPU", properties=properties
            )
            weight_bytes = (Path(folder) / "openvino_model.bin").stat().st_size
        ask = openvino.Core().get_property
        return {
            "versions": {name: version(name) for name in PACKAGES},
            "settings": {
                "pipeline": "ContinuousBatchingPipeline",
                "prefix caching": True,
                "max_num_batched_tokens": BATCHED_TOKENS,
                "max_num_seqs": STREAMS,
                "inference precision": ask("CPU", "INFERENCE_PRECISION_HINT").get_type_name(),
                "dynamic quantisation group": ask("CPU", "DYNAMIC_QUANTIZATION_GROUP_SIZE"),
            },
            "weight_bytes": weight_bytes,
            "load_seconds": time.perf_counter() - began,
        }

    def run(self, request):
        import numpy as np

        config = self._genai.GenerationConfig()
        config.max_new_tokens = request["tokens"]
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        prompts = [self._lib.Tensor(np.array([ids], dtype=np.int64)) for ids in request["prompts"]]
        times = [[] for _ in prompts]
        began = time.perf_counter()
        handles = [self._pipe.add_request(n, prompt, config) for n, prompt in enumerate(prompts)]
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
            now = time.perf_counter() - began
            for each, handle in zip(times, handles, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        each += [now] * len(output.generated_ids)
        # It counts neither prompt nor cached tokens for us; the prompt was given as exactly these ids.
        counts = [len(ids) for ids in request["prompts"]]
        return {"times": times, "prompt_tokens": counts, "cached_tokens": None}


if __name__ == "__main__":
    worker = OpenVINO()
    serve(load=worker.load, run=worker.run)
