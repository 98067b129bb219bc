"""Telling tool calls from text while an answer streams by.

The grammar holds the model to `<tool_call>{"name": "N", "input": {...}}</tool_call>`; arguments may hold
anything inside their strings, the closing tag too, so their end is found by counting braces.
"""

from mythos.engine.grammar import CALL_CLOSE, CALL_OPEN

_HEAD = '{"name": "'
_MIDDLE = '", "input": '
_TAIL = "}" + CALL_CLOSE

Part = tuple[str, str]  # ("text", piece), ("call", name), ("args", piece), ("end", "")


class CallParser:
    """Feed text, get parts. `open` says that the arguments of a call are not complete."""

    def __init__(self) -> None:
        self._state = "text"
        self._held = ""
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._called = False

    @property
    def open(self) -> bool:
        return self._state in ("head", "args")

    def feed(self, text: str) -> list[Part]:
        """What is certain by now."""
        self._held += text
        parts: list[Part] = []
        while self._advance(parts):
            pass
        return parts

    def flush(self) -> list[Part]:
        """The end of the answer: what was held back as the possible start of a call is text."""
        rest, self._held = self._held, ""
        return [("text", rest)] if rest and self._state == "text" and not self._called else []

    def _advance(self, parts: list[Part]) -> bool:
        """One step in the present state; False when more text is needed."""
        if self._state == "text":
            return self._text(parts)
        if self._state == "head":
            at = self._held.find(_MIDDLE)
            if at < 0:
                return False
            parts.append(("call", self._held[len(_HEAD) : at]))
            self._held = self._held[at + len(_MIDDLE) :]
            self._state, self._called = "args", True
            return True
        if self._state == "args":
            return self._args(parts)
        if len(self._held) < len(_TAIL):
            return False
        self._held = self._held[len(_TAIL) :]
        self._state = "text"
        return True

    def _text(self, parts: list[Part]) -> bool:
        at = self._held.find(CALL_OPEN)
        if at >= 0:
            before, self._held = self._held[:at], self._held[at + len(CALL_OPEN) :]
            self._state = "head"
        else:
            keep = _overlap(self._held)
            cut = len(self._held) - keep
            before, self._held = self._held[:cut], self._held[cut:]
        if before and not self._called:  # between calls there are line breaks only
            parts.append(("text", before))
        return at >= 0

    def _args(self, parts: list[Part]) -> bool:
        for i, c in enumerate(self._held):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                if c == "\\":
                    self._escaped = True
                elif c == '"':
                    self._in_string = False
            elif c == '"':
                self._in_string = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]":
                self._depth -= 1
                if self._depth == 0:
                    parts += [("args", self._held[: i + 1]), ("end", "")]
                    self._held = self._held[i + 1 :]
                    self._state = "tail"
                    return True
        if self._held:
            parts.append(("args", self._held))
            self._held = ""
        return False


def _overlap(text: str) -> int:
    """Length of the longest start of CALL_OPEN that ends `text`."""
    for size in range(min(len(CALL_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(CALL_OPEN[:size]):
            return size
    return 0
