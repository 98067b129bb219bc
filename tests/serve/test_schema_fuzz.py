"""schemathesis on our own OpenAPI description: what it says is what the server does."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from tests.serve.live import Live

schema = schemathesis.pytest.from_fixture("description")

# Rules across fields (a forced tool needs tools, a tool call needs its result) cannot be said in OpenAPI, so
# not all that fits the description is accepted.
LEFT_OUT = {"positive_data_acceptance"}


@pytest.fixture
def description(live: Live):
    found = schemathesis.openapi.from_url(f"{live.base_url}/openapi.json", headers={"x-api-key": live.key})
    found.config.update(base_url=live.base_url)
    return found


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_keeps_to_its_description(case, live: Live):
    body = case.body
    if isinstance(body, dict) and "model" in body:
        body["model"] = "small"  # a name that is known, so that the rest of the request matters
        for name in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(name), int) and not isinstance(body[name], bool):
                body[name] = min(body[name], 4)
    excluded = [check for check in CHECKS.get_all() if check.__name__ in LEFT_OUT]
    case.call_and_validate(headers={"x-api-key": live.key}, excluded_checks=excluded)
