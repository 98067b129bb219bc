"""`mythos chat`: at a terminal, or one question per line from a pipe."""

import sys
from collections.abc import Iterable
from typing import Any

from mythos.cli import client
from mythos.cli.client import Answer
from mythos.cli.conversation import Conversation, Quit, command, footer, price_of
from mythos.cli.local import connect
from mythos.cli.naming import chosen_tier
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, printable


def run(
    tier: str | None,
    stdin: str | None,
    family_name: str | None,
    system: str,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
) -> int:
    if tier == "-":
        tier, stdin = None, "-"
    if stdin not in (None, "-"):
        raise CommandError(f"unexpected argument {stdin}", "mythos chat --help", Exit.USAGE)
    at_terminal = sys.stdin.isatty() and stdin is None
    if at_terminal and json_wanted():
        raise CommandError(
            "--json answers questions from a pipe", "echo 'Hello' | mythos chat --json", Exit.USAGE
        )
    questions: Iterable[str] = sys.stdin
    if stdin == "-":
        questions = [sys.stdin.read()]
        if not questions[0].strip():
            raise CommandError("stdin was empty", "mythos chat - < prompt.txt", Exit.USAGE)
    options = {"max_completion_tokens": max_tokens, "temperature": temperature, "seed": seed}
    with connect(family_name) as (server, family):
        existing = client.tiers(server)
        name = chosen_tier(tier, [t.name for t in family.tiers], existing)
        talk = Conversation(server, family, name, existing, system, options)
        if at_terminal:
            from mythos.cli.terminal import converse

            return converse(talk)
        return answer_all(talk, questions, commands=stdin != "-")


def answer_all(talk: Conversation, questions: Iterable[str], commands: bool) -> int:
    """Answer each question in turn, as one conversation; the first failure ends it."""
    for question in questions:
        if not question.strip():
            continue
        if commands and question.startswith("/"):
            try:
                question = obey(talk, question)
            except Quit:
                return 0
            if not question:
                continue
        answer = talk.ask(question.rstrip("\n"), show_piece)
        if json_wanted():
            emit(record(talk, question.rstrip("\n"), answer))
        else:
            print("" if answer.text.endswith("\n") else "\n", end="", flush=True)
            note(footer(answer))
    return 0


def obey(talk: Conversation, line: str) -> str:
    """Do a slash command; returns the question to ask again after /retry, else nothing."""
    if line.split()[0] == "/retry":
        return talk.take_back()
    note(command(talk, line))
    return ""


def show_piece(text: str) -> None:
    if not json_wanted():
        print(printable(text), end="", flush=True)


def record(talk: Conversation, question: str, answer: Answer) -> dict[str, Any]:
    return {
        "tier": answer.tier,
        "question": question,
        "answer": answer.text,
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
        "tokens": answer.tokens,
        "tokens_per_second": round(answer.speed, 2),
        "first_token_seconds": round(answer.first_token, 4),
        "seconds": round(answer.seconds, 4),
        "cost": price_of(talk.family, answer),
        "currency": talk.family.tier(answer.tier).price.currency,
        "receipt": answer.receipt,
    }
