"""Deployments for clients to talk to, and clients that run once and are asked about many times."""

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from environments import Unavailable, clean_environment, python_client

SCRIPTS = Path(__file__).resolve().parent / "scripts"
KEY = "sk-mythos-of-these-tests"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a deployment that knows KEY."""
    from deployment import deployed

    with deployed(tmp_path_factory.mktemp("server"), [KEY]) as (_, base_url):
        yield base_url


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Deployments that refuse for reasons of their own: one request a minute, damaged weights, stopping."""
    from deployment import deployed

    from mythos.serve.settings import Limits, Settings

    with (
        deployed(tmp_path_factory.mktemp("limited"), [KEY], settings=Settings(limits=Limits(requests=1))) as (
            _,
            limited,
        ),
        deployed(tmp_path_factory.mktemp("damaged"), [KEY], damage=True) as (_, damaged),
        deployed(tmp_path_factory.mktemp("stopping"), [KEY]) as (service, stopping),
    ):
        body = b'{"model":"opus","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'
        headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
        urllib.request.urlopen(urllib.request.Request(f"{stopping}/v1/messages", body, headers)).close()
        service.engine.stop()
        yield {"limited": limited, "damaged": damaged, "stopping": stopping}


@pytest.fixture(scope="session")
def sdk(server: str, troubled: dict[str, str]) -> Callable[[str, str], Callable[[str], Any]]:
    """sdk(client, script)(step) is what the step saw. A client runs once; tests skip when it cannot be had."""
    seen: dict[str, Any] = {}

    def run(client: str, script: str) -> Callable[[str], Any]:
        if client not in seen:
            try:
                python = python_client(client)
            except Unavailable as reason:
                seen[client] = reason
            else:
                others = [f"{name}={url}" for name, url in troubled.items()]
                done = subprocess.run(
                    [python, SCRIPTS / script, server, KEY, "opus", *others],
                    env=clean_environment(),
                    capture_output=True,
                    text=True,
                    timeout=600,
                )
                assert done.returncode == 0, done.stderr
                seen[client] = json.loads(done.stdout)
        if isinstance(seen[client], Unavailable):
            pytest.skip(str(seen[client]))

        def facts(step: str) -> Any:
            result = seen[client][step]
            assert "raised" not in result, result["raised"]
            return result

        return facts

    return run
