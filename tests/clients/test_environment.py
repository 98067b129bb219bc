"""Both SDKs with nothing but what `mythos env` exports: no argument names a server or a key."""

import subprocess

import pytest

from tests.clients.environments import Unavailable, clean_environment, python_client

pytestmark = pytest.mark.clients

ANTHROPIC = """
from anthropic import Anthropic
asked = [{"role": "user", "content": "What is the capital of France?"}]
print(Anthropic().messages.create(model="opus", max_tokens=32, messages=asked).content[0].text)
"""
OPENAI = """
from openai import OpenAI
asked = [{"role": "user", "content": "What is the capital of France?"}]
answer = OpenAI().chat.completions.create(model="opus", max_tokens=32, messages=asked)
print(answer.choices[0].message.content)
"""


@pytest.mark.parametrize(
    ("client", "program"),
    [
        ("anthropic-2.12.0", ANTHROPIC),
        ("anthropic-1.17.0", ANTHROPIC),
        ("openai-3.54.0", OPENAI),
        ("openai-2.54.0", OPENAI),
    ],
)
def test_real_answer(client: str, program: str, pocket: dict[str, str]):
    try:
        python = python_client(client)
    except Unavailable as reason:
        pytest.skip(str(reason))
    done = subprocess.run(
        [python, "-c", program], env=clean_environment(**pocket), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
