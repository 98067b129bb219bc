"""The other engines' workers with the real engines behind them, where `make bench-peers` has put them."""

from pathlib import Path

import pytest

from mythos.cli.bench import prepare
from mythos.cli.bench_gguf import weight_bytes
from mythos.cli.bench_measure import Case, measure
from mythos.cli.bench_peers import PEERS, STAND_IN, Peer, command, in_form, peer_packages, worker

pytestmark = pytest.mark.peers
CASES = [Case("prefill", 512), Case("decode", 1, 16), Case("decode", 16, 16), Case("prefix", 1)]


@pytest.mark.parametrize("peer", [*PEERS, STAND_IN], ids=lambda peer: peer.name)
def test_a_peer_does_what_it_is_asked(
    peer: Peer, opus_home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = peer_packages(peer)
    if not isinstance(packages, Path):
        pytest.skip(packages)
    for variable, value in opus_home.items():
        monkeypatch.setenv(variable, value)
    _, tier, file = prepare("pocket", None)
    model = {"file": str(file), "threads": 2, "file_weight_bytes": weight_bytes(file)}
    with worker(peer.name, command(peer), 2, packages) as process:
        about = process.ask("load", **in_form(peer, model))
        most = 150e6 if peer.form == "q8_0" else 110e6
        assert 80e6 < about["weight_bytes"] < most
        assert peer.engine in " ".join(about["versions"]).replace("llama-cpp-python", "llamacpp")
        for case in CASES:
            figures = measure(case, process, tier.config.vocab, 1)
            assert set(figures) == {metric.name for metric in case.metrics}
            if case.kind == "prefix":
                assert figures["prefix-warm"] < figures["prefix-cold"] / 2
