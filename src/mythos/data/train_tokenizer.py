"""Trains a byte-level BPE vocabulary on the project's own text, in the form that `Tokenizer` reads."""

import json
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mythos.data.documents import DataError
from mythos.data.tokenizer import Tokenizer

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # the ids 0, 1, 2
SMALLEST = 256 + len(CONTROL)  # every byte has a token, so that all text has one

# Turns in the form that goes with these control tokens; no system turn is added.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """The bytes of a tokenizer.json with `vocab_size` tokens, CONTROL first; numbers are split into digits.

    Equal texts in equal order give equal bytes. DataError when the size has no room for all bytes, or the
    texts have not enough pairs to fill it.
    """
    if vocab_size < SMALLEST:
        raise DataError(
            f"A vocabulary of {vocab_size} has no token for each byte.", f"Ask for {SMALLEST} or more."
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    document = json.loads(inner.to_str())
    data = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    made = Tokenizer.from_bytes(data)
    if made.vocab_size != vocab_size:
        raise DataError(
            f"The text gives a vocabulary of {made.vocab_size}, not {vocab_size}.",
            "Give more text, or ask for less.",
        )
    return data
