"""`mythos env`: what a shell must export so that existing clients talk to the running server."""

import os
import shlex
from pathlib import PurePath

from mythos.cli import client, local
from mythos.cli.naming import nearest, no_tier
from mythos.cli.output import CommandError, Exit, emit, json_wanted
from mythos.spec.family import Family
from mythos.spec.load import load_family
from mythos.store.session import read_session

# The lines of models that Claude Code has defaults for, each with its place on a family's ladder.
VENDOR_LINES = {"HAIKU": 0.0, "SONNET": 1 / 3, "OPUS": 2 / 3, "FABLE": 1.0}
# The key wins over it, but a token left in the shell is another server's secret and not ours to receive.
UNSET = ("ANTHROPIC_AUTH_TOKEN",)


def run(shell: str | None) -> int:
    records = local.open_records()
    session = read_session(records.home)
    if session is None:
        raise CommandError(
            "no `mythos up` is running", "start one in another terminal: mythos up", Exit.UNREACHABLE
        )
    server = client.Server(session.base_url, session.key)
    family = load_family(session.family)
    values = variables(server, family, client.tiers(server))
    if json_wanted():
        emit({"set": values, "unset": list(UNSET)})
    else:
        print("\n".join(lines(shell or guess_shell(), values)))
    return 0


def variables(server: client.Server, family: Family, existing: list[str]) -> dict[str, str]:
    """Name -> value. Every default model name of the clients leads to the nearest tier that exists."""
    if not existing:
        raise no_tier(())
    declared = [tier.name for tier in family.tiers]
    leads_to = {line: nearest(rank, declared, existing) for line, rank in VENDOR_LINES.items()}
    main, small = family.tier(leads_to["OPUS"]), family.tier(leads_to["HAIKU"])
    values = {
        "ANTHROPIC_BASE_URL": server.base_url,
        "ANTHROPIC_API_KEY": server.key,
        "OPENAI_BASE_URL": f"{server.base_url}/v1",
        "OPENAI_API_KEY": server.key,
        "ANTHROPIC_MODEL": main.name,
        "ANTHROPIC_SMALL_FAST_MODEL": small.name,
        "CLAUDE_CODE_SUBAGENT_MODEL": main.name,
    }
    for line, name in leads_to.items():
        values[f"ANTHROPIC_DEFAULT_{line}_MODEL"] = name
        values[f"ANTHROPIC_DEFAULT_{line}_MODEL_NAME"] = f"{name} ({family.name})"
    return values | {
        # Its first system block changes with every prompt, which would defeat the prefix cache.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(main.max_output),
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(main.context),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def lines(shell: str, values: dict[str, str]) -> list[str]:
    """The statements of one shell; values are quoted so that nothing in them is run."""
    match shell:
        case "bash" | "zsh" | "sh":
            unset = [f"unset {name}" for name in UNSET]
            return unset + [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
        case "fish":
            unset = [f"set -e {name}" for name in UNSET]
            return unset + [f"set -gx {name} {_fish(value)}" for name, value in values.items()]
        case "powershell" | "pwsh":
            unset = [f"Remove-Item Env:{name} -ErrorAction SilentlyContinue" for name in UNSET]
            quoted = {name: value.replace("'", "''") for name, value in values.items()}
            return unset + [f"$env:{name} = '{value}'" for name, value in quoted.items()]
        case _:
            raise CommandError(f"no form for the shell {shell}", "--shell bash|fish|powershell", Exit.USAGE)


def _fish(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def guess_shell() -> str:
    """The user's login shell where there is a form for it, else the POSIX one."""
    name = PurePath(os.environ.get("SHELL", "")).name
    return name if name in ("fish", "pwsh") else "bash"
