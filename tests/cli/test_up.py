"""`mythos up` and what talks to it, on real weights: one server for the whole module."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import COMMAND, clean_env, runner

READY = re.compile(r"base_url = (http://127\.0\.0\.1:\d+)\napi_key = (sk-mythos-[\w-]{43})\n\Z")


@contextlib.contextmanager
def running(home: dict[str, str], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`mythos up` once it is ready, and all it printed until then."""
    process = subprocess.Popen(
        [*COMMAND, "up", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=clean_env(**home),
    )  # fmt: skip
    try:
        printed = ""
        assert process.stdout
        for line in process.stdout:
            printed += line
            if line.startswith(("api_key", "{")):
                break
        yield process, printed
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def up(built: dict[str, str]):
    with running(built) as (process, printed):
        found = READY.search(printed)
        assert found, printed
        yield process, found[1], found[2], printed


@pytest.fixture
def here(built: dict[str, str]):
    return runner(built)


def session_file(home: dict[str, str]) -> Path:
    return Path(home["MYTHOS_HOME"]) / "up.json"


def post(url: str, key: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"x-api-key": key, "anthropic-version": "2023-06-01"}
    )
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_once_names_the_capital(here):
    done = here("up", "--once", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "Paris" in result["answer"] and result["tokens"] > 3 and result["tokens_per_second"] > 0
    assert 50e6 < result["peak_memory_bytes"] < 8e9 and result["seconds_since_start"] > 0
    assert not Path(result["root"]).exists() and len(result["root"]) == 64


def test_once_says_it_in_words(here):
    done = here("up", "--once")
    assert done.returncode == 0 and "Paris" in done.stdout
    for part in ("tok/s", "since start", "peak memory"):
        assert part in done.stdout


def test_the_last_two_lines_are_address_and_key(up):
    _, base_url, key, printed = up
    assert READY.search(printed)
    status, answer = post(
        f"{base_url}/v1/messages", key,
        {"model": "opus", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]},
    )  # fmt: skip
    assert status == 200 and answer["type"] == "message"


def test_the_printed_curl_line_works(up):
    line = next(line for line in up[3].splitlines() if "curl http" in line)
    done = subprocess.run(["bash", "-c", line.partition("curl ")[1] + "-s " + line.partition("curl ")[2]],
                          capture_output=True, text=True)  # fmt: skip
    assert json.loads(done.stdout)["role"] == "assistant"


def test_only_the_printed_key_is_accepted(up):
    body = {"model": "opus", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    assert post(f"{up[1]}/v1/messages", "sk-mythos-" + "A" * 43, body)[0] == 401


def test_the_session_file_is_private_and_names_the_process(up, built):
    process, base_url, key, _ = up
    file = session_file(built)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    session = json.loads(file.read_text())
    assert (session["base_url"], session["key"], session["pid"]) == (base_url, key, process.pid)


def test_a_second_one_takes_another_port_and_leaves_the_first_alone(up, built):
    first = json.loads(session_file(built).read_text())
    with running(built, "--json") as (process, printed):
        ready = json.loads(printed)
        assert ready["base_url"] != up[1] and ready["api_key"] != up[2] and ready["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not session_file(built).exists()  # the second had announced itself over the first
    session_file(built).touch(0o600)
    session_file(built).write_text(json.dumps(first))


def test_chat_reads_questions_from_a_pipe(up, here):
    done = here(
        "chat", "--temperature", "0", "--max-tokens", "32", stdin="What is the capital of France?\n\n"
    )
    assert done.returncode == 0 and "Paris" in done.stdout and "tok/s" in done.stderr


def test_chat_remembers_the_lines_before(up, here):
    stdin = "My name is Alice.\nWhat is my name?\n/stats\n"
    done = here("chat", "opus", "--temperature", "0", "--max-tokens", "24", "--json", stdin=stdin)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 2 and answers[1]["prompt_tokens"] > answers[0]["prompt_tokens"] + 8
    assert "2 answers" in done.stderr and answers[0]["cost"] >= 0


def test_chat_takes_all_of_stdin_as_one_prompt(up, here):
    done = here("chat", "-", "--max-tokens", "8", "--json", stdin="/help\nis a word.\nSay yes.\n")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["question"].startswith("/help\nis")


def test_the_same_seed_gives_the_same_answer(up, here):
    arguments = ("chat", "--temperature", "1", "--seed", "7", "--max-tokens", "24")
    assert (
        here(*arguments, stdin="Tell me a story.").stdout == here(*arguments, stdin="Tell me a story.").stdout
    )


def test_chat_with_an_unknown_tier_names_those_that_exist(up, here):
    done = here("chat", "nonesuch", stdin="hello")
    assert done.returncode == 3 and "use one of: opus" in done.stderr


def test_compare(up, here):
    done = here(
        "compare", "What is the capital of France?", "--temperature", "0", "--max-tokens", "24", "--json"
    )
    answers = json.loads(done.stdout)["answers"]
    assert [a["tier"] for a in answers] == ["opus"] and "Paris" in answers[0]["answer"]
    assert answers[0]["first_token_seconds"] > 0 and answers[0]["cost"] > 0
    shown = here("compare", "What is the capital of France?", "--temperature", "0", "--max-tokens", "24")
    assert "Paris" in shown.stdout and "tok/s" in shown.stdout and "opus" in shown.stdout


def test_env_leads_no_name_to_a_missing_tier(up, here, tmp_path):
    """Evaluated by bash, as users do; every model variable names a tier that the server lists."""
    script = f"{here('env').stdout}\nenv -0"
    seen = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    values = dict(entry.split("=", 1) for entry in seen.stdout.split("\0") if "=" in entry)
    assert values["ANTHROPIC_BASE_URL"] == up[1] and values["OPENAI_BASE_URL"] == up[1] + "/v1"
    assert values["ANTHROPIC_API_KEY"] == values["OPENAI_API_KEY"] == up[2]
    named = {n: v for n, v in values.items() if n.endswith("_MODEL")}
    assert len(named) == 7 and set(named.values()) == {"opus"}
    assert (
        values["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0" and int(values["CLAUDE_CODE_MAX_OUTPUT_TOKENS"]) > 0
    )


def test_models_lists_built_and_declared(up, here):
    rows = json.loads(here("models", "--json").stdout)["tiers"]
    states = {row["name"]: row["state"] for row in rows}
    assert states["opus"] == "built" and "declared" in states.values()
    assert all(row["cure"] for row in rows if row["state"] != "built")
    assert "mythos build pocket --tier sonnet" in here("models").stdout


def test_usage_counts_what_was_asked(up, here):
    here("chat", "--max-tokens", "4", stdin="Hi")
    rows = json.loads(here("usage", "--json").stdout)["usage"]
    assert any(row["tier"] == "opus" and row["output_tokens"] > 0 for row in rows)


def test_doctor_is_content(up, here):
    done = here("doctor", "--json")
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["status"] == "fail"]
    assert done.returncode == 0 and report["ok"] and not failed
    assert {"database", "session", "weights pocket/opus"} <= {check["name"] for check in report["checks"]}


def test_ctrl_c_ends_it_cleanly(built, here):
    """The address answers no more, the file is gone, the exit code is 0."""
    with running(built) as (process, printed):
        found = READY.search(printed)
        assert found
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not session_file(built).exists()
    with pytest.raises(OSError):
        urllib.request.urlopen(found[1] + "/healthz", timeout=5)


def children(pid: int) -> set[int]:
    """Processes that `pid` has started and not yet collected."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    return {int(s.split()[0]) for s in stats if int(s.rpartition(")")[2].split()[1]) == pid}


@pytest.mark.slow
def test_three_ranks_answer_and_end_with_ctrl_c(built, here):
    done = here("up", "--once", "--ranks", "2")
    assert done.returncode == 1
    assert "--ranks is 2, which does not divide the 9 heads." in done.stderr
    assert "Change it to one of 1, 3." in done.stderr
    with running(built, "--ranks", "3") as (process, printed):
        found = READY.search(printed)
        assert found
        ranks = children(process.pid)
        assert len(ranks) == 2
        answer = here(
            "chat", "--temperature", "0", "--max-tokens", "16", stdin="What is the capital of France?\n"
        )
        assert "Paris" in answer.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_a_killed_one_is_ignored(built, here):
    with running(built) as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert session_file(built).exists()
        done = here("env")
        assert done.returncode == 5 and "mythos up" in done.stderr
        checks = {c["name"]: c for c in json.loads(here("doctor", "--json").stdout)["checks"]}
        assert checks["session"]["status"] == "ok" and "gone" in checks["session"]["detail"]
    session_file(built).unlink()


def test_chat_starts_an_engine_when_none_runs(built, here):
    began = time.monotonic()
    done = here("chat", "--temperature", "0", "--max-tokens", "16", stdin="What is the capital of France?\n")
    assert done.returncode == 0 and "Paris" in done.stdout, (done.stderr, time.monotonic() - began)
    assert not session_file(built).exists()


def test_damaged_weights_are_not_served(built, tmp_path):
    """One flipped bit: exit code 7 from `serve`, and doctor names the cure that makes them good again."""
    copy = {"MYTHOS_HOME": str(tmp_path / "home"), "MYTHOS_KEYS": built["MYTHOS_KEYS"]}
    subprocess.run(["cp", "-a", built["MYTHOS_HOME"], copy["MYTHOS_HOME"]], check=True)
    (weights,) = Path(copy["MYTHOS_HOME"]).rglob("model.safetensors.enc")
    with weights.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    run = runner(copy)
    done = run("serve")
    assert done.returncode == 7 and "cure: " in done.stderr
    done = run("doctor", "--json")
    (check,) = (c for c in json.loads(done.stdout)["checks"] if c["name"] == "weights pocket/opus")
    assert done.returncode == 1 and check["status"] == "fail" and "mythos build opus" in check["cure"]


@pytest.mark.slow
def test_decisions_of_another_key_do_not_count(built, tmp_path):
    """With the operator's key gone nothing is served; `build` renews the decision under the new one."""
    copy = {"MYTHOS_HOME": str(tmp_path / "home"), "MYTHOS_KEYS": str(tmp_path / "keys")}
    subprocess.run(["cp", "-a", built["MYTHOS_HOME"], copy["MYTHOS_HOME"]], check=True)
    run = runner(copy)
    run("key", "new", "laptop")
    for command in (["serve"], ["chat"]):
        done = run(*command, stdin="hello\n")
        assert done.returncode == 4 and "mythos build opus" in done.stderr
    assert run("doctor").returncode == 1
    assert run("build", "opus").returncode == 0
    assert run("up", "--once").returncode == 0
