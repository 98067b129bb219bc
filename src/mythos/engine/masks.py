"""Constrained decoding: which tokens keep an answer within its grammar (llguidance)."""

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from mythos.engine.grammar import LIMITS


def grammar_tokenizer(tokenizer_json: bytes, eos: list[int]) -> LLTokenizer:
    """llguidance's view of a tokenizer, made once for each loaded tier."""
    return LLTokenizer(tokenizer_json.decode(), eos_token=eos)


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the start of `grammar`. ValueError when it cannot be compiled."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def allowed_tokens(matcher: LLMatcher, vocab: int) -> np.ndarray:
    """Boolean (vocab,): the tokens that may come next.

    ValueError when the matcher has given up on a grammar too complex to follow: its mask would then allow the
    end of the turn in the middle of the text.
    """
    mask = allocate_token_bitmask(1, vocab)
    fill_next_token_bitmask(matcher, mask, 0)
    if matcher.is_error():
        raise ValueError("it is too complex to follow")
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab].astype(bool)
