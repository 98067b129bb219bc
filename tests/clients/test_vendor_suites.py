"""The vendors' own tests, unmodified, against a deployment with the keys and names that they use."""

from collections.abc import Iterator

import pytest

from tests.clients import report
from tests.clients.deployment import TIER, deployed
from tests.clients.environments import Unavailable
from tests.clients.suites import SUITES, Suite, compare, explanations, run_suite

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def vendor_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:

    keys = [key for suite in SUITES for key in suite.keys]
    aliases = {name: TIER for suite in SUITES for name in suite.models}
    with deployed(tmp_path_factory.mktemp("vendor"), keys, aliases, max_output=64) as (_, base_url):
        yield base_url


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_exactly_the_explained_tests_fail(suite: Suite, vendor_server: str):
    try:
        outcomes = run_suite(suite, vendor_server)
    except Unavailable as reason:
        pytest.skip(str(reason))
    wrong = compare(outcomes, explanations(suite))
    assert not wrong, "\n".join(wrong)
    table = report.suite_table(suite, outcomes)
    assert table in report.DOCUMENT.read_text(), "python -m tests.clients.report writes the new table"
