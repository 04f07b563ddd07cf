"""Charts of report and paper: matplotlib in one style, one colour a method everywhere, the same bytes each time.

As SVG text they follow the page's colour (``currentColor``) and font; as files they are black on white.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b4549a", "#b78500", "#3a8fc4", "#7f3c8d", "#777777")
HEALTHY, ANOMALOUS = "#3a8fc4", "#d55e00"
_BESIDE = (0.1, 0.15, 0.62, 0.91)  # leaves room for a legend on the right
_DASHES = ("-", "--", ":", "-.")
_INK, FAINT = "#010203", "#808182"  # replaced by the page's own colour
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.3,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a dollar
    "pdf.fonttype": 42,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
}


class Look(NamedTuple):
    """How a method is drawn."""

    colour: str
    dash: str


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Colour and dash of each method, by the order of all names: the same in every chart of a report."""
    dashes = [dash for dash in _DASHES for _ in COLOURS]
    return {
        name: Look(colour, dash)
        for name, colour, dash in zip(sorted(methods), cycle(COLOURS), cycle(dashes), strict=False)
    }


class Chart(NamedTuple):
    """A chart that can be drawn in more than one form.

    Attributes:
        name: for file names and ids, unique in a report.
        told: for those who cannot see it.
        size: width and height in inches.
        draw: onto axes.
        box: left, bottom, right and top of the axes in shares of the size; None: what the labels leave, which takes
            twice as long.
    """

    name: str
    told: str
    size: tuple[float, float]
    draw: "Callable[[Axes], None]"
    box: tuple[float, float, float, float] | None = None

    def _figure(self) -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, layout="constrained" if self.box is None else None)
        self.draw(figure.subplots())
        if self.box is not None:
            left, bottom, right, top = self.box
            figure.subplots_adjust(left, bottom, right, top)
        return figure

    def svg(self) -> str:
        """For the page: without a size of its own, in the page's colour and font."""
        from matplotlib import rc_context

        stream = io.StringIO()
        with rc_context({**_STYLE, "svg.hashsalt": self.name}):
            self._figure().savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        text = stream.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
        text = re.sub(r"<g id=\"[^\"]*\"", "<g", text)
        text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
        text = re.sub(r"font: ([\d.]+px|bold [\d.]+px) [^;\"]*", r"font: \1 var(--text-font)", text)
        text = re.sub(r"font-family: [^;\"]*", "font-family: var(--text-font)", text)
        text = text.replace(_INK, "currentColor").replace(FAINT, "var(--faint)")
        text = re.sub(r"<[^>]*>", _rounded, text)
        width, height = (round(96 * side) for side in self.size)
        head = f'<svg viewBox="0 0 {72 * self.size[0]:g} {72 * self.size[1]:g}" width="{width}" height="{height}" '
        return re.sub(
            r"<svg [^>]*>",
            head + f'role="img" aria-label="{_quoted(self.told)}" xmlns:xlink="http://www.w3.org/1999/xlink">',
            text,
            count=1,
        ).strip()

    def save(self, folder: Path) -> None:
        """``NAME.svg`` and ``NAME.pdf`` for a paper."""
        from matplotlib import rc_context

        black = {key: "black" for key, value in _STYLE.items() if value == _INK}
        white = {key: "white" for key in _STYLE if key.endswith("facecolor")}
        with rc_context({**_STYLE, **black, **white, "svg.hashsalt": self.name}):
            figure = self._figure()
            figure.savefig(folder / f"{self.name}.svg", metadata={"Date": None})
            figure.savefig(folder / f"{self.name}.pdf", metadata={"CreationDate": None})


def _rounded(tag: re.Match[str]) -> str:
    """A tag with its coordinates to a hundredth of a point."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag[0])


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def curves(
    name: str,
    title: str,
    labels: tuple[str, str],
    series: Mapping[str, Array],
    looks: Mapping[str, Look],
    *,
    legend: Mapping[str, str],
    chance: float | None = None,
) -> Chart:
    """Curves over a grid from 0 to 1, each the mean of its seeds with a band from the lowest to the highest.

    Args:
        name: see :class:`Chart`.
        title: of the chart.
        labels: of the axes.
        series: method -> ``(seeds, n)`` values in [0, 1].
        looks: of the methods.
        legend: method -> text.
        chance: height of the level line of scores that know nothing; None: the diagonal.
    """

    def draw(axes: "Axes") -> None:
        for method, values in series.items():
            grid, look = np.linspace(0, 1, values.shape[1]), looks[method]
            if len(values) > 1:
                axes.fill_between(grid, values.min(0), values.max(0), color=look.colour, alpha=0.15, linewidth=0)
            axes.plot(grid, values.mean(0), color=look.colour, linestyle=look.dash, label=legend[method])
        line = (0, 1) if chance is None else (chance, chance)
        axes.plot((0, 1), line, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)), label="chance")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=labels[0], ylabel=labels[1], title=title)
        axes.set_aspect("equal")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)

    return Chart(name, f"{title}: {', '.join(legend[method] for method in series)}", (5.2, 3.3), draw, _BESIDE)


def distribution(name: str, title: str, scores: Array, labels: Array, bins: int = 30) -> Chart:
    """Score histograms of healthy and anomalous images, each of area 1."""

    def draw(axes: "Axes") -> None:
        low, high = float(scores.min()), float(scores.max())
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        for kind, told, colour in ((0, "healthy", HEALTHY), (1, "anomalous", ANOMALOUS)):
            part = scores[labels == kind]
            if len(part):
                axes.hist(part, edges.tolist(), density=True, color=colour, alpha=0.5, label=f"{told} ({len(part)})")
        axes.set(title=title, xlabel="score", yticks=[])
        axes.locator_params(axis="x", nbins=4)
        axes.spines["left"].set_visible(False)
        axes.legend(loc="best")

    return Chart(name, f"{title}: scores of healthy and anomalous images", (2.6, 1.9), draw, (0.04, 0.24, 0.97, 0.88))


def cost(
    name: str, title: str, labels: tuple[str, str], points: Mapping[str, tuple[float, float]], looks: Mapping[str, Look]
) -> Chart | None:
    """Cost against accuracy with the line of methods that no other beats in both; None without points.

    Args:
        name: see :class:`Chart`.
        title: of the chart.
        labels: of the axes; a cost is on a logarithmic axis, and less is better.
        points: method -> cost and accuracy.
        looks: of the methods.
    """
    kept = {method: (x, y) for method, (x, y) in points.items() if x > 0 and not np.isnan(y)}
    if not kept:
        return None

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        front = sorted(
            (x, y)
            for x, y in kept.values()
            if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in kept.values())
        )
        axes.step(*zip(*front, strict=True), where="post", color=FAINT, linewidth=1, label="not beaten in both")
        for method, (x, y) in kept.items():
            axes.plot(x, y, "o", color=looks[method].colour, markersize=6, label=method)
        low, high = (edge(x for x, _ in kept.values()) for edge in (min, max))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / 2, high * 2)
        bottom, top = (edge(y for _, y in kept.values()) for edge in (min, max))
        axes.set(xlabel=labels[0], ylabel=labels[1], title=title, ylim=(bottom - 0.05, top + 0.05))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)

    return Chart(name, title, (5.2, 3.0), draw, _BESIDE)


def rank_diagram(name: str, ranks: Mapping[str, float], difference: float, looks: Mapping[str, Look]) -> Chart | None:
    """Average ranks, with bars over groups that the critical difference does not part; None if it does not exist."""
    known = {method: rank for method, rank in ranks.items() if not np.isnan(rank)}
    if len(known) < 2 or np.isnan(difference):
        return None

    def draw(axes: "Axes") -> None:
        order = sorted(known, key=lambda method: (known[method], method))
        for place, method in enumerate(order):
            rank = known[method]
            axes.plot((rank, rank + difference), (place, place), color=FAINT, linewidth=0.8)
            axes.plot(rank, place, "o", color=looks[method].colour, markersize=6)
        axes.set(
            yticks=range(len(order)),
            yticklabels=[f"{method}  {known[method]:.2f}" for method in order],
            xlabel=f"average rank; lines are as long as the critical difference, {difference:.2f}",
        )
        axes.invert_yaxis()
        axes.set_xlim(0.8, max(len(known), 1) + 0.2)
        axes.grid(axis="x", linewidth=0.3, color=FAINT)

    return Chart(name, "average ranks with the critical difference", (6.2, 0.8 + 0.24 * len(known)), draw)


def forest(
    name: str,
    title: str,
    label: str,
    bars: Mapping[str, tuple[float, float, float]],
    lines: Mapping[str, float],
    looks: Mapping[str, Look],
) -> Chart:
    """Figures with their intervals, best on top, beside upright lines of what needs no learning."""

    def draw(axes: "Axes") -> None:
        order = sorted(bars, key=lambda method: (-np.nan_to_num(bars[method][0], nan=-1), method))
        for place, method in enumerate(order):
            value, low, high = bars[method]
            axes.plot((low, high), (place, place), color=looks[method].colour, linewidth=1.6)
            axes.plot(value, place, "o", color=looks[method].colour, markersize=5)
        for number, (told, value) in enumerate(lines.items()):
            axes.axvline(value, color=FAINT, linewidth=0.9, linestyle=("--", ":")[number % 2], label=told)
        axes.set(yticks=range(len(order)), yticklabels=order, xlabel=label, title=title)
        axes.invert_yaxis()
        below = -0.5 / (0.24 * len(order) + 0.1)  # under the label of the axis
        axes.legend(loc="upper left", bbox_to_anchor=(0, below), borderaxespad=0, ncols=2)

    return Chart(name, f"{title}: {label} with 95 % intervals", (5.2, 1.2 + 0.24 * len(bars)), draw)
