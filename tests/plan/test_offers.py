"""What an answer costs at each speed: a front of layouts, and ratios that follow from it."""

from itertools import pairwise

import pytest

from mythos.plan.errors import PlanError
from mythos.plan.hardware import hardware
from mythos.plan.offers import ANSWER, at_speed, offers, precision_of, premium, priced
from mythos.spec.load import load_family

FAMILY = load_family("mythos-10t")
GB300 = hardware("GB300")


@pytest.fixture(scope="module")
def fronts():
    return {tier.name: offers(tier.config, GB300) for tier in (FAMILY.tiers[0], FAMILY.tiers[-1])}


def test_faster_costs_more(fronts) -> None:
    for front in fronts.values():
        assert len(front) > 5
        for one, other in pairwise(front):
            assert one.tpot < other.tpot and one.seconds > other.seconds
        assert at_speed(front, 1e9) == front[-1] and at_speed(front, 1e-9) == front[0]
        chosen = at_speed(front, 0.05)
        assert chosen.tpot <= 0.05 and all(one.seconds >= chosen.seconds for one in front if one.tpot <= 0.05)


def test_cost_is_time_by_price(fronts) -> None:
    offer = at_speed(fronts["haiku"])
    told = priced(offer, GB300)
    assert told.tpot.central == pytest.approx(1e3 * offer.tpot)
    assert told.dollars.central == pytest.approx(offer.seconds / 3600 * (2.65 * 3.30) ** 0.5 * 1e6 / ANSWER)
    assert (
        told.dollars.high / told.dollars.low > told.tpot.high / told.tpot.low
    )  # the price is uncertain, too
    throughput = offer.batch / offer.tpot / offer.deployment.accelerators  # answer tokens a second of one
    assert offer.seconds == pytest.approx(ANSWER / throughput)


def test_premium_is_the_ratio_and_turns_around(fronts) -> None:
    small, large = (at_speed(front) for front in fronts.values())
    told, back = premium(large, small, GB300), premium(small, large, GB300)
    assert told.central == pytest.approx(large.seconds / small.seconds) and told.low > 2
    assert told.value == pytest.approx(1 / back.value, rel=0.02)
    assert told.high == pytest.approx(1 / back.low, rel=0.02)
    assert "price" not in [one.name for one in told.effects if one.swing > 1e-9]


def test_the_weights_must_fit_into_a_domain() -> None:
    with pytest.raises(PlanError, match="No replica within 8 H100"):
        offers(FAMILY.tiers[-1].config, hardware("H100"))
    assert (precision_of(GB300), precision_of(hardware("H100")), precision_of(hardware("A100"))) == (
        "fp4",
        "fp8",
        "bf16",
    )
    with pytest.raises(PlanError, match="No price of Trainium3"):
        priced(at_speed(offers(FAMILY.tiers[0].config, hardware("Trainium3"))), hardware("Trainium3"))
