"""``zoo benchmark`` and ``zoo report``."""

import argparse
import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.plan import Cell, Plan


def main(argv: list[str]) -> int:
    """Run one of the two commands.

    Args:
        argv: ``benchmark`` or ``report`` and their arguments.

    Returns:
        int: 0 all well, 1 a cell failed or nothing is finished.

    Raises:
        UserError: a mistake in the configuration, or a folder in use.
        SystemExit: usage, code 2.
    """
    arguments = _parser().parse_args(argv)
    return _benchmark(arguments) if arguments.command == "benchmark" else _report(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("benchmark", help="run methods x data sets x seeds")
    run.add_argument("config", metavar="CONFIG", help="file, or a shipped one by name: quick")
    run.add_argument("--out", required=True, help="folder of the benchmark; a second run resumes it")
    run.add_argument("--engine", choices=("local", "ray"), default="local")
    run.add_argument("--workers", type=int, default=1, help="cells at a time")
    run.add_argument("--cores", type=int, help="cores of a cell; default: an equal share")
    run.add_argument("--memory-gb", type=float, help="memory that a cell may use, with all its processes")
    run.add_argument("--only", default="*", help="pattern of cell names: 'fae--*'")
    run.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    run.add_argument("--dry-run", action="store_true", help="show what would be run, and how long it may take")
    run.add_argument("--wandb", choices=("online", "offline"), help="log finished cells to Weights & Biases")
    report = commands.add_parser("report", help="tables and page from benchmark folders")
    report.add_argument("folders", nargs="+", metavar="DIR")
    report.add_argument("--out", help="where the files go; default: the first folder")
    return parser


def _benchmark(arguments: argparse.Namespace) -> int:
    from benchmarks.estimate import told
    from benchmarks.plan import read_plan
    from benchmarks.runner import exclusive, is_done, read_status
    from zoo.errors import UserError

    if arguments.workers < 1 or (arguments.cores is not None and arguments.cores < 1):
        raise UserError("--workers and --cores must be at least 1")
    out = Path(arguments.out)
    plan = read_plan(arguments.config, out)
    chosen = [cell for cell in plan.cells if fnmatch.fnmatch(cell.name, arguments.only)]
    if not chosen:
        raise UserError(f"--only {arguments.only}: no such cell; the first is {plan.cells[0].name}")
    done = [cell for cell in chosen if is_done(out / "cells" / cell.name, cell)]
    old = [] if arguments.retry_failed else [cell for cell in chosen if _failed_before(read_status, out, cell)]
    todo = [cell for cell in chosen if cell not in done and cell not in old]
    if arguments.dry_run:
        for line in told(out, todo, done, arguments.workers, plan.timeout):
            _say(line)
        return 0
    failed = {cell.name: str(read_status(out / "cells" / cell.name).get("reason")) for cell in old}
    with exclusive(out):
        _say(f"{plan.name}: {len(chosen)} cells, {len(done)} done, {len(old)} failed before, {len(todo)} to run")
        _write_plan(out, plan)
        failed |= _run(todo, out, plan, arguments) if todo else {}
        left_out = write_report([out], out, failed)
    if left_out is not None and arguments.wandb:
        from benchmarks.wandb_log import log_benchmark

        log_benchmark(out, plan.name, plan.published, offline=arguments.wandb == "offline")
    return 0 if left_out is not None and not left_out & {cell.name for cell in chosen} else 1


def _run(todo: list["Cell"], out: Path, plan: "Plan", arguments: argparse.Namespace) -> dict[str, str]:
    """Run cells; SIGTERM ends like Ctrl-C: the cells are asked to save what they have."""
    import signal

    from benchmarks.display import Display
    from benchmarks.runner import Limits, run_local

    limits = Limits(plan.timeout, arguments.memory_gb)
    engine = run_local
    if arguments.engine == "ray":
        from benchmarks.ray_engine import run_ray as engine  # type: ignore[assignment]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Display(out, len(todo)) as display:
            return engine(todo, out, limits, arguments.workers, display, cores=arguments.cores)
    finally:
        signal.signal(signal.SIGTERM, before)


def _failed_before(read_status: Any, out: Path, cell: "Cell") -> bool:
    status = read_status(out / "cells" / cell.name)
    return status.get("status") == "failed" and status.get("fingerprint") == cell.fingerprint


def _write_plan(out: Path, plan: "Plan") -> None:
    """What ``zoo report`` needs to know: title, published tables, and which cells belong to the configuration."""
    import json

    from benchmarks.results import PLAN_FILE
    from benchmarks.runner import write_atomically

    cells = {cell.name: cell.fingerprint for cell in plan.cells}
    content = {"name": plan.name, "published": plan.published, "cells": cells}
    write_atomically(out / PLAN_FILE, json.dumps(content, indent=1) + "\n")


def _say(line: str) -> None:
    print(line, flush=True)


def _report(arguments: argparse.Namespace) -> int:
    from zoo.errors import UserError

    folders = [Path(folder) for folder in arguments.folders]
    for folder in folders:
        if not (folder / "cells").is_dir():
            raise UserError(f"{folder}: no benchmark there (no folder cells); `zoo benchmark` makes one")
    out = Path(arguments.out) if arguments.out else folders[0]
    out.mkdir(parents=True, exist_ok=True)
    return 0 if write_report(folders, out, {}) == set() else 1


def write_report(folders: list[Path], out: Path, failed: dict[str, str]) -> set[str] | None:
    """Tables and page from the finished cells of one or more folders.

    Failed and damaged cells, and those that do not belong with the others, are named and left out.

    Args:
        folders: of benchmarks; title and published tables come from the first one's ``benchmark.json``.
        out: where the files go.
        failed: cells known to have failed, and why.

    Returns:
        set: names of the cells left out, without those of an earlier configuration; None without a finished cell.
    """
    from benchmarks.leaderboard import write_tables
    from benchmarks.published import Published
    from benchmarks.report import write_page
    from benchmarks.results import PLAN_FILE, read_json, read_results
    from zoo.metrics.table import TABLE

    about = read_json(folders[0] / PLAN_FILE)
    name, published = str(about.get("name", out.name)), list(about.get("published", []))
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
    rows = write_tables(out, name, reading.results, Published(published, list(TABLE)))
    write_page(out, name, rows, reading.results, published, {**failed, **problems})
    _say((out / "leaderboard.md").read_text(encoding="utf-8"))
    _say(f"page: {out / 'report.html'}   table: {out / 'leaderboard.csv'}")
    return {*failed, *problems}
