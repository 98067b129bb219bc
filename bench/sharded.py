"""Does a tier over several processes give the greedy tokens of one process?

    python bench/sharded.py --ranks 3 [--family pocket] [--tier opus] [--prompts 20] [--tokens 64]

Prints how many answers are the same token for token, how far the log-probability of the chosen token differs
before the first different one, and how close the two best tokens lay where an answer goes apart. A tier that
is built is read from MYTHOS_HOME; speed is not measured.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from mythos.cli.local import Records, built, open_records, require, standing, start_service
from mythos.data.chat import encode_chat
from mythos.engine.request import Delta, Done, Request, Sampling
from mythos.records.permit import Action
from mythos.serve.service import Service
from mythos.spec.load import load_family

ASKED = (
    "What is the capital of France?", "Write a short poem about rain.", "How does a bridge carry weight?",
    "List five fruits.", "What is 17 times 23?", "Why is the sky blue?", "Tell me a story about a lost dog.",
    "Write a Python function that reverses a list.", "Who wrote Hamlet?", "Say good morning in Spanish.",
    "How do vaccines work?", "What is the largest planet?", "Give three tips for sleeping well.",
    "Describe a winter forest.", "What does a compiler do?", "Summarise the water cycle.",
    "Why do cats purr?", "Name two rivers in Africa.", "How is bread made?", "What is a prime number?",
)  # fmt: skip
LONG = "Here is a text to keep in mind: " + "the river runs past the old mill and under the bridge. " * 40


@contextmanager
def serving(records: Records, family: str, ranks: int) -> Iterator[Service]:
    service = start_service(records, load_family(family), ranks=ranks)
    try:
        yield service
    finally:
        service.close()
        service.engine.stop()


def answers(records: Records, asked: argparse.Namespace, ranks: int) -> list[list]:
    with serving(records, asked.family, ranks) as service:
        state = standing(records, load_family(asked.family))
        permit = require(state, asked.tier or built(state)[-1], Action.ANSWER, records.clock.now())
        tokenizer, template = service.texts(permit)
        found = []
        for number in range(asked.prompts):
            text = ASKED[number % len(ASKED)]
            if number % 4 == 3:  # more than a chunk of 256 tokens
                text = f"{LONG}\n{text}"
            prompt = tuple(encode_chat(tokenizer, template, [{"role": "user", "content": text}]))
            request = Request(prompt, asked.tokens, Sampling(0.0), logprobs=2)
            chosen = []
            for event in service.engine.submit(permit, request):
                if isinstance(event, Delta):
                    chosen += event.logprobs
                elif isinstance(event, Done) and event.error:
                    raise SystemExit(event.error)
            found.append(chosen)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Greedy tokens over several processes and in one.")
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--family", default="pocket")
    parser.add_argument("--tier")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    asked = parser.parse_args()
    records = open_records()
    one, several = (answers(records, asked, ranks) for ranks in (1, asked.ranks))
    same, tokens, furthest, margins = 0, 0, 0.0, []
    for alone, over in zip(one, several, strict=True):
        for here, there in zip(alone, over, strict=False):
            if here.token != there.token:
                margins.append(here.top[0][2] - here.top[1][2])
                break
            tokens += 1
            furthest = max(furthest, abs(here.logprob - there.logprob))
        else:
            same += len(alone) == len(over)
    print(f"{same} of {len(one)} answers are the same over {asked.ranks} ranks ({tokens} tokens compared)")
    print(f"log-probabilities of the same tokens differ by {furthest:.4f} at most")
    for margin in margins:
        print(f"one goes apart where the two best lie {margin:.4f} apart")


if __name__ == "__main__":
    main()
