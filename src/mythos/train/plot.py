"""Loss curves as an SVG file: what a person looks at first."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from mythos.train.loop import METRICS

Curve = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 440, 60, 50, 34, 130
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8f5db7", "#c98a1b", "#4a4a4a")  # apart for the colour-blind too
POINTS = 200  # of a curve: losses between two of them are averaged


def loss_curve(run: Path) -> list[tuple[float, float]]:
    """(tokens, mean loss since the point before) out of a run's metrics file."""
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    rows = [row for row in rows if math.isfinite(row["loss"])]
    size = max(1, -(-len(rows) // POINTS))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [(part[-1]["tokens"], sum(row["loss"] for row in part) / len(part)) for part in parts]


def loss_svg(title: str, curves: Mapping[str, Curve]) -> str:
    """The curves over tokens, which must not be none. Both axes are linear, the loss from its least value."""
    xs, ys = ([point[axis] for curve in curves.values() for point in curve] for axis in (0, 1))
    ys = sorted(ys)
    low, high, right = (
        ys[0],
        ys[min(len(ys) - 1, int(0.98 * len(ys)))],
        max(xs),
    )  # the first steps may stand out
    span = (high - low) or 1.0

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / right
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - min(y, high)) / span
        return f"{across:.1f},{down:.1f}"

    parts = _frame(title, "tokens of training")
    for value in _ticks(low, high):
        x, y = place(0, value).split(",")
        parts.append(f'<line x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _ticks(0, right):
        x, _ = place(value, low).split(",")
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_short(value)}</text>')
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        points = " ".join(place(x, y) for x, y in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_label(index, name, colour))
    return "\n".join([*parts, "</svg>", ""])


def forecast_svg(
    title: str,
    points: Mapping[str, Curve],
    curves: Mapping[str, Curve],
    foreseen: tuple[float, float, float, float],
    outcomes: Sequence[float],
    target: str,
) -> str:
    """Runs and the law through them, by size, over tokens (logarithmic); at the right what is foreseen.

    `foreseen`: tokens, value, low and high, drawn as a bar; `outcomes` (of several seeds) as squares.
    """
    tokens, value, low, high = foreseen
    xs = [x for curve in points.values() for x, _ in curve] + [tokens]
    ys = [y for curve in [*points.values(), *curves.values()] for _, y in curve] + [
        low,
        high,
        value,
        *outcomes,
    ]
    left, right, bottom, top = math.log(min(xs)), math.log(max(xs)), min(ys), max(ys)
    across, down = (right - left) or 1.0, (top - bottom) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        inner = WIDTH - LEFT - RIGHT - 20
        return (
            LEFT + 10 + inner * (math.log(x) - left) / across,
            TOP + (HEIGHT - TOP - BOTTOM) * (top - y) / down,
        )

    parts = _frame(title, "tokens of training (logarithmic); bits per byte of held-out text")
    for tick in _ticks(bottom, top):
        _, y = place(tokens, tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for x in sorted(set(xs)):
        at, _ = place(x, bottom)
        label = _short(float(f"{x:.2g}"))
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    for index, (name, curve) in enumerate(points.items()):
        colour = COLOURS[index % len(COLOURS)]
        line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in curves.get(name, ()))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-dasharray="4 3"/>')
        for x, y in curve:
            at, height = place(x, y)
            parts.append(f'<circle cx="{at:.1f}" cy="{height:.1f}" r="3" fill="{colour}"/>')
        parts.append(_label(index, name, colour))
    (at, first), (_, last), (_, middle) = (place(tokens, y) for y in (high, low, value))
    black = "#000"
    parts.append(
        f'<line class="forecast" x1="{at:.1f}" x2="{at:.1f}" y1="{first:.1f}" y2="{last:.1f}" '
        f'stroke="{black}" stroke-width="2"/>'
    )
    parts.append(f'<circle cx="{at:.1f}" cy="{middle:.1f}" r="4" fill="white" stroke="{black}"/>')
    parts.append(_label(len(points), f"{target}, foreseen", black))
    for outcome in outcomes:
        _, height = place(tokens, outcome)
        corner = f'x="{at - 4:.1f}" y="{height - 4:.1f}"'
        parts.append(f'<rect class="outcome" {corner} width="8" height="8" fill="#d1495b"/>')
    if outcomes:
        parts.append(_label(len(points) + 1, f"{target}, outcome", "#d1495b"))
    return "\n".join([*parts, "</svg>", ""])


def _frame(title: str, below: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 10}">{escape(below)}</text>',
    ]


def _label(index: int, name: str, colour: str) -> str:
    at = TOP + 18 * index + 10
    return f'<text x="{WIDTH - RIGHT + 12}" y="{at}" fill="{colour}">{escape(name)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, four to nine of them."""
    step = 10 ** math.floor(math.log10((high - low) or 1.0))
    for part in (0.2, 0.5, 1.0):
        if (high - low) / (step * part) <= 9:
            step *= part
            break
    first = math.ceil(low / step)
    return [round(step * n, 10) for n in range(first, math.floor(high / step) + 1)]


def _short(value: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
