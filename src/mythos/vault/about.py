"""What an asset says about itself: title, file name, media type, preview, words. Sealed with each version."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mythos.records.asset import KEPT, LEAST, Kind, Retention
from mythos.vault.errors import BadField
from mythos.vault.keys import Vault, open_text, seal_text

PREVIEW = 400  # characters
WORDS = 6_000  # characters of distinct words that are kept for the search
_WORD = re.compile(r"\w{2,40}")
_MEDIA = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}(; ?charset=[A-Za-z0-9-]{1,32})?")


@dataclass(frozen=True, slots=True)
class About:
    """`name` is a file's name, "" for none; `words` those of the content, each once."""

    title: str
    name: str
    media: str
    preview: str
    words: str


def check_titles(title: str, name: str, media: str) -> None:
    """BadField unless they are text that can be shown on one line."""
    if not title.strip() or len(title) > 300 or not title.isprintable():
        raise BadField("a title has 1 to 300 printable characters")
    if len(name) > 255 or not (name.isprintable() and "/" not in name and "\\" not in name):
        raise BadField("a file's name has at most 255 printable characters and no slash")
    if not _MEDIA.fullmatch(media):
        raise BadField(f"{media[:80]!r} is not a media type", "for example text/plain")


def checked_retention(kind: Kind, wanted: Retention | None) -> Retention:
    """The class to keep it under: never a shorter one than its kind asks for."""
    least = LEAST.get(kind, Retention.WORKING)
    if wanted is None:
        return least
    if KEPT[wanted] < KEPT[least]:
        raise BadField(f"{kind} is kept at least as {least}")
    return wanted


def about_of(title: str, name: str, media: str, head: bytes) -> About:
    """With preview and words from the first bytes of the content, if they are text."""
    text = text_of(head)
    preview = " ".join(text[: 4 * PREVIEW].split())[:PREVIEW]
    words, size = [], 0
    for word in dict.fromkeys(words_of(text)):
        size += len(word) + 1
        if size > WORDS:
            break
        words.append(word)
    return About(title, name, media, preview, " ".join(words))


def seal_about(vault: Vault, version: str, about: About) -> bytes:
    return seal_text(vault, f"version {version}", asdict(about))


def open_about(vault: Vault, version: str, sealed: bytes) -> About:
    table = open_text(vault, f"version {version}", sealed)
    return About(**table) if isinstance(table, Mapping) else About("", "", "", "", "")


def words_of(text: str) -> list[str]:
    """The words of a text in the form they are looked for: NFKC, case folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def text_of(head: bytes) -> str:
    """The text that these first bytes of a content are; "" when they are none."""
    if b"\0" in head:
        return ""
    for cut in range(4):  # the end may lie within a character
        try:
            return head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
    return ""
