"""Prompt lookup: what followed the last tokens where they stood before, in the prompt or in the answer.

The idea is Saxena's "Prompt Lookup Decoding" (github.com/apoorvumang/prompt-lookup-decoding, 2023).
"""

from array import array
from collections.abc import Iterable

LONGEST = 8  # tokens in a row that are compared; two have to agree
CANDIDATES = 8  # earlier places of the last two tokens that are looked at, latest first


class Lookup:
    """An index over one growing text; a token costs the same however long the text is."""

    def __init__(self) -> None:
        self._tokens = array("i")
        self._latest: dict[tuple[int, int], int] = {}  # two tokens -> where their latest successor stands
        self._earlier = array("i")  # for each position the one before it with the same two predecessors, or 0

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            at, earlier = len(self._tokens), 0
            if at >= 2:
                pair = self._tokens[-2], self._tokens[-1]
                earlier = self._latest.get(pair, 0)
                self._latest[pair] = at
            self._earlier.append(earlier)
            self._tokens.append(token)

    def propose(self, count: int) -> list[int]:
        """`count` tokens that may come next, or none: what followed the longest match, latest on a tie.

        A match that runs into the end of the text is a repetition, and is taken to go on.
        """
        text, size = self._tokens, len(self._tokens)
        if size < 2 or count < 1:
            return []
        at, best, longest = self._latest.get((text[-2], text[-1]), 0), 0, 0
        for _ in range(CANDIDATES):
            if not at:
                break
            same = 2
            while same < min(LONGEST, at) and text[at - same - 1] == text[size - same - 1]:
                same += 1
            if same > longest:
                best, longest = at, same
            at = self._earlier[at]
        return [text[best + n % (size - best)] for n in range(count)] if best else []
