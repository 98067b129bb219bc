"""Claude Code, as a user runs it beside `mythos up`: `mythos env` in the shell, then `claude --bare -p`."""

import json
import platform
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.clients.environments import Unavailable, clean_environment, npm_client

pytestmark = pytest.mark.clients

CLIENT = "claude-code-2.1.330"
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def program() -> Path:
    """The native program. It lies in an optional package of npm's, one for each platform."""
    try:
        modules = npm_client(CLIENT)
    except Unavailable as reason:
        pytest.skip(str(reason))
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    kind = f"{platform.system().lower()}-{machine}"
    found = modules / "@anthropic-ai" / f"claude-code-{kind}" / "claude"
    if not found.exists():
        pytest.skip(f"{CLIENT} has no program for {kind}")
    return found


@pytest.fixture
def claude(program: Path, pocket: dict[str, str], tmp_path: Path):
    """claude(*arguments) is the last JSON that it prints; its home and working directory are empty ones."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*arguments: str, question: str = QUESTION, bare: bool = True, form: str = "json") -> dict:
        options = ["--bare"] * bare + ["--output-format", form, *arguments]
        done = subprocess.run(
            [program, "-p", question, *options],
            cwd=work,
            env=clean_environment(**pocket, HOME=str(tmp_path)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.stdout, done.stderr
        *_, last = done.stdout.splitlines()
        return json.loads(last)

    return run


def test_answer(claude):
    told = claude("--model", "opus")
    assert told["is_error"] is False and told["subtype"] == "success", told
    assert "Paris" in told["result"]
    assert told["stop_reason"] == "end_turn" and told["num_turns"] == 1
    assert told["modelUsage"]["opus"]["outputTokens"] == told["usage"]["output_tokens"] > 0


def refused(pocket: dict[str, str]) -> float:
    """How many requests the server has answered with a 4xx."""
    asked = urllib.request.Request(
        f"{pocket['ANTHROPIC_BASE_URL']}/metrics", headers={"x-api-key": pocket["ANTHROPIC_API_KEY"]}
    )
    with urllib.request.urlopen(asked) as answer:
        page = answer.read().decode()
    counts = re.findall(r'^mythos_http_requests_total\{status="4\d\d".*\} (\S+)$', page, re.MULTILINE)
    return sum(map(float, counts))


def test_a_session_that_shows_its_events_is_never_refused(claude, pocket):
    """It asks for more than one that prints its result only, and tries again without when it is refused."""
    before = refused(pocket)
    told = claude("--model", "opus", "--verbose", form="stream-json")
    assert told["type"] == "result" and told["is_error"] is False and "Paris" in told["result"]
    assert refused(pocket) == before


def test_its_whole_prompt_does_not_fit(claude):
    """Without --bare it sends some 12,000 tokens; what `mythos env` says of the tier lets it see that."""
    told = claude("--model", "opus", bare=False)
    assert told["is_error"] is True and told["result"].startswith("Prompt is too long")


def test_the_long_prompt_is_read_once(claude):
    claude("--model", "opus")
    usage = claude("--model", "opus", question="What is the capital of Italy?")["usage"]
    assert usage["cache_read_input_tokens"] > usage["input_tokens"]


@pytest.mark.parametrize("line", ["haiku", "sonnet", "opus"])
def test_default_names_lead_to_a_tier(claude, pocket, line):
    told = claude("--model", line)
    assert told["is_error"] is False, told
    assert list(told["modelUsage"]) == [pocket[f"ANTHROPIC_DEFAULT_{line.upper()}_MODEL"]]


def test_unknown_model(claude):
    told = claude("--model", "nothing")
    assert told["is_error"] is True and told["api_error_status"] == 404
    assert told["api_error_type"] == "not_found_error"
