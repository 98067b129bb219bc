"""Loss curves as SVG: well-formed, inside the picture, names escaped."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from mythos.train.loop import METRICS
from mythos.train.plot import HEIGHT, WIDTH, forecast_svg, loss_curve, loss_svg

POINT = st.tuples(st.floats(1, 1e12), st.floats(0.01, 20))


@given(
    st.dictionaries(
        st.sampled_from(["a", "<b>", "c&d"]), st.lists(POINT, min_size=1, max_size=30), min_size=1
    )
)
def test_every_curve_lies_inside(curves: dict[str, list[tuple[float, float]]]) -> None:
    picture = ElementTree.fromstring(loss_svg("loss < 3 & falling", curves))
    lines = picture.findall("{*}polyline")
    assert len(lines) == len(curves)
    for line in lines:
        for x, y in (map(float, point.split(",")) for point in line.attrib["points"].split()):
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    assert set(curves) <= {text.text for text in picture.findall("{*}text")}


def test_a_curve_averages_the_steps_between_its_points(tmp_path: Path) -> None:
    rows = [{"tokens": 10 * step, "loss": float(step % 2)} for step in range(1, 1001)]
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = loss_curve(tmp_path)
    assert len(curve) == 200 and curve[-1][0] == 10_000
    assert all(0.3 < loss < 0.7 for _, loss in curve)
    assert not re.search("nan|inf", loss_svg("run", {"run": curve}))


@given(
    st.dictionaries(st.sampled_from(["a", "<b>"]), st.lists(POINT, min_size=1, max_size=9), min_size=1),
    POINT,
    st.lists(st.floats(0.01, 20), max_size=3),
)
def test_a_forecast_and_its_outcomes_lie_inside(
    points: dict[str, list[tuple[float, float]]], ahead: tuple[float, float], outcomes: list[float]
) -> None:
    tokens, value = ahead
    foreseen = (tokens, value, 0.9 * value, 1.2 * value)
    picture = ElementTree.fromstring(forecast_svg("a < b", points, points, foreseen, outcomes, "<c>"))
    (bar,) = picture.findall("{*}line[@class='forecast']")
    squares = picture.findall("{*}rect[@class='outcome']")
    assert len(squares) == len(outcomes)
    spots = [(bar.attrib["x1"], bar.attrib["y1"]), (bar.attrib["x2"], bar.attrib["y2"])]
    spots += [(one.attrib["x"], one.attrib["y"]) for one in squares]
    spots += [(one.attrib["cx"], one.attrib["cy"]) for one in picture.findall("{*}circle")]
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in spots)
    assert float(bar.attrib["y1"]) < float(bar.attrib["y2"])  # the upper end of the interval is above
    words = {text.text for text in picture.findall("{*}text")}
    assert {*points, "<c>, foreseen"} <= words and ("<c>, outcome" in words) == bool(outcomes)
