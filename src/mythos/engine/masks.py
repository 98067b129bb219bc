"""Constrained decoding: which tokens keep an answer within its grammar (llguidance)."""

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask


def grammar_tokenizer(tokenizer_json: bytes, eos: list[int]) -> LLTokenizer:
    """llguidance's view of a tokenizer, made once for each loaded tier."""
    return LLTokenizer(tokenizer_json.decode(), eos_token=eos)


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the start of `grammar`. ValueError when it cannot be compiled."""
    matcher = LLMatcher(tokenizer, grammar)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def allowed_tokens(matcher: LLMatcher, vocab: int) -> np.ndarray:
    """Boolean (vocab,): the tokens that may come next."""
    mask = allocate_token_bitmask(1, vocab)
    fill_next_token_bitmask(matcher, mask, 0)
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab].astype(bool)
