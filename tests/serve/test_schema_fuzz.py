"""schemathesis on our own OpenAPI description: what it says is what the server does, and nothing is a 5xx."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Rules across fields (a forced tool needs tools, a tool call needs its result) cannot be said in OpenAPI, so
# not all that fits the description is accepted.
LEFT_OUT = "positive_data_acceptance"


@pytest.mark.slow
def test_the_server_keeps_to_its_description(live, tmp_path):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{live.base_url}/openapi.json"]
    command += ["--header", f"x-api-key: {live.key}", "--checks", "all", "--exclude-checks", LEFT_OUT]
    command += ["--max-examples", "60", "--seed", "1", "--no-color", "--suppress-health-check", "all"]
    hooks = Path(__file__).with_name("fuzz_hooks.py")
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": hooks.stem,
        "PYTHONPATH": os.pathsep.join([str(hooks.parent), *map(os.path.abspath, sys.path)]),
    }
    got = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert got.returncode == 0, got.stdout[-12_000:] + got.stderr[-2_000:]
