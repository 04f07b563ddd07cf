"""``zoo benchmark`` and ``zoo report``."""

import argparse
import fnmatch
import sys
import time
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
    run.add_argument("--memory-gb", type=float, help="memory that a cell may use")
    run.add_argument("--only", default="*", help="pattern of cell names: 'fae--*'")
    run.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    run.add_argument("--dry-run", action="store_true", help="show what would be run")
    run.add_argument("--wandb", choices=("online", "offline"), help="log finished cells to Weights & Biases")
    report = commands.add_parser("report", help="tables and page from benchmark folders")
    report.add_argument("folders", nargs="+", metavar="DIR")
    report.add_argument("--out", help="where the files go; default: the first folder")
    return parser


def _benchmark(arguments: argparse.Namespace) -> int:
    from benchmarks.plan import read_plan
    from benchmarks.runner import Limits, exclusive, is_done, read_status, run_local
    from zoo.errors import UserError

    if arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, found {arguments.workers}")
    out = Path(arguments.out)
    plan = read_plan(arguments.config, out)
    chosen = [cell for cell in plan.cells if fnmatch.fnmatch(cell.name, arguments.only)]
    if not chosen:
        raise UserError(f"--only {arguments.only}: no such cell; the first is {plan.cells[0].name}")
    done = [cell for cell in chosen if is_done(out / "cells" / cell.name, cell)]
    old = [] if arguments.retry_failed else [cell for cell in chosen if _failed_before(read_status, out, cell)]
    todo = [cell for cell in chosen if cell not in done and cell not in old]
    if arguments.dry_run:
        return _dry_run(plan, out, todo, done, arguments.workers)
    with exclusive(out):
        _say(f"{plan.name}: {len(chosen)} cells, {len(done)} done, {len(old)} failed before, {len(todo)} to run")
        limits = Limits(plan.timeout, arguments.memory_gb)
        engine = run_local
        if arguments.engine == "ray":
            from benchmarks.ray_engine import run_ray as engine  # type: ignore[assignment]
        failed = engine(todo, out, limits, arguments.workers, _Progress(out, len(todo))) if todo else []
        written = write_report([out], out, plan)
    for cell in [*old, *failed]:
        _say(f"FAILED {cell.name}: {read_status(out / 'cells' / cell.name).get('reason')}")
    if written and arguments.wandb:
        from benchmarks.wandb_log import log_cells

        log_cells(out, plan.name, offline=arguments.wandb == "offline")
    return 1 if old or failed else 0


def _failed_before(read_status: Any, out: Path, cell: "Cell") -> bool:
    status = read_status(out / "cells" / cell.name)
    return status.get("status") == "failed" and status.get("fingerprint") == cell.fingerprint


def _dry_run(plan: "Plan", out: Path, todo: list["Cell"], done: list["Cell"], workers: int) -> int:
    """Show the plan; the time is estimated from finished cells of the same method."""
    import json

    seconds: dict[str, list[float]] = {}
    for cell in done:
        content = json.loads((out / "cells" / cell.name / "metrics.json").read_text(encoding="utf-8"))
        seconds.setdefault(cell.method, []).append(float(content.get("fit_seconds") or 0.0))
    known = [sum(values) / len(values) for values in seconds.values()]
    for cell in todo:
        _say(f"run   {cell.name}")
    for cell in done:
        _say(f"done  {cell.name}")
    guess = sum(known) / len(known) * len(todo) / workers if known else None
    limit = f", at most {plan.timeout * len(todo) / workers / 60:.0f} minutes" if plan.timeout else ""
    about = f", about {guess / 60:.1f} minutes by the finished cells" if guess is not None else ""
    _say(f"{len(todo)} to run, {len(done)} done{about}{limit}")
    return 0


class _Progress:
    """One line per event, with image AUROC and time left."""

    def __init__(self, out: Path, total: int) -> None:
        self.out, self.total, self.finished, self.start = out, total, 0, time.monotonic()

    def __call__(self, cell: "Cell", state: str, status: dict[str, Any]) -> None:
        import json

        if state in ("running", "waiting"):
            if sys.stdout.isatty():
                _say(f"        {state:<8} {cell.name}")
            return
        self.finished += 1
        seconds = time.monotonic() - self.start
        left = seconds / self.finished * (self.total - self.finished)
        told = str(status.get("reason", ""))
        if state == "done":
            content = json.loads((self.out / "cells" / cell.name / "metrics.json").read_text(encoding="utf-8"))
            value = content["metrics"].get("image_auroc")
            told = "image AUROC " + ("nan" if value is None else f"{value:.3f}")
        _say(f"{self.finished:>3}/{self.total} {state:<7} {cell.name:<44} {told}  ({left / 60:.1f} min left)")


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
    return 0 if write_report(folders, out, None) else 1


def write_report(folders: list[Path], out: Path, plan: "Plan | None") -> bool:
    """Tables and page from the finished cells of one or more folders; False without any."""
    import json

    from benchmarks.leaderboard import read_results, write_tables
    from benchmarks.report import write_page
    from benchmarks.runner import read_status, write_atomically

    results = read_results(folders)
    if plan is not None:  # what an earlier configuration left in the folder is no part of this table
        current = {(cell.name, cell.fingerprint) for cell in plan.cells}
        results = [r for r in results if (r.folder.name, read_status(r.folder).get("fingerprint")) in current]
    if not results:
        _say("no finished cell yet")
        return False
    about = {"name": out.name, "published": []}
    if plan is not None:
        about = {"name": plan.name, "published": plan.published}
        write_atomically(out / "benchmark.json", json.dumps(about) + "\n")
    elif (folders[0] / "benchmark.json").is_file():
        about = json.loads((folders[0] / "benchmark.json").read_text(encoding="utf-8"))
    rows = write_tables(out, str(about["name"]), results)
    write_page(out, str(about["name"]), rows, results, list(about["published"]))
    _say((out / "leaderboard.md").read_text(encoding="utf-8"))
    _say(f"page: {out / 'report.html'}   table: {out / 'leaderboard.csv'}")
    return True
