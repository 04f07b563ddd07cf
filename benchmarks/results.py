"""What finished cells left behind: damaged files and foreign configurations are named, not used."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.door import are_scores, plain_line, problem_of_cell, problem_of_content, problem_of_files, read_json
from zoo.configs import read_yaml
from zoo.errors import UserError
from zoo.metrics.shortcuts import STATISTICS

Array = NDArray[Any]
PLAN_FILE = "benchmark.json"
SEMI_SUPERVISED = " (semi-supervised)"  # behind the method's name wherever its results appear


class Result(NamedTuple):
    """A finished cell.

    Attributes:
        folder: of the cell.
        method: name in the benchmark, marked where the run has also seen unlabelled images.
        dataset: name in the benchmark.
        seed: of the run.
        content: its ``metrics.json``.
        scores: columns of its ``scores.csv``, sorted by id: ``id``, ``subject``, ``case`` (older versions wrote none),
            ``label``, ``score``, the statistics that the test knew, and ``copy_of`` where it looked for near-copies of
            training images.
    """

    folder: Path
    method: str
    dataset: str
    seed: int
    content: dict[str, Any]
    scores: dict[str, Array]

    @property
    def cases(self) -> Array:
        """The case of each image: the patient where known, else the volume or the image itself."""
        ids = self.scores["id"]
        known = self.scores.get("case")
        if known is not None:
            return known
        subjects = self.scores.get("subject", np.full(len(ids), ""))
        return np.where(subjects == "", ids, subjects)


class Reading(NamedTuple):
    """Benchmark folders, read.

    Attributes:
        results: the cells that count, sorted by data set, method and seed.
        failed: name of a cell that failed in every folder that has it -> why.
        damaged: name of a cell said to be finished -> what is wrong with its files.
        conflicting: name or folder of a cell -> why it does not belong with the others.
        outdated: names of cells of an earlier configuration of their folder.
    """

    results: list[Result]
    failed: dict[str, str]
    damaged: dict[str, str]
    conflicting: dict[str, str]
    outdated: list[str]


def read_cell(folder: Path) -> Result:
    """Read a finished cell.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    if (problem := problem_of_cell(folder.name) or problem_of_files(folder)) is not None:
        raise ValueError(problem)
    method, dataset, seed = folder.name.split("--")
    content = read_json(folder / "metrics.json")
    if (problem := problem_of_content(content)) is not None:
        raise ValueError(problem)
    try:
        scores = read_scores(folder / "scores.csv")
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"scores.csv is missing or damaged ({type(error).__name__})") from error
    mark = SEMI_SUPERVISED if content.get("semi_supervised") else ""
    return Result(folder, method + mark, dataset, int(seed), content, scores)


def read_scores(path: Path) -> dict[str, Array]:
    """Columns of a ``scores.csv``, sorted by id; statistics that an older version did not write are left out.

    Raises:
        KeyError, TypeError, ValueError, csv.Error: it is damaged.
        OSError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        rows = sorted(reader, key=lambda row: row["id"])
    if not rows or any(None in row or None in row.values() for row in rows):
        raise ValueError("no rows, or a row with too few or too many values")
    known = [name for name in STATISTICS if name in rows[0]]
    numbers = {name: np.array([float(row[name]) for row in rows]) for name in ("label", "score", *known)}
    if not are_scores(numbers.values()) or not np.isin(numbers["label"], (0, 1)).all():
        raise ValueError("scores must be finite and labels 0 or 1")
    words = ("id", "subject", *(name for name in ("case", "copy_of") if name in rows[0]))
    return {**numbers, **{name: np.array([row[name] for row in rows]) for name in words}}


def read_results(folders: Iterable[Path]) -> Reading:
    """All finished cells of benchmark folders that belong together.

    A cell whose fingerprint is not the one in the folder's ``benchmark.json`` comes from an earlier configuration. Of
    equal cells in several folders the first counts; cells of one method on one data set must have the configuration of
    the first one, but for seed and place of the data.
    """
    found: dict[tuple[str, str, int], Result] = {}
    failed: dict[str, str] = {}
    damaged: dict[str, str] = {}
    conflicting: dict[str, str] = {}
    outdated: list[str] = []
    for out in folders:
        planned = read_json(out / PLAN_FILE).get("cells")
        for folder in sorted((out / "cells").glob("*--*--*")):
            if folder.resolve().parent != (out / "cells").resolve() or not folder.is_dir():
                damaged[plain_line(folder.name)] = "no folder of this benchmark"
                continue
            status = read_json(folder / "status.json")
            if status.get("status") not in ("done", "failed"):
                continue
            if isinstance(planned, dict) and planned.get(folder.name) != status.get("fingerprint"):
                outdated.append(plain_line(folder.name))
                continue
            if status["status"] == "failed" and problem_of_cell(folder.name) is None:
                failed[folder.name] = plain_line(status.get("reason"))
                continue
            try:
                result = read_cell(folder)
            except ValueError as error:
                damaged[plain_line(folder.name)] = str(error)
                continue
            key = (result.dataset, result.method, result.seed)
            if key in found and read_json(found[key].folder / "status.json").get("fingerprint") != status.get(
                "fingerprint"
            ):
                conflicting[str(folder)] = f"another configuration than {found[key].folder}"
            found.setdefault(key, result)
    kept = _alike([found[key] for key in sorted(found)], conflicting)
    failed = {
        name: reason for name, reason in failed.items() if name not in {one.folder.name for one in found.values()}
    }
    return Reading(kept, failed, damaged, conflicting, outdated)


def _alike(results: list[Result], conflicting: dict[str, str]) -> list[Result]:
    """The results whose configuration and data are those of the first of their method and data set."""
    first: dict[tuple[str, str], tuple[Result, Any]] = {}
    kept = []
    for result in results:
        own = _essence(result)
        reference, essence = first.setdefault((result.dataset, result.method), (result, own))
        if own == essence:
            kept.append(result)
        else:
            conflicting[result.folder.name] = (
                f"configuration, data or tested images differ from {reference.folder.name}"
            )
    return kept


def _essence(result: Result) -> Any:
    """What must be equal among the seeds: the configuration without seed and paths, the data and the tested images."""
    try:
        config = read_yaml(result.folder / "config.yaml")
        config.pop("seed_everything", None)
        config["data"].get("init_args", {}).pop("root", None)
        config["model"].get("init_args", {}).pop("checkpoints", None)
    except (OSError, UserError, AttributeError, KeyError, TypeError):
        config = None
    return config, result.content.get("data_fingerprint"), result.scores["id"].tolist()
