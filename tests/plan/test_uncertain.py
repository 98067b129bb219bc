"""Draws have the quantiles that were stated; intervals widen with their inputs; the strongest input is
named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.plan.uncertain import Assumption, AssumptionError, answers, changed, draw


def assumption(name: str, low: float, value: float, high: float, **more) -> Assumption:
    return Assumption(name, low, value, high, unit="", source="made up", dated="", **more)


@pytest.mark.parametrize("form", ["log", "plain"])
def test_draws_have_the_stated_quantiles(form) -> None:
    drawn = draw(assumption("x", 1, 2, 7, form=form), 4000, seed=3)
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx([1, 2, 7], rel=2e-3)


def test_draws_stay_within_their_limits() -> None:
    drawn = draw(assumption("share", 0.5, 0.8, 0.95, form="plain", least=0, most=1), 4000, seed=0)
    assert drawn.min() >= 0 and drawn.max() == 1


@given(
    low=st.floats(0.1, 1),
    high=st.floats(1, 10),
    wider=st.floats(1.05, 3),
    seed=st.integers(0, 9),
    power=st.sampled_from([-1.5, -0.5, 0.5, 2.0]),
)
@settings(max_examples=40, deadline=None)
def test_wider_input_wider_interval(low, high, wider, seed, power) -> None:
    def model(inputs):
        return {"alone": 3 * inputs["x"] ** power, "product": inputs["x"] ** power * inputs["z"]}

    other = assumption("z", 0.9, 1, 1.2)
    narrow = answers(model, [assumption("x", low, 1, high), other], draws=1000, seed=seed)
    wide = answers(model, [assumption("x", low / wider, 1, high * wider), other], draws=1000, seed=seed)
    one, two = narrow["alone"], wide["alone"]
    assert two.low < one.low <= one.value <= one.high < two.high
    one, two = narrow["product"], wide["product"]
    assert two.high / two.low > one.high / one.low * 0.98  # draws of two inputs meet at random


def test_the_strongest_input_is_named_and_a_further_one_changes_no_draw() -> None:
    def model(inputs):
        return {"cost": inputs["hours"] * inputs["price"], "fixed": 5.0}

    hours, price = assumption("hours", 90, 100, 115), assumption("price", 1, 2, 4)
    found = answers(model, [hours, price])
    assert found["cost"].moved_by == "price" and found["cost"].effects[0].at_high == 400
    assert found["fixed"].low == found["fixed"].high == 5 and found["fixed"].moved_by == ""
    assert answers(model, [assumption("idle", 1, 2, 3), price, hours])["cost"].low == found["cost"].low
    assert answers(model, [hours, price]) == found
    assert answers(model, [hours, price], seed=1)["cost"] != found["cost"]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((2, 1, 3), "rising order"),
        ((0, 1, 2), "above 0"),
        ((float("nan"), 1, 2), "finite"),
        ((1, 2, float("inf")), "finite"),
        ((1, 2, 200), "within"),
    ],
)
def test_nonsense_is_refused(numbers, says) -> None:
    with pytest.raises(AssumptionError, match=says):
        assumption("x", *numbers, most=100)


def test_changing_an_assumption() -> None:
    known = [assumption("price", 1, 2, 4), assumption("hours", 1, 2, 3)]
    new = changed(known, {"price": (3, 3, 3)})
    assert [one.value for one in new] == [3, 2] and "command line" in new[0].source
    with pytest.raises(AssumptionError, match="one of hours, price"):
        changed(known, {"prize": (1, 1, 1)})


def test_an_answer_without_a_value_is_an_error() -> None:
    with pytest.raises(AssumptionError, match="no finite value"):
        answers(lambda inputs: {"y": inputs["x"] * np.inf}, [assumption("x", 1, 2, 3)])
