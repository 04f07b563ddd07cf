"""What the user sees while cells run: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from benchmarks.door import read_json
from benchmarks.leaderboard import shortcuts_of
from benchmarks.plan import Cell
from benchmarks.results import read_cell
from zoo.metrics.shortcuts import STATISTICS
from zoo.metrics.table import PRIMARY, heading

LINE_SECONDS = 30.0


class Display:
    """Shows running cells with stage, epoch, step, time left and first metric so far, and a line for each finished one.

    Called by an engine with a cell, its state and its progress or status.

    Args:
        out: the benchmark's folder.
        total: cells to be run.
        stream: default: standard output; a terminal gets the live table, anything else a line for each running cell
            every :data:`LINE_SECONDS`.
    """

    def __init__(self, out: Path, total: int, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self.out, self.total = out, total
        self.console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self.finished, self.start = 0, time.monotonic()
        self.running: dict[str, tuple[float, dict[str, Any]]] = {}
        self.told: dict[str, float] = {}
        self.to_beat: dict[str, str] = {}
        self.live: Any = None

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            from rich.live import Live

            self.live = Live(console=self.console, get_renderable=self.table, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, cell: Cell, state: str, content: dict[str, Any]) -> None:
        """Take a report of an engine."""
        now = time.monotonic()
        if state == "running":
            started, before = self.running.get(cell.name, (now, {}))
            self.running[cell.name] = (started, content or before)
            if self.live is None and content and now - self.told.setdefault(cell.name, now) >= LINE_SECONDS:
                self.told[cell.name] = now
                self._say("        " + "  ".join([cell.name, *filter(None, columns(content))]))
            return
        self.running.pop(cell.name, None)
        self.finished += 1
        told = str(content.get("reason", ""))
        if state == "done":
            value = read_json(self.out / "cells" / cell.name / "metrics.json").get("metrics", {}).get(PRIMARY)
            told = f"{heading(PRIMARY)} " + ("nan" if value is None else f"{value:.3f}")
            self._learn(cell)
        left = (now - self.start) / self.finished * (self.total - self.finished)
        self._say(f"{self.finished:>3}/{self.total} {state:<7} {cell.name:<44} {told}  ({_time(left)} left)")

    def _learn(self, cell: Cell) -> None:
        """Of the first finished cell of a data set: what a method has to beat there."""
        if cell.dataset in self.to_beat:
            return
        try:
            shortcuts = shortcuts_of([read_cell(self.out / "cells" / cell.name)])
        except ValueError:  # the report names damaged files
            return
        if shortcuts:
            told = f"{STATISTICS[shortcuts[0].name]} alone {shortcuts[0].auroc:.3f}"
            self.to_beat[cell.dataset] = told
            self._say(f"        to beat on {cell.dataset}: {told} ({heading(PRIMARY)})")

    def table(self) -> Any:
        """The running cells as a table of rich, and below what needs no learning on their data sets."""
        from rich.table import Table

        seconds = time.monotonic() - self.start
        title = f"{self.finished} of {self.total} cells finished, {_time(seconds)}"
        if self.finished:
            title += f", about {_time(seconds / self.finished * (self.total - self.finished))} left"
        table = Table("cell", "time", "stage", "epoch", "step", "stage left", f"{heading(PRIMARY)} so far", title=title)
        for name, (started, content) in sorted(self.running.items()):
            shown = columns(content) if content else ("starting", "", "", "", "")
            table.add_row(name, _time(time.monotonic() - started), *shown)
        for dataset, told in sorted(self.to_beat.items()):
            table.add_row(f"to beat on {dataset}", "", "", "", "", "", told, style="dim")
        return table

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)
        self.console.file.flush()


def columns(content: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Stage, epoch, step, time left and first metric of a cell's ``progress.json``, empty where unknown."""
    epoch, left, area = (content.get(key) for key in ("epoch", "left", PRIMARY))
    origin = "test" if content.get("stage") == "test" else "validation, synthetic"
    return (
        str(content.get("stage", "")),
        "" if epoch is None else f"epoch {epoch}",
        f"{content.get('done', '?')}/{content.get('total', '?')}",
        "" if left is None else f"{_time(left)} left",
        "" if area is None else f"{area:.3f} ({origin})",
    )


def _time(seconds: float) -> str:
    """Seconds in the form 3:05 or 2:03:05."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
