"""The vendors' own test suites, unmodified, against a server of ours: run, counted, explained.

Each suite comes from its package's source distribution and runs in its package's environment, as its authors
run it, but in one process (`-o addopts=` drops their `-n auto`). What may fail, and why, is in
`explained.toml`; a failure is explained only when it says what the explanation says it does.
"""

import json
import re
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.clients.environments import RESULTS, clean_environment, python_client, python_source

EXPLAINED = Path(__file__).resolve().parent / "explained.toml"


@dataclass(frozen=True, slots=True)
class Suite:
    """A package at a version, those of its tests that concern us, and what they expect to be there."""

    name: str
    path: str  # of our server, that its base URL ends in
    options: tuple[str, ...]
    files: tuple[str, ...]
    keys: tuple[str, ...]  # as in its tests/conftest.py
    models: tuple[str, ...]  # names that its tests ask for


SUITES = (
    Suite(
        name="anthropic-2.12.0",
        path="",
        options=("-p", "tests._alias_httpx"),
        files=(
            "tests/api_resources/test_messages.py",
            "tests/api_resources/test_models.py",
            "tests/api_resources/messages/test_batches.py",
        ),
        keys=("my-anthropic-api-key",),
        models=(
            "claude-opus-5-5",
            "model_id",
            # the package's DEPRECATED_MODELS, one test asks for each of them
            "claude-1.3",
            "claude-1.3-100k",
            "claude-instant-1.1",
            "claude-instant-1.1-100k",
            "claude-instant-1.2",
            "claude-3-sonnet-20240229",
            "claude-3-opus-20240229",
            "claude-2.1",
            "claude-2.0",
            "claude-3-7-sonnet-latest",
            "claude-3-7-sonnet-20250219",
            "claude-3-5-haiku-latest",
            "claude-3-5-haiku-20241022",
            "claude-opus-4-0",
            "claude-opus-4-20250514",
            "claude-sonnet-4-0",
            "claude-sonnet-4-20250514",
            "claude-mythos-preview",
            "claude-sonnet-4-5",
            "claude-sonnet-4-5-20250929",
        ),
    ),
    Suite(
        name="openai-3.54.0",
        path="/v1",
        options=(),
        files=(
            "tests/api_resources/chat/test_completions.py",
            "tests/api_resources/test_models.py",
            "tests/api_resources/test_responses.py",
        ),
        keys=("My API Key", "My Admin API Key"),
        models=("gpt-6-astra",),
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test of a suite. `state` is passed, failed or skipped; `says` the first lines of a failure."""

    file: str
    test: str  # with its parameters: test_method_create[strict]
    state: str
    says: str = ""

    @property
    def name(self) -> str:
        """Without class and parameters."""
        return self.test.partition("::")[2].partition("[")[0]

    @property
    def asks(self) -> bool:
        """Whether the test sends a request. These do not: they check arguments, or answer themselves."""
        return not self.name.startswith("test_path_params_") and not self.name.endswith("_results")


def run_suite(suite: Suite, base_url: str) -> list[Outcome]:
    """Run the suite against the server at `base_url`; the outcomes also go to RESULTS. Raises Unavailable."""
    python = python_client(suite.name)
    source = python_source(suite.name)
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = RESULTS / f"{suite.name}.xml"
    report.unlink(missing_ok=True)
    options = ["-o", "addopts=", "-p", "no:cacheprovider", *suite.options, "--timeout=120", "--tb=line", "-q"]
    done = subprocess.run(
        [python, "-m", "pytest", *options, f"--junitxml={report}", *suite.files],
        cwd=source,
        env=clean_environment(TEST_API_BASE_URL=base_url + suite.path),
        capture_output=True,
        text=True,
        timeout=3600,
    )
    if done.returncode not in (0, 1):  # all passed, some failed
        raise RuntimeError(f"{suite.name}: pytest ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    outcomes = read_report(report, suite.files)
    rows = [asdict(outcome) for outcome in outcomes]
    (RESULTS / f"{suite.name}.json").write_text(json.dumps(rows, indent=1))
    return outcomes


def read_results(suite: Suite) -> list[Outcome]:
    """The outcomes of the suite's last run."""
    return [Outcome(**row) for row in json.loads((RESULTS / f"{suite.name}.json").read_text())]


def read_report(report: Path, files: Iterable[str]) -> list[Outcome]:
    """The outcomes in a JUnit report of pytest."""
    module_of = {file.removesuffix(".py").replace("/", "."): file for file in files}
    outcomes = []
    for case in ET.parse(report).getroot().iter("testcase"):
        module, _, group = case.attrib["classname"].rpartition(".")
        state, says = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                state, says = "failed", child.attrib.get("message", "")[:400]
            elif child.tag == "skipped" and state == "passed":
                state, says = "skipped", child.attrib.get("message", "")[:400]
        outcomes.append(Outcome(module_of[module], f"{group}::{case.attrib['name']}", state, says))
    return outcomes


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why tests of a file fail or are skipped. `tests` names them without class and parameters."""

    suite: str
    file: str
    reason: str  # short: the table's category
    why: str
    says: str  # a pattern found in the message of each
    tests: tuple[str, ...]
    state: str = "failed"

    def fits(self, outcome: Outcome) -> bool:
        return (outcome.file, outcome.state) == (self.file, self.state) and outcome.name in self.tests


def explanations(suite: Suite) -> list[Explanation]:
    """What `explained.toml` says about a suite."""
    rows = tomllib.loads(EXPLAINED.read_text())["explained"]
    found = [Explanation(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    return [explanation for explanation in found if explanation.suite == suite.name]


def compare(outcomes: list[Outcome], expected: list[Explanation]) -> list[str]:
    """The differences between what happened and what is explained; empty when there are none."""
    wrong = []
    for outcome in outcomes:
        fitting = [explanation for explanation in expected if explanation.fits(outcome)]
        if outcome.state != "passed" and not any(re.search(e.says, outcome.says) for e in fitting):
            wrong.append(f"unexplained: {outcome.file}::{outcome.test} {outcome.state}: {outcome.says}")
    for explanation in expected:
        for name in explanation.tests:
            met = [o for o in outcomes if o.file == explanation.file and o.name == name]
            if not met:
                wrong.append(f"explained, but there is no such test: {explanation.file}::{name}")
            wrong += [
                f"explained, but it {o.state}: {o.file}::{o.test}"
                for o in met
                if o.state != explanation.state
            ]
    return wrong
