"""``zoo benchmark`` and ``zoo report``."""

import argparse
import fnmatch
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.cell import command
from zoo.errors import UserError
from zoo.files import write_text

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
    run.add_argument("--cores", type=int, default=1, help="threads of a cell; figures depend on it in the last digits")
    run.add_argument("--memory-gb", type=float, help="memory that a cell may use, with all its processes")
    run.add_argument("--only", default="*", help="pattern of cell names: 'fae--*'")
    run.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    run.add_argument("--dry-run", action="store_true", help="show what would be run, and how long it may take")
    run.add_argument("--wandb", choices=("online", "offline"), help="log finished cells to Weights & Biases")
    report = commands.add_parser("report", help="tables and page from benchmark folders, or the page of one run")
    report.add_argument("folders", nargs="+", metavar="DIR")
    report.add_argument("--out", help="where the files go; default: the first folder")
    report.add_argument("--paper", help="folder for LaTeX tables, figures, references and a methods paragraph")
    return parser


def _benchmark(arguments: argparse.Namespace) -> int:
    from benchmarks.estimate import told
    from benchmarks.plan import read_plan, with_threads
    from benchmarks.resources import threads_of
    from benchmarks.runner import exclusive, is_done, read_status
    from benchmarks.summary import write_report

    if arguments.workers < 1 or arguments.cores < 1:
        raise UserError("--workers and --cores must be at least 1")
    out = Path(arguments.out)
    plan = with_threads(read_plan(arguments.config, out), threads_of(arguments.cores))
    chosen = [cell for cell in plan.cells if fnmatch.fnmatch(cell.name, arguments.only)]
    if not chosen:
        raise UserError(f"--only {arguments.only}: no such cell; the first is {plan.cells[0].name}")
    done = [cell for cell in chosen if is_done(out / "cells" / cell.name, cell)]
    old = [] if arguments.retry_failed else [cell for cell in chosen if _failed_before(read_status, out, cell)]
    todo = [cell for cell in chosen if cell not in done and cell not in old]
    if arguments.dry_run:
        return _dry_run(told(out, todo, done, arguments.workers, plan.timeout), arguments.config, plan, chosen)
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


def _dry_run(lines: list[str], config: str, plan: "Plan", cells: list["Cell"]) -> int:
    """Say what would be run, beside what a paper states, and check every cell; 2 where one cannot be right."""
    from benchmarks.papers import told as beside_the_paper
    from zoo.cli.checking import missing_data, problems

    wrong = problems(cells)
    for line in [*lines, *beside_the_paper(config, plan), *missing_data(cells)]:
        _say(line)
    for cell, reason in wrong.items():
        _say(f"WRONG {cell}: {reason}")
    return 2 if wrong else 0


def _run(todo: list["Cell"], out: Path, plan: "Plan", arguments: argparse.Namespace) -> dict[str, str]:
    """Run cells; SIGTERM ends like Ctrl-C: the cells are asked to save what they have."""
    import signal

    from benchmarks.display import Display
    from benchmarks.runner import Limits, run_local

    limits = Limits(plan.timeout, arguments.memory_gb)
    engine = run_local
    if arguments.engine == "ray":
        from benchmarks.ray_engine import run_ray as engine
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Display(out, len(todo)) as display:
            return engine(todo, out, limits, arguments.workers, display, command, cores=arguments.cores)
    except KeyboardInterrupt:
        finished = f"{display.finished} of {len(todo)} cells finished"
        _say(f"stopped: {finished}; go on with: zoo benchmark {arguments.config} --out {out}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _failed_before(read_status: Any, out: Path, cell: "Cell") -> bool:
    status = read_status(out / "cells" / cell.name)
    return bool(status.get("status") == "failed" and status.get("fingerprint") == cell.fingerprint)


def _write_plan(out: Path, plan: "Plan") -> None:
    """What ``zoo report`` needs to know: title, published tables, and which cells belong to the configuration."""
    from benchmarks.results import PLAN_FILE

    cells = {cell.name: cell.fingerprint for cell in plan.cells}
    content = {"name": plan.name, "published": plan.published, "selection": plan.selection, "cells": cells}
    write_text(out / PLAN_FILE, json.dumps(content, indent=1) + "\n")


def _say(line: str) -> None:
    print(line, flush=True)


def _report(arguments: argparse.Namespace) -> int:
    from benchmarks.summary import write_report

    folders = [Path(folder) for folder in arguments.folders]
    if len(folders) == 1 and (folders[0] / "metrics.json").is_file() and not (folders[0] / "cells").is_dir():
        from benchmarks.run_page import write_run_page

        print(write_run_page(folders[0], Path(arguments.out) if arguments.out else folders[0]))
        return 0
    for folder in folders:
        if not (folder / "cells").is_dir():
            raise UserError(f"{folder}: no benchmark there (no folder cells) and no tested run (no metrics.json)")
    out = Path(arguments.out) if arguments.out else folders[0]
    out.mkdir(parents=True, exist_ok=True)
    paper = None if arguments.paper is None else Path(arguments.paper)
    return 0 if write_report(folders, out, {}, paper) == set() else 1
