"""Byte-level BPE over the `tokenizers` library, with control tokens kept out of ordinary text."""

import hashlib
import json
import re
from collections.abc import Iterable

import tokenizers

from mythos.records.errors import MythosError

CURE = "Take the tokenizer.json that belongs to the model."

# Control tokens that end a turn or a text, by their names in the published vocabularies.
END_TOKENS = frozenset(
    {
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "</s>",
        "<eos>",
        "<end_of_turn>",
    }
)


class TokenizerError(MythosError):
    """The tokenizer's file is malformed or of a kind that is not read."""


def _byte_symbols() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_symbols()


class Tokenizer:
    """Immutable and safe to share between threads.

    Control tokens are the added tokens marked special. They are recognised in text only where the caller
    says that the text is its own (`special=True`). A byte that the vocabulary has no token for is dropped, as
    the library does.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, control: dict[str, int], other_added: dict[int, str], digest: str
    ) -> None:
        self.digest = digest  # SHA-256 of its tokenizer.json: equal digests, equal tokens
        self._inner = inner
        self._control = control
        self._text_of_added = other_added | {index: text for text, index in control.items()}
        longest_first = sorted(control, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if control else None
        self.vocab_size: int = inner.get_vocab_size(with_added_tokens=True)
        self.eos_ids: frozenset[int] = frozenset(control[text] for text in END_TOKENS if text in control)

    @classmethod
    def from_bytes(cls, tokenizer_json: bytes) -> "Tokenizer":
        """From the bytes of a tokenizer.json; TokenizerError when it is no byte-level one we can read."""
        try:
            document = json.loads(tokenizer_json)
            added = document.get("added_tokens", [])
            decoder = document["decoder"]["type"]
            control = {token["content"]: token["id"] for token in added if token["special"]}
            others = {token["id"]: token["content"] for token in added if not token["special"]}
            greedy = [t["content"] for t in added if t["lstrip"] or t["rstrip"] or t["single_word"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise TokenizerError("The tokenizer is not a tokenizer.json.", CURE) from None
        if decoder != "ByteLevel" or any(token in control for token in greedy):
            raise TokenizerError("Only byte-level tokenizers with plain control tokens are read.", CURE)
        try:
            inner = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except BaseException as error:  # the library raises Exception itself, and panics past it
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise TokenizerError(f"The tokenizer cannot be read ({str(error)[:200]}).", CURE) from None
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # control tokens in text are text; `encode` finds them itself
        return cls(inner, control, others, hashlib.sha256(tokenizer_json).hexdigest())

    @property
    def control_tokens(self) -> tuple[str, ...]:
        return tuple(self._control)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`. With special=False a control token's name in it becomes plain text."""
        if not special or self._split is None:
            return self._encode_plain(text)
        ids: list[int] = []
        for part in self._split.split(text):
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids.extend(self._encode_plain(part))
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        # A lone surrogate has no UTF-8 form; it is replaced as a decoder would.
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, control tokens by name; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, index: int) -> bytes:
        """The bytes that token `index` stands for, a control token's being its name. KeyError if none."""
        if (text := self._text_of_added.get(index)) is not None:
            return text.encode()
        symbols = self._inner.id_to_token(index)
        if symbols is None:
            raise KeyError(index)
        return bytes(map(BYTE_OF.__getitem__, symbols))
