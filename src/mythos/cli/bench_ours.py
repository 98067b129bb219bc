"""The worker of `mythos bench` that is us: an engine asked directly, and its server on loopback."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from mythos.cli import local
from mythos.cli.bench_protocol import serve
from mythos.engine.generation import Generation
from mythos.engine.request import Done, Lane, Request, Sampling
from mythos.gate.authorize import authorize
from mythos.records.permit import Action, Permit
from mythos.spec.load import load_family


class Ours:
    """The bare engine: prompts are tokens, no text is made ready and no HTTP is spoken."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        self._records = local.open_records()
        self._family = load_family(request["family"])
        self._tier = local.standing(self._records, self._family).family.tier(request["tier"])
        secret, digest = local.new_session_key()
        listener = self._stack.enter_context(local.bind("127.0.0.1", 0))
        self._service = local.start_service(self._records, self._family, session_key=digest)
        self._stack.enter_context(local.serving(self._service, listener))
        self._loaded = self._service.engine.loaded(self._permit())
        return {
            "versions": {"torch": version("torch")},
            "settings": {"backend": self._loaded.backend, "dtype": str(self._loaded.dtype), "mode": "exact"},
            "weight_bytes": read_per_token(self._loaded.model.state_dict()),
            "load_seconds": time.perf_counter() - began,
            "root": self._tier.root,
            "base_url": local.address(listener),
            "key": secret,
        }

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Exactly `tokens` tokens for each of `prompts`, without drafts where they are not asked for: random
        prompts give answers that go in circles, which drafts foresee better than any text.
        """
        return asyncio.run(
            self._generate(request["prompts"], request["tokens"], chat=False, speculate=request["drafts"])
        )

    def chat(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the server does for a user's `texts`, without the server: answers that end where they end."""
        prompts = self.encode(request)["prompts"]
        return asyncio.run(self._generate(prompts, request["tokens"], chat=True, speculate=True))

    def encode(self, request: dict[str, Any]) -> dict[str, Any]:
        """A user's `texts` as prompts."""
        from mythos.data.chat import encode_chat

        tokenizer, template = self._loaded.tokenizer, self._loaded.chat_template
        turns = [[{"role": "user", "content": text}] for text in request["texts"]]
        return {"prompts": [encode_chat(tokenizer, template, turn) for turn in turns]}

    async def _generate(
        self, prompts: list[list[int]], tokens: int, chat: bool, speculate: bool
    ) -> dict[str, Any]:
        permit = self._permit()
        # In the batch lane no prompt is held back beside decoding, so that their streams soon all run.
        lane = Lane.INTERACTIVE if chat else Lane.BATCH
        requests = [
            Request(tuple(p), tokens, Sampling(0.0), stop_at_eos=chat, speculate=speculate, lane=lane)
            for p in prompts
        ]
        began = time.perf_counter()

        submitted = [self._service.engine.submit(permit, request) for request in requests]
        read = await asyncio.gather(*(read_timed(generation) for generation in submitted))
        answers = [done for _, done in read]
        for done in answers:
            if done.error is not None:
                raise RuntimeError(done.error)
        return {
            "times": [[moment - began for _, moment in tokens] for tokens, _ in read],
            "prompt_tokens": [done.prompt_tokens for done in answers],
            "cached_tokens": [done.cached_tokens for done in answers],
            "seconds": time.perf_counter() - began,
        }

    def _permit(self) -> Permit:
        standing = local.standing(self._records, self._family)
        now = self._records.clock.now()
        answer = authorize(standing, local.OPERATOR, Action.ANSWER, self._tier.name, local.PURPOSE, now)
        if not isinstance(answer, Permit):
            raise PermissionError(answer.message)
        return answer


async def read_timed(generation: Generation) -> tuple[list[tuple[int, float]], Done]:
    """Each token and when the engine had it, in `time.perf_counter` seconds. Read as the server reads: in
    batches.
    """
    tokens: list[tuple[int, float]] = []
    async for events in generation.batches():
        for event in events:
            if isinstance(event, Done):
                return tokens, event
            tokens += [(token, event.moment) for token in event.tokens]
    raise AssertionError("a generation ends with Done")


def read_per_token(weights: Mapping[str, Any]) -> int:
    """Bytes of stored weights that a decoded token needs: an input embedding only when it is the head.

    The copies for long prompts are not counted: up to 16 sequences decode from the stored form.
    """
    untied = "lm_head.weight" in weights
    return sum(
        tensor.nbytes for name, tensor in weights.items() if not (untied and name.startswith("embed."))
    )


def main() -> None:
    with contextlib.ExitStack() as stack:
        ours = Ours(stack)
        serve(load=ours.load, run=ours.run, chat=ours.chat, encode=ours.encode)


if __name__ == "__main__":
    main()
