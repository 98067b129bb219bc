"""The `llm` command line, with `mythos up` as an OpenAI-compatible endpoint and as a model of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.clients.environments import Unavailable, clean_environment, python_client

pytestmark = pytest.mark.clients

CLIENT = "llm-0.36"
QUESTION = "What is the capital of France?"


@pytest.fixture
def llm(pocket: dict[str, str], tmp_path: Path):
    """llm(*arguments) is what it prints; its settings lie in an empty directory."""
    try:
        python = python_client(CLIENT)
    except Unavailable as reason:
        pytest.skip(str(reason))

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, "-m", "llm", *arguments],
            env=clean_environment(LLM_USER_PATH=str(tmp_path), HOME=str(tmp_path)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def endpoint(llm, pocket: dict[str, str]):
    """Asks with `llm openai endpoint`."""
    url, key = pocket["OPENAI_BASE_URL"], pocket["OPENAI_API_KEY"]
    return lambda *arguments: llm("openai", "endpoint", url, "--key", key, *arguments)


@pytest.mark.parametrize("how", [[], ["--no-stream"]], ids=["stream", "whole"])
def test_endpoint(endpoint, how):
    assert "Paris" in endpoint("-m", "opus", *how, QUESTION)


def test_endpoint_models(endpoint):
    assert "opus" in endpoint("--models").split()


def test_endpoint_schema(endpoint):
    answer = json.loads(endpoint("-m", "opus", "--schema", "city str, large bool", QUESTION))
    assert isinstance(answer["city"], str) and isinstance(answer["large"], bool)


def test_configured_model(llm, pocket: dict[str, str], tmp_path: Path):
    """As documented for extra-openai-models.yaml; the answer and its usage go to llm's log."""
    fields = {"model_id": "mythos", "model_name": "opus", "api_key_name": "mythos"}
    fields["api_base"] = pocket["OPENAI_BASE_URL"]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([fields]))  # JSON is YAML too
    (tmp_path / "keys.json").write_text(json.dumps({"mythos": pocket["OPENAI_API_KEY"]}))
    assert "Paris" in llm("-m", "mythos", QUESTION)
    (logged,) = json.loads(llm("logs", "--json"))
    assert logged["model"] == "mythos" and "Paris" in logged["response"]
    assert logged["input_tokens"] > 0 and logged["output_tokens"] > 0
