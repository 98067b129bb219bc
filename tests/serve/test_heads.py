"""A server signs the log by itself: what it refused and acknowledged is soon under a tree head."""

import json
import time

import pytest
import sqlalchemy as sa

from mythos.ledger.log import ledger, tree_heads
from mythos.ledger.verify import verify
from mythos.store.own_log import own_log, tiles_of
from tests.serve.gated import Gated
from tests.serve.live import ask, serve


@pytest.fixture(scope="module")
def gated(tmp_path_factory) -> Gated:
    made = Gated(tmp_path_factory.mktemp("gated"))
    made.release("small")
    made.acme = made.organisation("acme-def")  # type: ignore[attr-defined]
    made.grant("acme-def")
    return made


def signed(gated: Gated) -> list[int]:
    with gated.store.read() as conn:
        return list(conn.scalars(sa.select(tree_heads.c.size).order_by(tree_heads.c.size)))


def acknowledged(gated: Gated) -> int | None:
    """The place in the ledger of the newest acknowledgement."""
    with gated.store.read() as conn:
        events = [json.loads(event) for event in conn.scalars(sa.select(ledger.c.event))]
    found = [event["seq"] for event in events if event.get("record") == "acknowledgement"]
    return found[-1] if found else None


def soon(holds) -> bool:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(holds())


def test_refusals_and_acknowledgements_are_signed_without_anybody_asking(gated):
    """Two servers on one data directory, and a clock that the test moves on."""
    with (
        gated.tiny.engine() as engine,
        gated.tiny.engine() as other,
        serve(gated.tiny, engine) as live,
        serve(gated.tiny, other) as second,
    ):
        assert soon(lambda: len(signed(gated)) == 1)  # at the start: one head, by one of them
        suspension = gated.suspend()
        assert soon(lambda: len(gated.state.acknowledged.get(suspension.id, ())) == 2)
        for server in (live, second):
            with server.http(gated.acme) as http:
                assert http.post("/v1/messages", json=ask()).status_code == 404
        place = acknowledged(gated)
        time.sleep(2.5)  # both have looked: a minute has not gone by
        assert len(signed(gated)) == 1 and place is not None and signed(gated)[-1] <= place
        gated.ahead += 61
        assert soon(lambda: signed(gated)[-1] > place)
        time.sleep(2.5)
        assert len(signed(gated)) == 2  # by one of them, once
    log = own_log(gated.home)
    report = verify(gated.store, tiles_of(gated.home), log, (), ())
    assert report.faults == () and report.heads == 2
