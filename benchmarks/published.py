"""Published figures beside ours: matched by data set, method and metric, always with their source, never mixed."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FOLDER = Path(__file__).parent / "published"
_PERCENT = 100.0


class Source(NamedTuple):
    """Where a figure was published.

    Attributes:
        title: of the paper.
        venue: and year.
        url: of the paper.
        table: of the paper, with the data it was computed on.
    """

    title: str
    venue: str
    url: str
    table: str


class Figure(NamedTuple):
    """One published figure.

    Attributes:
        value: in [0, 1].
        row: name of the method there.
        approximate: read off a plot.
        source: see there.
    """

    value: float
    row: str
    approximate: bool
    source: Source

    @property
    def text(self) -> str:
        """Three decimals, marked where approximate."""
        return f"{'≈' if self.approximate else ''}{self.value:.3f}"


def difference(ours: float, published: Figure, interval: tuple[float, float, float] | None) -> str:
    """Ours minus the published figure, and whether that lies inside our interval.

    Args:
        ours: mean over seeds, on real data: a phantom's figure has no difference to a published one.
        published: the figure.
        interval: value and bounds of ours, None where the metric has none.

    Returns:
        str: such as ``-0.012, inside the interval``; empty where ours is unknown.
    """
    if math.isnan(ours):
        return ""
    text = f"{ours - published.value:+.3f}"
    if interval is None or math.isnan(interval[1]):
        return text
    return f"{text}, {'inside' if interval[1] <= published.value <= interval[2] else 'outside'} the interval"


def read_table(name: str) -> dict[str, Any]:
    """``benchmarks/published/NAME.yaml``.

    Keys: ``source`` (title, venue, url, approximate), ``ours`` (published row -> our names, where they differ by more
    than case and punctuation) and ``tables``. A table has ``columns``, each a data set, a metric or ``DATA/METRIC``;
    ``metric`` and ``dataset`` say what the columns do not; ``unit: percent`` where figures are in percent. ``suites``
    and ``stated``: :mod:`benchmarks.papers`.
    """
    table: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return table


def known_tables() -> list[str]:
    """Names of all published tables."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


class Published:
    """The figures of some published tables.

    Args:
        names: of the tables.
        metrics: names of the metrics, to tell them from data sets in ``columns``.
    """

    def __init__(self, names: Iterable[str], metrics: Sequence[str]) -> None:
        self.found: dict[tuple[str, str, str], Figure] = {}
        for name in names:
            content = read_table(name)
            ours = {row: [plain_name(one) for one in _listed(value)] for row, value in content.get("ours", {}).items()}
            for table in content["tables"]:
                source = content["source"]
                place = Source(source["title"], str(source["venue"]), source["url"], str(table["name"]))
                columns = [_column(str(column), table, metrics) for column in _columns(table)]
                scale = 1 / _PERCENT if table.get("unit", content.get("unit")) == "percent" else 1.0
                for row, values in table.get("rows", {}).items():
                    for (dataset, metric), value in zip(columns, _listed(values), strict=False):
                        if not isinstance(value, int | float) or isinstance(value, bool):
                            continue
                        figure = Figure(value * scale, str(row), bool(source.get("approximate")), place)
                        for method in ours.get(row, [plain_name(str(row))]):
                            self.found.setdefault((plain_name(dataset), method, metric), figure)

    def get(self, dataset: str, method: str, metric: str) -> Figure | None:
        """The figure published for a method on a data set, of the first table that has it."""
        return self.found.get((plain_name(dataset), plain_name(method), metric))


def _columns(table: dict[str, Any]) -> list[Any]:
    return _listed(table.get("columns") or table.get("metric") or [])


def _column(column: str, table: dict[str, Any], metrics: Sequence[str]) -> tuple[str, str]:
    """Data set and metric of a column."""
    if "/" in column:
        dataset, metric = column.split("/", 1)
        return dataset, metric
    if column in metrics:
        return str(table.get("dataset", "")), column
    return column, str(table.get("metric", ""))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def plain_name(name: str) -> str:
    """A name without case and punctuation, as names of rows, methods and data sets are compared."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
