"""`mythos console` as a command: says where it is, answers, and its key dies with it."""

import json
import os
import signal
import subprocess
import sys

import httpx

from mythos.store.listeners import listeners
from tests.console.world import ConsoleTown, browser


def test_the_command_serves_and_its_key_dies_with_it(tmp_path) -> None:
    town = ConsoleTown(tmp_path)
    town.store.close()
    places = {"MYTHOS_HOME": str(town.home.path), "MYTHOS_KEYS": str(town.home.keys)}
    environment = {**os.environ, **places}
    command = [sys.executable, "-m", "mythos.cli", "console", "--port", "0", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = json.loads(running.stdout.readline())
        try:
            with browser(said["base_url"]) as one:
                assert one.get("/vault").status_code == 401
                assert one.sign_in(said["api_key"]).status_code == 303
                page = one.get("/vault").text
                assert "mythos vault add FILE" in page and "operator" in page
                assert one.send("/sign-out", {}).status_code == 401
            with httpx.Client(base_url=said["base_url"]) as http:
                assert http.get("/", headers={"x-api-key": said["api_key"]}).status_code == 401
            assert listeners(town.home) == [("console", said["base_url"])]
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    assert listeners(town.home) == []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as again:
        assert again.stdout is not None
        other = json.loads(again.stdout.readline())
        try:
            with browser(other["base_url"]) as one:
                assert one.sign_in(said["api_key"]).status_code == 401
                assert one.sign_in(other["api_key"]).status_code == 303
        finally:
            again.send_signal(signal.SIGTERM)
        assert again.wait(30) == 0
