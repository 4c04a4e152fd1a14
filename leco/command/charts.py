"""Small charts as SVG text that stands inside a page."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 36
WIDEST = 28  # a bar


class Point(NamedTuple):
    """A point of a chart and its name."""

    x: float
    y: float
    name: str = ""


class Scale:
    """A linear or logarithmic axis from numbers to places on the page.

    Args:
        values: what the axis must hold, at least one; above 0 where `log`.
        start, end: places of its two ends.
    """

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False):
        self.log, self.start, self.end = log, start, end
        low, high = (self._own(f(values)) for f in (min, max))
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        self.low, self.high = low - room * (low != 0 or log), high + room

    def _own(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._own(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return three to six round numbers on the axis."""
        if self.log:
            tens = range(math.floor(self.low), math.ceil(self.high) + 1)
            few = (1, 2, 5) if self.high - self.low < 2 else (1,)
            every = [m * 10.0**k for k in tens for m in few]
            inside = [t for t in every if self.low <= math.log10(t) <= self.high]
            return inside[:: max(1, math.ceil(len(inside) / 6))]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
        while (self.high - self.low) / step > 6:
            step *= 2 if str(step)[0] in "15" or f"{step:e}"[0] in "15" else 2.5
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]


def short(value: float) -> str:
    """Return a number in few characters.

    >>> from leco.command.charts import short
    >>> short(12_300_000), short(0.0125), short(0)
    ('12.3M', '0.0125', '0')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def line(points: Sequence[Point], x: str, y: str, log: tuple[bool, bool] = (False, False)) -> str:
    """Draw points and a line through them, in the order of x."""
    return _points(sorted(points), x, y, log, joined=True)


def scatter(
    points: Sequence[Point],
    x: str,
    y: str,
    log: tuple[bool, bool] = (False, False),
    front: Sequence[Point] = (),
) -> str:
    """Draw points with their names, and a line through the points of a front."""
    return _points(points, x, y, log, joined=False, front=sorted(front))


def _points(
    points: Sequence[Point],
    x: str,
    y: str,
    log: tuple[bool, bool],
    joined: bool,
    front: Sequence[Point] = (),
) -> str:
    usable = [p for p in points if _shown(p.x, log[0]) and _shown(p.y, log[1])]
    if not usable:
        return ""
    across = Scale([p.x for p in usable], LEFT, WIDTH - RIGHT, log[0])
    up = Scale([p.y for p in usable], HEIGHT - BOTTOM, TOP, log[1])
    places = [(across(p.x), up(p.y), p.name) for p in usable]
    parts = _axes(across, up, x, y)
    ordered = usable if joined else [p for p in front if p in usable]
    if ordered:
        path = " ".join(f"{across(p.x):.1f},{up(p.y):.1f}" for p in ordered)
        parts.append(f'<polyline class="line" points="{path}"/>')
    named = 0
    for i, (a, b, name) in enumerate(places):
        kind = "dot" if joined or not front or usable[i] in front else "dot faint"
        radius = 2.5 if joined else 4
        parts.append(f'<circle class="{kind}" cx="{a:.1f}" cy="{b:.1f}" r="{radius}"/>')
        if name:
            anchor, shift = ("end", -7) if a > WIDTH * 0.7 else ("start", 7)
            at = f'x="{a + shift:.1f}" y="{b + (12, -5)[named % 2]:.1f}"'  # neighbours apart
            named += 1
            parts.append(f'<text {at} text-anchor="{anchor}">{escape(name)}</text>')
    return _svg(parts, f"{y} against {x}")


def bars(values: Sequence[float], names: Sequence[str], y: str, log: bool = False) -> str:
    """Draw a thin bar for each value, in order. The pointer shows its name."""
    shown = [v for v in values if _shown(v, log)]
    if not shown:
        return ""
    up = Scale(shown if log else [0.0, *shown], HEIGHT - BOTTOM, TOP, log)
    width = min((WIDTH - LEFT - RIGHT) / len(values), WIDEST)
    parts = _axes(None, up, f"{len(values)} layers, in order", y)
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        if not _shown(value, log):
            continue
        top = up(value)
        box = f'x="{LEFT + i * width:.2f}" width="{max(width * 0.8, 0.8):.2f}"'
        box += f' y="{top:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
        title = f"<title>{escape(name)}: {short(value)}</title>"
        parts.append(f'<rect class="bar" {box}>{title}</rect>')
    return _svg(parts, f"{y} of each layer")


def _shown(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _axes(across: Scale | None, up: Scale, x: str, y: str) -> list[str]:
    base = HEIGHT - BOTTOM
    parts = list[str]()
    for tick in up.ticks():
        at = up(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    for tick in across.ticks() if across else []:
        at = across(tick) if across else 0.0
        parts.append(
            f'<text x="{at:.1f}" y="{base + 14}" text-anchor="middle">{short(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x)}</text>')
    turned = f'transform="rotate(-90 10 {(TOP + base) / 2})"'
    parts.append(
        f'<text x="10" y="{(TOP + base) / 2}" text-anchor="middle" {turned}>{escape(y)}</text>'
    )
    return parts


def _svg(parts: Sequence[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"
