"""What a corpus is made of: documents, each with its source and the group that the split keeps together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mythos.records.errors import MythosError

Message = Mapping[str, str]
"""`role` and `content`, as `mythos.data.chat` takes them."""


class DataError(MythosError):
    """Text for training cannot be read or used; the message names the file, and the line where it has one."""


@dataclass(frozen=True, slots=True)
class Document:
    """Plain `text`, or `messages` of a conversation of which the assistant's turns are learnt.

    `id` names it for a person; documents of one `group` (a module, a page, a CWE) lie on the same side of
    the split.
    """

    source: str
    id: str
    group: str
    text: str = ""
    messages: tuple[Message, ...] = ()

    def parts(self) -> list[str]:
        """The text, or the contents of the messages."""
        return [message["content"] for message in self.messages] if self.messages else [self.text]

    def size(self) -> int:
        """UTF-8 bytes of all parts."""
        return sum(len(part.encode()) for part in self.parts())


@dataclass(frozen=True, slots=True)
class Opened:
    """A source ready to be read: what exactly it is (as a manifest states it), and its documents."""

    facts: Mapping[str, Any]
    documents: Iterator[Document]
