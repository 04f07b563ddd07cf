"""A benchmark as one Weights & Biases group: a run for each cell, and one with the leaderboard."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.leaderboard import Row, rows_of
from benchmarks.published import Published
from benchmarks.results import Result, read_results
from benchmarks.tables import note_number
from zoo.metrics.curves import precision_curve, roc_curve
from zoo.metrics.table import PRIMARY, TABLE


def log_benchmark(out: Path, name: str, published: Sequence[str], *, offline: bool) -> None:
    """Log finished cells and the leaderboard.

    A cell's run holds metrics, settings, scores as a table, ROC and precision-recall panels, and pictures; the run
    ``leaderboard`` holds the table with intervals and published figures, and a bar panel for each data set. Runs have
    ids that follow from their content, so that logging again does not double them.

    Args:
        out: the benchmark's folder; files go to its ``wandb`` folder.
        name: of the group.
        published: names of published tables.
        offline: keep the files for ``wandb sync``; no network, no account.
    """
    results = read_results([out]).results
    for result in results:
        _log_cell(out, name, result, offline)
    _log_leaderboard(out, name, rows_of(results), Published(published, list(TABLE)), offline)


@contextmanager
def _run(out: Path, group: str, name: str, content: str, offline: bool, config: dict[str, Any]) -> Iterator[Any]:
    import wandb

    run = wandb.init(
        project="uad-zoo",
        group=group,
        name=name,
        id=hashlib.sha256(f"{group} {name} {content}".encode()).hexdigest()[:16],
        resume=None if offline else "allow",
        dir=str(out),
        mode="offline" if offline else "online",
        config=config,
        settings=wandb.Settings(silent=True),
    )
    try:
        yield run
    finally:
        run.finish()


def _log_cell(out: Path, group: str, result: Result, offline: bool) -> None:
    import wandb

    config = yaml.safe_load((result.folder / "config.yaml").read_text(encoding="utf-8"))
    content = str(result.content.get("config_sha256")) + str(result.content.get("data_fingerprint"))
    with _run(out, group, result.folder.name, content, offline, config) as run:
        kept = {key: value for key, value in result.content.items() if isinstance(value, int | float | str | bool)}
        run.summary.update({**result.content["metrics"], **kept})
        names = ("id", "subject", "label", "score")
        columns = [result.scores[column].tolist() for column in names]
        run.log({"scores": wandb.Table(columns=list(names), data=[list(row) for row in zip(*columns, strict=True)])})
        grid = np.linspace(0, 1, 101)
        for title, axes, values in (
            (
                "ROC",
                ("false-positive rate", "sensitivity"),
                roc_curve(result.scores["score"], result.scores["label"], grid),
            ),
            (
                "precision and recall",
                ("recall", "precision"),
                precision_curve(result.scores["score"], result.scores["label"], grid),
            ),
        ):
            if not np.isnan(values).any():
                points = wandb.Table(columns=list(axes), data=np.stack([grid, values], 1).tolist())
                run.log({title: wandb.plot.line(points, *axes, title=title)})
        pictures = sorted([*result.folder.glob("panel.png"), *result.folder.glob("panels/*.png")])
        run.log({"panels": [wandb.Image(str(path), caption=path.stem) for path in pictures]})


def _log_leaderboard(out: Path, group: str, rows: list[Row], published: Published, offline: bool) -> None:
    import wandb

    metrics = list(rows[0].means) if rows else []
    heads: list[str | int] = ["dataset", "phantom", "method", "seeds", *metrics]
    heads += ["low", "high", "p vs highest", "above shortcuts", f"published {PRIMARY}", "published in"]
    notes: list[str] = []
    table = wandb.Table(columns=heads)
    for row in rows:
        figure = published.get(row.dataset, row.method, PRIMARY)
        source = "" if figure is None else notes[note_number(figure, notes) - 1]
        means = [_known(row.means[metric]) for metric in metrics]
        bounds = [_known(row.interval.low), _known(row.interval.high), _known(row.p_value), row.beats_shortcuts]
        beside = [None if figure is None else figure.value, source]
        table.add_data(row.dataset, row.phantom, row.method, row.seeds, *means, *bounds, *beside)
    content = "".join(f"{row.dataset}{row.method}{row.seeds}{row.means}" for row in rows)
    with _run(out, group, "leaderboard", content, offline, {}) as run:
        run.log({"leaderboard": table})
        for dataset in sorted({row.dataset for row in rows}):
            data = [[row.method, _known(row.means[PRIMARY])] for row in rows if row.dataset == dataset]
            bars = wandb.Table(columns=["method", PRIMARY], data=data)
            title = dataset + (" (PHANTOM)" if any(r.phantom for r in rows if r.dataset == dataset) else "")
            run.log({f"{PRIMARY}/{dataset}": wandb.plot.bar(bars, "method", PRIMARY, title=title)})


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
