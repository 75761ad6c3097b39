"""Line charts as inline SVG: no library, no script, and they follow the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 34, 46
_LABEL = 13  # height of a label


@dataclass(frozen=True)
class Line:
    """Points (x, y), x ascending. ``dashed``: a bound rather than a measurement."""

    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def line_chart(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], *, log_x: bool = False, log_y: bool = False
) -> str:
    """An SVG of at most eight lines; empty where no line has a point."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    x = _Axis([p[0] for line in drawn for p in line.points], _LEFT, _WIDTH - _RIGHT, log_x)
    y = _Axis([p[1] for line in drawn for p in line.points], _HEIGHT - _BOTTOM, _TOP, log_y, from_zero=not log_y)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{_LEFT}" y="16" class="title">{escape(title)}</text>',
    ]
    for value in y.ticks():
        at = y.place(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in x.ticks():
        at = x.place(value)
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(value)}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    labels = _apart([y.place(line.points[-1][1]) for line in drawn])
    for number, (line, label) in enumerate(zip(drawn, labels, strict=True)):
        parts.append(_drawn(line, number, x, y, label))
    return "".join([*parts, "</svg>"])


def _drawn(line: Line, number: int, x: _Axis, y: _Axis, label_at: float) -> str:
    places = [(x.place(a), y.place(b)) for a, b in line.points]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    style = f'class="line c{number % 8}{" dashed" if line.dashed else ""}"'
    dots = (
        ""
        if line.dashed
        else "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" class="dot c{number % 8}"/>' for a, b in places)
    )
    colour = f"label c{number % 8}"
    label = f'<text x="{_WIDTH - _RIGHT + 8}" y="{label_at + 4:.1f}" class="{colour}">{escape(line.label)}</text>'
    return f'<polyline points="{path}" {style}/>{dots}{label}'


def _apart(wanted: Sequence[float]) -> list[float]:
    """Heights for labels near the ``wanted`` ones, in the same order from top to bottom, none over another: from the
    top down each is pushed below the one before, then from the bottom up back into the picture."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = [0.0] * len(wanted)
    at = -math.inf
    for i in order:
        found[i] = at = max(wanted[i], at + _LABEL)
    at = _HEIGHT - 12 + _LABEL
    for i in reversed(order):
        found[i] = at = min(found[i], at - _LABEL)
    return found


class _Axis:
    def __init__(
        self, values: Sequence[float], begin: float, end: float, log: bool, *, from_zero: bool = False
    ) -> None:
        self._begin, self._end, self._log = begin, end, log
        low, high = min(values), max(values)
        if from_zero:
            low = min(low, 0.0)
        if high <= low:
            high = low + (abs(low) or 1.0)
        self._low, self._high = self._scaled(low), self._scaled(high)
        if log:  # a little room, so that no point lies on the frame
            room = 0.04 * (self._high - self._low)
            self._low, self._high = self._low - room, self._high + room

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self._log else value

    def place(self, value: float) -> float:
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> list[float]:
        if self._log:
            low, high = 10**self._low, 10**self._high
            powers = range(math.floor(self._low), math.ceil(self._high) + 1)
            steps = (1, 2, 5) if self._high - self._low < 3 else (1,)
            return [step * 10.0**p for p in powers for step in steps if low <= step * 10.0**p <= high]
        raw = (self._high - self._low) / 5
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= raw)
        first = math.ceil(self._low / step)
        return [step * n for n in range(first, math.floor(self._high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
