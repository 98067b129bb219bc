"""The other engines' workers with the real engines behind them, where `make bench-peers` has put them."""

from pathlib import Path

import pytest

from mythos.cli.bench import CHECKOUT, PEERS, peer_packages, prepare, weight_bytes, worker
from mythos.cli.bench_measure import Case, measure

pytestmark = pytest.mark.peers
CASES = [Case("prefill", 512), Case("decode", 1, 16), Case("decode", 16, 16), Case("prefix", 1)]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_does_what_it_is_asked(
    name: str, opus_home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = peer_packages(CHECKOUT)
    if not isinstance(packages, Path):
        pytest.skip(packages)
    for variable, value in opus_home.items():
        monkeypatch.setenv(variable, value)
    _, tier, file = prepare("pocket", None)
    with worker(name, [str(CHECKOUT / "bench" / f"{name}_worker.py")], 2, packages) as peer:
        about = peer.ask("load", file=str(file), threads=2, file_weight_bytes=weight_bytes(file))
        assert 80e6 < about["weight_bytes"] < 110e6
        assert name in " ".join(about["versions"])
        for case in CASES:
            figures = measure(case, peer, tier.config.vocab, 1)
            assert set(figures) == {metric.name for metric in case.metrics}
            if case.kind == "prefix":
                assert figures["prefix-warm"] < figures["prefix-cold"] / 2
