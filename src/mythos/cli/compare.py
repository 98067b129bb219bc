"""`mythos compare`: one prompt to several tiers, side by side."""

import sys
from typing import TYPE_CHECKING

from mythos.cli import client
from mythos.cli.client import Answer
from mythos.cli.conversation import footer, price_of
from mythos.cli.local import connect
from mythos.cli.naming import chosen_tier, no_tier
from mythos.cli.output import CommandError, Exit, console, emit, json_wanted, money, note, printable, show
from mythos.spec.family import Family

if TYPE_CHECKING:
    from rich.columns import Columns


def run(
    prompt: str,
    tiers: str | None,
    family_name: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
) -> int:
    prompt = sys.stdin.read() if prompt == "-" else prompt
    if not prompt.strip():
        raise CommandError("the prompt is empty", 'mythos compare "What is a mythos?"', Exit.USAGE)
    with connect(family_name) as (server, family):
        existing = client.tiers(server)
        declared = [tier.name for tier in family.tiers]
        names = [name for name in declared if name in existing]
        if tiers:
            names = [chosen_tier(name.strip(), declared, existing) for name in tiers.split(",")]
        if not names:
            raise no_tier(())
        # One after another, so that no tier is timed while it shares the processor with another.
        answers = []
        for name in names:
            if len(names) > 1:
                note(f"{name} ...")
            answers.append(
                client.ask(
                    server,
                    name,
                    [{"role": "user", "content": prompt}],
                    max_completion_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed,
                )
            )
    if json_wanted():
        emit({"prompt": prompt, "family": family.name, "answers": [record(family, a) for a in answers]})
    else:
        show(columns(family, answers))
        missing = [name for name in declared if name not in existing]
        if missing and not tiers:
            note(f"not built: {', '.join(missing)}")
    return 0


def record(family: Family, answer: Answer) -> dict[str, object]:
    return {
        "tier": answer.tier,
        "answer": answer.text,
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
        "tokens": answer.tokens,
        "first_token_seconds": round(answer.first_token, 4),
        "tokens_per_second": round(answer.speed, 2),
        "seconds": round(answer.seconds, 4),
        "cost": price_of(family, answer),
        "currency": family.tier(answer.tier).price.currency,
    }


def columns(family: Family, answers: list[Answer]) -> "Columns":
    """A panel per tier, as many in a row as fit."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    width = max(36, console().width // max(1, len(answers)) - 1)
    panels = []
    for answer in answers:
        cost = money(price_of(family, answer), family.tier(answer.tier).price.currency)
        body = Text(printable(answer.text).strip() + "\n\n").append(f"{footer(answer)}, {cost}", style="dim")
        panels.append(Panel(body, title=answer.tier, title_align="left", width=min(width, console().width)))
    return Columns(panels, padding=(0, 1))
