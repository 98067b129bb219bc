"""From tokens to text that may be shown: whole characters, and nothing that may begin a stop string."""

import codecs


class TextStream:
    """Feed bytes of tokens, get text back. Once `stopped` is set the rest is dropped."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped: str | None = None

    def feed(self, piece: bytes, final: bool = False) -> str:
        """Text that is now safe to show. With `final`, everything held back comes out."""
        self._held += self._decode(piece, final)
        if not self._stop:
            out, self._held = self._held, ""
            return out
        found = [(at, -len(s), s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            at, _, self.stopped = min(found)
            out, self._held = self._held[:at], ""
            return out
        keep = 0 if final else max(_overlap(self._held, s) for s in self._stop)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that ends `text`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
