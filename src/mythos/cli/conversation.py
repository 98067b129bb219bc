"""One conversation: its turns, its commands, its numbers, whoever reads and types."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mythos.cli import client
from mythos.cli.client import Answer, Server
from mythos.cli.naming import no_tier
from mythos.cli.output import CommandError, Exit, amount, money
from mythos.records.errors import MythosError
from mythos.spec.family import Family

HELP = """\
/tier [NAME]    show the tiers that exist, or talk to another one
/system [TEXT]  show the system prompt, or set it (/system - removes it)
/retry          ask the last question again
/reset          forget the conversation
/save FILE      write the conversation (.json: as messages, else Markdown)
/stats          tokens, speed and cost so far
/help           this list
/quit           leave (also Ctrl-D)
Enter sends; Alt-Enter or a backslash at the end of the line makes a new line; Ctrl-C stops an answer."""
COMMANDS = ("/tier", "/system", "/retry", "/reset", "/save", "/stats", "/help", "/quit")


class Quit(Exception):
    """The user wants to leave."""


@dataclass(slots=True)
class Conversation:
    """`turns` holds user and assistant messages in turn; `options` are sent with every question."""

    server: Server
    family: Family
    tier: str
    existing: list[str]
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def ask(self, question: str, on_text: Callable[[str], None]) -> Answer:
        """Ask and remember. After Ctrl-C the part that arrived is kept; after an error nothing is."""
        pieces: list[str] = []

        def receive(text: str) -> None:
            pieces.append(text)
            on_text(text)

        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.turns, {"role": "user", "content": question}]
        try:
            answer = client.ask(self.server, self.tier, messages, receive, **self.options)
        except KeyboardInterrupt:
            if pieces:
                self._remember(question, "".join(pieces))
            raise
        self._remember(question, answer.text)
        self.answers.append(answer)
        return answer

    def take_back(self) -> str:
        """Forget the last exchange and return its question."""
        if not self.turns:
            raise CommandError("there is no question to ask again", code=Exit.USAGE)
        self.turns.pop()
        return self.turns.pop()["content"]

    def _remember(self, question: str, answer: str) -> None:
        self.turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def command(talk: Conversation, line: str) -> str:
    """Do a slash command other than /retry; returns what to show. Raises Quit for /quit."""
    name, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match name:
        case "/help":
            return HELP
        case "/quit" | "/exit":
            raise Quit
        case "/tier":
            return _tier(talk, rest)
        case "/system":
            if rest:
                talk.system = "" if rest == "-" else rest
            return f"system prompt: {talk.system or '(none)'}"
        case "/reset":
            talk.turns.clear()
            return "forgotten; the system prompt stays"
        case "/save":
            return _save(talk, rest)
        case "/stats":
            return stats(talk)
        case _:
            raise CommandError(f"there is no command {name}", "/help lists them", Exit.USAGE)


def _tier(talk: Conversation, wanted: str) -> str:
    if wanted:
        if wanted not in talk.existing:
            raise no_tier(talk.existing, wanted)
        talk.tier = wanted
    return "  ".join(f"[{name}]" if name == talk.tier else name for name in talk.existing)


def _save(talk: Conversation, path: str) -> str:
    """Private and never over another file."""
    if not path:
        raise CommandError("/save needs a file name", "/save talk.md", Exit.USAGE)
    path = os.path.expanduser(path)
    messages = [{"role": "system", "content": talk.system}] if talk.system else []
    messages += talk.turns
    if path.endswith(".json"):
        text = json.dumps({"tier": talk.tier, "messages": messages}, ensure_ascii=False, indent=2) + "\n"
    else:
        text = "".join(f"## {turn['role']}\n\n{turn['content'].strip()}\n\n" for turn in messages)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise CommandError(
            f"{path} exists and is not overwritten", "choose another name", Exit.USAGE
        ) from error
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}", "choose another place") from error
    return f"saved to {path}"


def stats(talk: Conversation) -> str:
    if not talk.answers:
        return "nothing asked yet"
    asked = sum(a.prompt_tokens for a in talk.answers)
    cached = sum(a.cached_tokens for a in talk.answers)
    given = sum(a.tokens for a in talk.answers)
    speeds = sorted(a.speed for a in talk.answers)
    cost = sum(price_of(talk.family, a) for a in talk.answers)
    price = money(cost, talk.family.tier(talk.tier).price.currency)
    return (
        f"{len(talk.answers)} answers: {amount(asked)} tokens in ({amount(cached)} from the cache), "
        f"{amount(given)} out; median {speeds[len(speeds) // 2]:.1f} tok/s; {price}"
    )


def price_of(family: Family, answer: Answer) -> float:
    """What the answer costs by the family's price list, in the tier's currency."""
    price = family.tier(answer.tier).price
    return (answer.prompt_tokens * price.input + answer.tokens * price.output) / 1e6


def footer(answer: Answer) -> str:
    """The line under an answer."""
    end = {"stop": "", "length": ", cut at the length limit"}.get(
        answer.finish, f", ended by {answer.finish}"
    )
    return f"{answer.tokens} tokens, {answer.speed:.1f} tok/s, first after {answer.first_token:.2f} s{end}"


def describe(error: MythosError) -> str:
    return f"error: {error.message}" + (f"\ncure: {error.cure}" if error.cure else "")
