"""Deployments for clients to talk to, and clients that run once and are asked about many times."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mythos.serve.settings import Limits, Settings
from tests.clients import report
from tests.clients.deployment import KEY, deployed
from tests.clients.environments import CACHE, ROOT, Unavailable, clean_environment, python_client

SCRIPTS = Path(__file__).resolve().parent / "scripts"
FOUND = pytest.StashKey[list[tuple[str, str, str]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function, call: pytest.CallInfo[None]):
    """Notes what was found about which client, for the table in the documentation."""
    found = yield
    params = item.callspec.params if hasattr(item, "callspec") else {}
    client = params.get("seen") or params.get("client") or getattr(item.module, "CLIENT", None)
    if client and (call.when == "call" or found.outcome != "passed"):
        feature = item.originalname.removeprefix("test_").replace("_", " ")
        item.config.stash.setdefault(FOUND, []).append((client, feature, found.outcome))
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.config.stash.get(FOUND, [])
    if found:
        report.note(found)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a deployment that knows KEY."""
    with deployed(tmp_path_factory.mktemp("server"), [KEY]) as (_, base_url):
        yield base_url


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Deployments that refuse for reasons of their own: one request a minute, damaged weights, stopping."""
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
    """sdk(client, script)(step) is what the step saw. A client runs once; tests skip when there is none."""
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


@pytest.fixture(scope="session")
def pocket() -> Iterator[dict[str, str]]:
    """What `mythos env` exports while `mythos up` serves the pocket family: real weights, shipped commands.

    The family file differs from the packaged one in its default temperature, which not every client can set:
    a model this small is not always right at 0.2. The home is kept in the cache, so that weights are fetched
    and built once.
    """
    packaged = (ROOT / "src" / "mythos" / "families" / "pocket.toml").read_text()
    assert packaged.count("temperature = 0.2") == 1
    place = CACHE / "pocket"
    own = {"MYTHOS_HOME": f"{place}/home", "MYTHOS_KEYS": f"{place}/keys", "PYTHONPATH": f"{ROOT}/src"}
    environment = clean_environment(**own)
    mythos = [sys.executable, "-m", "mythos.cli"]
    place.mkdir(parents=True, exist_ok=True)
    family = place / "pocket.toml"
    family.write_text(packaged.replace("temperature = 0.2", "temperature = 0.0"))
    command = [*mythos, "up", str(family)]
    with (
        open(place / "up.log", "w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as up,
    ):
        try:
            assert up.stdout is not None
            ready = any(line.startswith("api_key = ") for line in up.stdout)
            if not ready and up.wait() == 6:  # the exit code of what could not be fetched
                said = (place / "up.log").read_text().splitlines()
                pytest.skip(next(line for line in said if line.startswith("error: ")))
            assert ready, (place / "up.log").read_text()
            told = subprocess.run([*mythos, "env", "--json"], env=environment, capture_output=True, text=True)
            assert told.returncode == 0, told.stderr
            yield json.loads(told.stdout)["set"]
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)
