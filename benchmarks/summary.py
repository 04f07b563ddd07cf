"""Tables and page of benchmark folders, and what is said of the cells that are left out."""

from pathlib import Path
from typing import Any

from benchmarks.door import known_names, plain_line, problem_of_cell, read_json
from benchmarks.paper import write_paper
from benchmarks.published import Published, known_tables
from benchmarks.report import write_page
from benchmarks.results import PLAN_FILE, Result, read_results
from benchmarks.tables import write_tables
from zoo.metrics.table import TABLE


def write_report(folders: list[Path], out: Path, failed: dict[str, str], paper: Path | None = None) -> set[str] | None:
    """Tables and page from the finished cells of one or more folders.

    Failed and damaged cells, and those that do not belong with the others, are named and left out.

    Args:
        folders: of benchmarks; title and published tables come from the first one's ``benchmark.json``.
        out: where the files go.
        failed: cells known to have failed, and why.
        paper: where parts of a paper go too, or None.

    Returns:
        set: names of the cells left out, without those of an earlier configuration; None without a finished cell.
    """
    about = read_json(folders[0] / PLAN_FILE)
    name = plain_line(about.get("name", out.name), 200)
    published, others = known_names(about.get("published"), known_tables())
    if others:
        _say(f"LEFT OUT published tables that are not shipped: {', '.join(others)}")
    reading = read_results(folders)
    failed = {**reading.failed, **failed}
    problems = {**reading.damaged, **reading.conflicting}
    for cell, reason in failed.items():
        _say(f"FAILED {cell}: {reason}")
    for cell, reason in problems.items():
        _say(f"LEFT OUT {cell}: {reason}")
    if reading.outdated:
        _say(f"left out, of an earlier configuration: {', '.join(reading.outdated)}")
    if not reading.results:
        _say("no finished cell yet")
        return None
    missing = {**dict.fromkeys(_not_run(about, reading.results), "not run yet"), **failed, **problems}
    rows = write_tables(out, name, reading.results, Published(published, list(TABLE)), missing)
    write_page(out, name, rows, reading.results, published, missing)
    _say((out / "leaderboard.md").read_text(encoding="utf-8"))
    if paper is not None:
        files = write_paper(paper, name, rows, reading.results)
        _say(f"paper: {len(files)} files in {paper}")
    _say(f"page: {out / 'report.html'}   table: {out / 'leaderboard.csv'}")
    return {*failed, *problems}


def _not_run(about: dict[str, Any], results: list[Result]) -> list[str]:
    """Planned cells without a result."""
    planned = about.get("cells")
    done = {result.folder.name for result in results}
    known = planned if isinstance(planned, dict) else {}
    return [cell for cell in known if cell not in done and problem_of_cell(cell) is None]


def _say(line: str) -> None:
    print(line, flush=True)
