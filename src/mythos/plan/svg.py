"""Four kinds of drawing for a report, as SVG text: curves, stacked bars, ranges, a tornado.

Colours are the custom properties --c0 to --c7, --line and --text of the page, so that a drawing is light or
dark with it. Numbers are finite, and every drawing has at least one of them (the caller's table says the
same).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 150, 24, 12, 44
HEIGHT = 360  # of curves; bars and ranges are as high as they are many
ROW, THICK = 26, 14
CHARACTER = 6.4  # pixels, at this size of text
COLOURS = 8

Point = tuple[float, float]
Range = tuple[str, float, float, float]
"""Name, low, middle, high."""


def curves(
    series: Mapping[str, Sequence[Point]],
    across: str,
    up: str,
    *,
    band: Sequence[tuple[float, float, float]] = (),
    marks: Mapping[str, Point] | None = None,
    dots: bool = False,
    log_across: bool = False,
    log_up: bool = False,
) -> str:
    """Lines by name over one pair of axes; `band` holds (x, low, high), `marks` single points with their
    name."""
    marks = marks or {}
    flat = [point for line in series.values() for point in line] + list(marks.values())
    xs = [x for x, _ in flat] + [x for x, _, _ in band]
    ys = [y for _, y in flat] + [y for _, low, high in band for y in (low, high)]
    x_of, x_ticks = _axis(min(xs), max(xs), 70, WIDTH - 150, log_across)
    y_of, y_ticks = _axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log_up)
    parts = _grid(x_ticks, y_ticks, across, up)
    if band:
        edge = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
        parts.append(f'<polygon points="{_path(edge, x_of, y_of)}" fill="var(--c0)" opacity="0.15"/>')
    for place, (name, line) in enumerate(series.items()):
        colour = f"var(--c{place % COLOURS})"
        parts.append(
            f'<polyline points="{_path(line, x_of, y_of)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        if dots:
            parts += [
                f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in line
            ]
        parts.append(_text(WIDTH - 140, TOP + 14 + 18 * place, name, colour=colour))
    for name, (x, y) in marks.items():
        parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="5" fill="var(--c1)"/>')
        end = "end" if x_of(x) > WIDTH / 2 else "start"
        parts.append(_text(x_of(x) + (-9 if end == "end" else 9), y_of(y) - 14, name, end))
    return _svg(parts, HEIGHT)


def stacked(
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str, line: float | None = None
) -> str:
    """Horizontal bars made of named parts; a dashed `line` marks a limit."""
    names = list(dict.fromkeys(name for _, parts in rows for name, _ in parts))
    most = max([sum(size for _, size in parts) for _, parts in rows] + [line or 0.0])
    left = _left(label for label, _ in rows)
    x_of, ticks = _axis(0.0, most, left, WIDTH - RIGHT, False)
    legend = _legend(names)
    top = TOP + 20 * (1 + max(row for _, _, row in legend))
    height = top + ROW * len(rows) + BOTTOM
    parts = _ticks_down(ticks, top, height - BOTTOM, unit)
    for name, x, row in legend:
        fill = _fill(names.index(name))
        parts.append(f'<rect x="{x:.0f}" y="{TOP + 20 * row}" width="10" height="10" {fill}/>')
        parts.append(_text(x + 15, TOP + 20 * row + 9, name))
    for place, (label, sizes) in enumerate(rows):
        y, start = top + ROW * place + (ROW - THICK) / 2, 0.0
        parts.append(_text(left - 8, y + 11, label, "end"))
        for name, size in sizes:
            wide = x_of(start + size) - x_of(start)
            parts.append(
                f'<rect x="{x_of(start):.1f}" y="{y:.1f}" width="{max(wide, 0):.1f}" height="{THICK}" '
                f"{_fill(names.index(name))}>"
                f"<title>{escape(f'{label}, {name}: {short(size)} {unit}')}</title></rect>"
            )
            start += size
    if line is not None:
        parts.append(
            f'<line x1="{x_of(line):.1f}" x2="{x_of(line):.1f}" y1="{top}" y2="{height - BOTTOM}" '
            'stroke="var(--c1)" stroke-width="2" stroke-dasharray="5 4"/>'
        )
    return _svg(parts, height)


def ranges(rows: Sequence[Range], unit: str, *, log: bool = False) -> str:
    """A bar from low to high for each name, with a dot in the middle."""
    left = _left(name for name, *_ in rows)
    ends = [value for _, *values in rows for value in values]
    x_of, ticks = _axis(min(ends) if log else min(0.0, *ends), max(ends), left, WIDTH - RIGHT, log)
    height = TOP + ROW * len(rows) + BOTTOM
    parts = _ticks_down(ticks, TOP, height - BOTTOM, unit)
    for place, (name, low, middle, high) in enumerate(rows):
        y = TOP + ROW * place + (ROW - THICK) / 2
        parts.append(_text(left - 8, y + 11, name, "end"))
        parts.append(
            f'<rect x="{x_of(low):.1f}" y="{y + 2:.1f}" width="{max(x_of(high) - x_of(low), 1):.1f}" '
            f'height="{THICK - 4}" rx="4" fill="var(--c0)" opacity="0.45"/>'
        )
        parts.append(f'<circle cx="{x_of(middle):.1f}" cy="{y + THICK / 2:.1f}" r="4.5" fill="var(--c0)"/>')
    return _svg(parts, height)


def tornado(rows: Sequence[tuple[str, float, float]], middle: float, unit: str) -> str:
    """What an answer becomes with each input at its low and at its high end, around `middle`."""
    left = _left(name for name, *_ in rows)
    ends = [value for _, *values in rows for value in values] + [middle]
    x_of, ticks = _axis(min(ends), max(ends), left, WIDTH - RIGHT, False)
    height = TOP + 20 + ROW * len(rows) + BOTTOM
    parts = _ticks_down(ticks, TOP + 20, height - BOTTOM, unit)
    for x, name, colour in ((left, "input low", "var(--c0)"), (left + 110, "input high", "var(--c1)")):
        parts.append(f'<rect x="{x}" y="{TOP}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 15, TOP + 9, name))
    for place, (name, low, high) in enumerate(rows):
        y = TOP + 20 + ROW * place + (ROW - THICK) / 2
        parts.append(_text(left - 8, y + 11, name, "end"))
        for end, colour in ((low, "var(--c0)"), (high, "var(--c1)")):
            start, stop = sorted((x_of(middle), x_of(end)))
            parts.append(
                f'<rect x="{start:.1f}" y="{y:.1f}" width="{stop - start:.1f}" height="{THICK}" '
                f'fill="{colour}" opacity="0.8"/>'
            )
    x = x_of(middle)
    parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP + 20}" y2="{height - BOTTOM}" stroke="var(--text)"/>'
    )
    return _svg(parts, height)


def short(value: float) -> str:
    """Three figures with a letter: 12.3M, 4.5k, 0.00123."""
    for limit, letter in ((1e15, ""), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:  # what three figures round up to it
            return f"{value:.3g}" if not letter else f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _axis(
    low: float, high: float, start: float, stop: float, log: bool
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Where a value lies between two pixels, and (pixel, text) of the axis' ticks."""
    if log:
        low, high = math.log10(low), math.log10(high)
    if high - low < 1e-12 * max(abs(high), 1e-300):
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1

    def place(value: float) -> float:
        at = math.log10(value) if log else value
        return start + (stop - start) * (at - low) / (high - low)

    if log:
        step = max(1, math.ceil((high - low) / 8))
        powers = range(math.ceil(low), math.floor(high) + 1, step)
        values = [10.0**power for power in powers]
        if len(values) < 4:
            every = [
                part * 10.0**power for power in range(math.floor(low), math.ceil(high)) for part in (1, 2, 5)
            ]
            values = [value for value in every if low <= math.log10(value) <= high]
        return place, [(place(value), _power(value)) for value in values]
    step = 10 ** math.floor(math.log10(high - low))
    step *= next(part for part in (0.2, 0.5, 1.0, 2.0) if (high - low) / (step * part) <= 8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return place, [(place(step * n), short(round(step * n, 12))) for n in range(first, last + 1)]


def _power(value: float) -> str:
    return short(value) if 1e-3 <= value < 1e15 else f"{value:.0e}".replace("e+", "e").replace("e0", "e")


def _grid(
    x_ticks: list[tuple[float, str]], y_ticks: list[tuple[float, str]], across: str, up: str
) -> list[str]:
    low, right = HEIGHT - BOTTOM, WIDTH - 150
    parts = []
    for x, text in x_ticks:
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{low}" stroke="var(--line)"/>')
        parts.append(_text(x, low + 16, text, "middle"))
    for y, text in y_ticks:
        parts.append(f'<line x1="70" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(_text(64, y + 4, text, "end"))
    parts.append(_text((70 + right) / 2, HEIGHT - 8, across, "middle"))
    middle = (TOP + low) / 2
    parts.append(
        f'<text x="14" y="{middle}" transform="rotate(-90 14 {middle})" text-anchor="middle" '
        f'fill="var(--text)">{escape(up)}</text>'
    )
    return parts


def _ticks_down(ticks: list[tuple[float, str]], top: float, low: float, unit: str) -> list[str]:
    parts = []
    for x, text in ticks:
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{low}" stroke="var(--line)"/>')
        parts.append(_text(x, low + 16, text, "middle"))
    return [*parts, _text((LEFT + WIDTH) / 2, low + 34, unit, "middle")]


def _fill(place: int) -> str:
    """A colour for the part at that place; beyond the last colour they come again, paler."""
    return f'fill="var(--c{place % COLOURS})"' + (' opacity="0.5"' if place >= COLOURS else "")


def _left(labels) -> float:
    return min(300.0, max(CHARACTER * len(label) + 16 for label in labels))


def _legend(names: Sequence[str]) -> list[tuple[str, float, int]]:
    """(name, x, row) so that no row is wider than the drawing."""
    placed, x, row = [], 10.0, 0
    for name in names:
        wide = 30 + CHARACTER * len(name)
        if x + wide > WIDTH and x > 10:
            x, row = 10.0, row + 1
        placed.append((name, x, row))
        x += wide
    return placed


def _path(line: Sequence[Point], x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    return " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line)


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "var(--text)") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">' + "".join(parts) + "</svg>"
    )
