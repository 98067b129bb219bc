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

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 10}">tokens of training</text>',
    ]
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
        at = TOP + 18 * index + 10
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{at}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


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
