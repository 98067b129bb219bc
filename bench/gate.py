"""What the gate costs one request: deciding, signing the receipt, and verifying it offline.

    PYTHONPATH=src python bench/gate.py [--calls 20000] [--grants 10000]

A DRILL deployment is made in a temporary directory. Its grants go through the gate's own check and record
writer, but in one transaction (one fsync) instead of one each. With MYTHOS_HOME naming a home that has built
tiers, the calls are measured again while 16 answers decode in the same process.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.gate.town import DAY, W1, Town
from tests.gate.world import make_family
from tests.receipts.world import alone, answered, document, new_town

from mythos.gate import acts
from mythos.gate.apply import apply
from mythos.gate.authorize import authorize, load_standing
from mythos.gate.handling import issue_handling
from mythos.gate.submit import state_in
from mythos.records.bundle import verify_document
from mythos.records.dsse import key_id
from mythos.records.grant import Grant
from mythos.records.ids import new_id
from mythos.records.permit import Action, Permit
from mythos.records.principal import OPERATOR, Principal
from mythos.records.profile import NO_PROFILE
from mythos.records.receipt import Receipt
from mythos.records.release import Stage
from mythos.records.signed import seal
from mythos.spec.family import Family
from mythos.store.record_log import write_record
from mythos.store.weights import register

ORGS = 40  # the cap of the house policy's first class
STREAMS = 16
PURPOSE = "cyber_defence"


def family_of() -> Family:
    made = make_family()
    tiers = tuple(replace(tier, family="fam") for tier in made.tiers)
    return replace(made, name="fam", tiers=tiers)


def grant_all(town: Town, count: int) -> None:
    """`count` grants over ORGS organisations; checked one by one, written in one transaction."""
    secret = town.keys["rso-1"]
    for n in range(ORGS):
        place = {"jurisdiction": "US"}
        acts.add_organisation(
            town.store, town.clock, OPERATOR, f"org{n}", "researchers", place, "", "rso-1", secret
        )
    with town.store.begin() as conn:
        state = state_in(town.store, conn).clone()
        for n in range(count):
            grant = Grant(
                id=new_id("grant"),
                deployment=state.deployment,
                org=f"org{n % ORGS}",
                family="fam",
                tier="capybara",
                profile=NO_PROFILE,
                stage=Stage.EARLY_ACCESS,
                purposes=(PURPOSE,),
                jurisdictions=(),
                starts_at=town.now,
                expires_at=town.now + 30 * DAY,
                parent="",
                by="rso-1",
            )
            envelope = seal(grant, secret)

            def decide(seq: int, now: float, envelope: bytes = envelope) -> str:
                return apply(state, seq, now, envelope).id

            write_record(conn, town.clock, OPERATOR, "grant", envelope, decide)


def measured(calls: int, town: Town, family: Family) -> dict[str, float]:
    """Microseconds of standing + authorize + receipt signing, and of the first two alone."""
    server, whole, decided = key_id(town.server.public_key()), [], []
    for n in range(calls):
        caller = Principal("key_1", "key", f"org{n % ORGS}", {"purpose": PURPOSE})
        began = time.perf_counter()
        standing = load_standing(town.home, town.store, family)
        permit = authorize(standing, caller, Action.ANSWER, "capybara", PURPOSE, town.now)
        between = time.perf_counter()
        assert isinstance(permit, Permit), permit
        receipt = Receipt(
            new_id("rcpt"), standing.state.deployment, server, "fam", permit.tier, permit.tier, permit.root,
            permit.profile, "exact", "eager-int8", permit.decision, permit.purpose, "0" * 64, "0" * 64,
            "0" * 64, "end", 10, 10, town.now, n,
        )  # fmt: skip
        seal(receipt, town.server)
        whole.append(time.perf_counter() - began)
        decided.append(between - began)
    return {
        "p50": at(whole, 50),
        "p99": at(whole, 99),
        "decide_p50": at(decided, 50),
        "decide_p99": at(decided, 99),
    }


def at(seconds: list[float], percent: int) -> float:
    return round(statistics.quantiles(seconds, n=100)[percent - 1] * 1e6, 1)


@contextmanager
def decoding() -> Iterator[str]:
    """STREAMS answers of a built tier, one after the other, until the block ends; yields its name, or ""."""
    from mythos.cli import local
    from mythos.cli.naming import default_tier
    from mythos.engine.request import Request, Sampling
    from mythos.records.errors import MythosError
    from mythos.spec.load import load_family

    try:
        records, family = local.open_records(), load_family("pocket")
        name = default_tier([tier.name for tier in family.tiers], local.usable(records, family))
    except MythosError as error:
        print(f"not measured under load: {error.message}", file=sys.stderr)
        yield ""
        return
    service, ended = local.start_service(records, family), threading.Event()
    permit = local.require(local.standing(records, family), name, Action.ANSWER, records.clock.now())

    def stream(n: int) -> None:
        while not ended.is_set():
            request = Request(tuple(range(100 + n, 132 + n)), 256, Sampling(0.0), stop_at_eos=False)
            generation = service.engine.submit(permit, request)
            for _ in generation:
                if ended.is_set():
                    generation.cancel()

    service.engine.loaded(permit)
    threads = [threading.Thread(target=stream, args=(n,), daemon=True) for n in range(STREAMS)]
    for thread in threads:
        thread.start()
    try:
        yield name
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        service.close()
        service.engine.stop()


def median_ms(work: Callable[[], object], rounds: int = 30) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1e3, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--grants", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        town, family = new_town(Path(place)), family_of()
        release = town.released(None)
        envelope = issue_handling(town.home, town.clock, "fam", "capybara", W1)
        register(town.store, town.clock, OPERATOR, "fam", "capybara", W1, {}, envelope)
        began = time.perf_counter()
        grant_all(town, args.grants)
        made = time.perf_counter() - began
        result: dict[str, object] = {"calls": args.calls, "grants": args.grants, "organisations": ORGS}
        result["grants_path"] = "gate.apply and record writer, one transaction"
        result["grants_seconds"] = round(made, 2)
        result["microseconds"] = measured(args.calls, town, family)
        with decoding() as tier:
            if tier:
                time.sleep(2.0)  # past the prompts
                result["microseconds_while_decoding"] = measured(args.calls, town, family)
                result["decoding"] = f"{STREAMS} streams of {tier}"
        data = document(town, answered(town, release))
        with redirect_stdout(io.StringIO()):
            assert alone.judge(data, town.state.deployment) == "verified"
            alone_ms = median_ms(lambda: alone.judge(data, town.state.deployment))
        result["bundle_bytes"] = len(data)
        result["verify_ms"] = median_ms(lambda: verify_document(data, town.state.deployment))
        result["verify_alone_ms"] = alone_ms
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
