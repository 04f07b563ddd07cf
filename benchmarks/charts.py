"""Charts of the report as SVG text, without a plotting library."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#666666")
_SIDE, _LEFT, _BOTTOM, _LETTER = 230, 34, 26, 5.6  # px


def colour(number: int) -> str:
    """Colour of a series; colour-blind safe for the first seven."""
    return COLOURS[number % len(COLOURS)]


def _frame(title: str, x_label: str, y_label: str, body: str, x_ticks: Sequence[str], y_ticks: Sequence[str]) -> str:
    width, height = _SIDE + _LEFT + 14, _SIDE + _BOTTOM + 26
    ticks = []
    for number, text in enumerate(x_ticks):
        x = _LEFT + _SIDE * number / max(len(x_ticks) - 1, 1)
        anchor = "end" if number and len(text) > 3 and number == len(x_ticks) - 1 else "middle"
        ticks.append(f'<text x="{x:.0f}" y="{_SIDE + 33}" text-anchor="{anchor}">{escape(text)}</text>')
    for number, text in enumerate(y_ticks):
        y = 20 + _SIDE - _SIDE * number / max(len(y_ticks) - 1, 1)
        ticks.append(f'<text x="{_LEFT - 4}" y="{y + 3:.0f}" text-anchor="end">{escape(text)}</text>')
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return (
        f'<svg role="img" aria-label="{escape(title)}" {size}>'
        f'<text x="{_LEFT}" y="12" class="title">{escape(title)}</text>'
        f'<rect x="{_LEFT}" y="20" width="{_SIDE}" height="{_SIDE}" class="frame"/>{"".join(ticks)}'
        f'<text x="{_LEFT + _SIDE / 2}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(9 {20 + _SIDE / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
        f"{body}</svg>"
    )


def _points(x: Array, y: Array) -> str:
    return " ".join(f"{_LEFT + _SIDE * a:.1f},{20 + _SIDE * (1 - b):.1f}" for a, b in zip(x, y, strict=True))


def curves(title: str, x_label: str, y_label: str, series: Sequence[tuple[str, Array]]) -> str:
    """Curves over a grid from 0 to 1, each the mean of its seeds with a band from the lowest to the highest.

    Args:
        title: of the chart.
        x_label: of the axis.
        y_label: of the axis.
        series: name and ``(seeds, n)`` values in [0, 1].
    """
    body = []
    for number, (name, values) in enumerate(series):
        grid = np.linspace(0, 1, values.shape[1])
        if len(values) > 1:
            band = _points(np.concatenate([grid, grid[::-1]]), np.concatenate([values.max(0), values.min(0)[::-1]]))
            body.append(f'<polygon points="{band}" fill="{colour(number)}" opacity="0.15"/>')
        line = f'<polyline points="{_points(grid, values.mean(0))}" fill="none" stroke="{colour(number)}"'
        body.append(f'{line} stroke-width="1.5"><title>{escape(name)}</title></polyline>')
    ticks = ("0", "0.5", "1")
    return _frame(title, x_label, y_label, "".join(body), ticks, ticks)


def histogram(title: str, scores: Array, labels: Array, bins: int = 24) -> str:
    """Score histograms of healthy and anomalous images."""
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    body = []
    for kind, fill in ((0, "#56b4e9"), (1, "#d55e00")):
        counts = np.histogram(scores[labels == kind], edges)[0] / max((labels == kind).sum(), 1)
        for number, share in enumerate(counts):
            x, height = _LEFT + _SIDE * number / bins, _SIDE * min(share * 2.5, 1)
            body.append(
                f'<rect x="{x:.1f}" y="{20 + _SIDE - height:.1f}" width="{_SIDE / bins:.1f}" height="{height:.1f}" '
                f'fill="{fill}" opacity="0.55"/>'
            )
    label = "score (blue healthy, red anomalous)"
    return _frame(title, label, "share", "".join(body), (f"{low:.3g}", f"{high:.3g}"), ("0", "0.4"))


def scatter(title: str, x_label: str, y_label: str, points: Sequence[tuple[str, float, float]]) -> str:
    """Named points; x is logarithmic, y is in [0, 1]."""
    kept = [(name, np.log10(x), y) for name, x, y in points if x > 0 and not np.isnan(y)]
    if not kept:
        return ""
    low, high = min(x for _, x, _ in kept) - 0.2, max(x for _, x, _ in kept) + 0.2
    body, lines = [], list[float]()
    for number, (name, x, y) in sorted(enumerate(kept), key=lambda item: -item[1][2]):
        a, b = _LEFT + _SIDE * (x - low) / (high - low), 20 + _SIDE * (1 - y)
        body.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour(number)}"/>')
        end = a + 6 + _LETTER * len(name) > _LEFT + _SIDE and a - _LEFT > _SIDE / 2
        line = max(b + 3, (lines[-1] if lines else 0) + 10)  # names stand below each other, never over each other
        lines.append(line)
        body.append(f'<text x="{a + (-6 if end else 6):.1f}" y="{line:.1f}" text-anchor="{"end" if end else "start"}">')
        body.append(f"{escape(name)}</text>")
    return _frame(title, x_label, y_label, "".join(body), (f"{10**low:.3g}", f"{10**high:.3g}"), ("0", "0.5", "1"))


def rank_diagram(ranks: dict[str, float], difference: float) -> str:
    """Average ranks on a line, with the critical difference as a bar."""
    known = {name: rank for name, rank in ranks.items() if not np.isnan(rank)}
    if len(known) < 2:
        return ""
    count, width = len(known), 520
    place = {name: 20 + (width - 160) * (rank - 1) / max(count - 1, 1) for name, rank in known.items()}
    height = 46 + 16 * count
    body = [f'<line x1="20" y1="30" x2="{width - 140}" y2="30" class="axis"/>']
    for rank in range(1, count + 1):
        x = 20 + (width - 160) * (rank - 1) / max(count - 1, 1)
        body.append(f'<text x="{x:.0f}" y="22" text-anchor="middle">{rank}</text>')
    for number, (name, x) in enumerate(place.items()):
        y = 46 + 16 * number
        body.append(f'<polyline points="{x:.0f},30 {x:.0f},{y - 4} {x + 10:.0f},{y - 4}" class="axis" fill="none"/>')
        body.append(f'<text x="{x + 13:.0f}" y="{y}">{escape(name)} {known[name]:.2f}</text>')
    if not np.isnan(difference):
        bar = min((width - 160) * difference / max(count - 1, 1), width - 40)
        body.append(f'<line x1="20" y1="8" x2="{20 + bar:.0f}" y2="8" stroke="#d55e00" stroke-width="3"/>')
        body.append(f'<text x="{26 + bar:.0f}" y="11">CD {difference:.2f}</text>')
    return (
        f'<svg role="img" aria-label="average ranks" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"{''.join(body)}</svg>"
    )
