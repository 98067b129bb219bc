"""The rows that closed incidents add to the exposure audit."""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mythos.records.ids import new_id
from mythos.records.incident import Lesson
from mythos.vault.exposure import Target

_ID = re.compile(r"\b([a-z]{2,8})_[A-Za-z0-9]{22}\b")


def with_lessons(targets: Sequence[Target], lessons: Iterable[Lesson]) -> tuple[list[Target], list[Lesson]]:
    """`targets` with each lesson's path among what is private there; and the lessons that no target is for.

    Whatever answers on such a path, or answers otherwise than a made-up one, is a finding of the audit.
    """
    found, left = list(targets), []
    for lesson in lessons:
        fit = [i for i, target in enumerate(found) if target.name == lesson.listener]
        for i in fit:
            known = (*found[i].known, (lesson.path, made_up(lesson.path)))
            found[i] = replace(found[i], known=known, seeds=(*found[i].seeds, lesson.path))
        if not fit:
            left.append(lesson)
    return found, left


def made_up(path: str) -> str:
    """A path of the same form that nothing can be at."""
    if _ID.search(path):
        return _ID.sub(lambda id: new_id(id.group(1)), path)
    place, mark, query = path.partition("?")
    return f"{place.rstrip('/')}{secrets.token_hex(4)}{mark}{query}"
