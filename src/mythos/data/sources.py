"""Where training text comes from, which domain each source belongs to, and what a mix is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mythos.data import from_archives, from_python, reasoning, safety
from mythos.data.documents import Opened
from mythos.data.fetch import Archive, Progress

DOMAINS = ("coding", "reasoning", "defence", "general")
SAFETY = "safety"  # no domain of knowledge: what is declined and what is not; small, and in no mix

# Shares of the rows of a training run. Each mix is mostly its own domain.
MIXES = {
    "coding": {"coding": 0.8, "general": 0.2},
    "reasoning": {"reasoning": 0.8, "general": 0.2},
    "defence": {"defence": 0.8, "general": 0.2},
    "general": {"general": 0.7, "coding": 0.1, "reasoning": 0.1, "defence": 0.1},
}


@dataclass(frozen=True, slots=True)
class Source:
    """`archive` is None for what the running Python brings, or the extra `train`. `role`: what it teaches."""

    name: str
    domain: str
    package: str
    licence: str
    role: str
    open: Callable[[Path, Progress], Opened]
    archive: Archive | None = None


SOURCES = (
    Source(
        "python-code", "coding", "Python's standard library", "PSF-2.0", "modules as they are",
        lambda cache, progress: from_python.code(),
    ),
    Source(
        "python-docstrings", "coding", "Python's standard library", "PSF-2.0",
        "chat: a function for its docstring, or a docstring for its function",
        lambda cache, progress: from_python.docstrings(),
    ),
    Source(
        "reasoning-gym", "reasoning", f"reasoning-gym=={reasoning.VERSION}", "Apache-2.0",
        "chat: procedural questions and answers", lambda cache, progress: reasoning.reasoning(),
    ),
    Source(
        "cwe", "defence", from_archives.CWE.requirement, "MIT; CWE: MITRE's terms of use",
        "chat: weaknesses of the train split, what they are, mitigation, detection",
        from_archives.cwe, from_archives.CWE,
    ),
    Source(
        "bandit", "defence", from_archives.BANDIT.requirement, "Apache-2.0",
        "rule docs; chat: an example and the rule it breaks", from_archives.bandit, from_archives.BANDIT,
    ),
    Source(
        "django-security", "defence", from_archives.DJANGO.requirement, "BSD-3-Clause",
        "documentation about security", from_archives.django_security, from_archives.DJANGO,
    ),
    Source(
        "django-docs", "general", from_archives.DJANGO.requirement, "BSD-3-Clause",
        "all other documentation", from_archives.django_docs, from_archives.DJANGO,
    ),
    Source(
        "python-topics", "general", "Python's standard library", "PSF-2.0", "the language reference's prose",
        lambda cache, progress: from_python.topics(),
    ),
    Source(
        safety.SOURCE, SAFETY, "mythos.data.prompts", "Apache-2.0",
        "chat: prompts to refuse and fair ones, with our answers",
        lambda cache, progress: safety.safety_chats(),
    ),
)  # fmt: skip


def sources_of(domain: str) -> list[Source]:
    return [source for source in SOURCES if source.domain == domain]
