"""Runs cells in subprocesses of their own: what crashes, hangs or eats the memory fails alone."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.door import read_json
from benchmarks.plan import Cell
from benchmarks.resources import (
    environment_of,
    gpus_wanted,
    kill,
    memory_gb,
    stop,
    take_gpus,
    visible_gpus,
)
from benchmarks.results import read_cell
from zoo.errors import UserError
from zoo.files import held, write_text

POLL_SECONDS = 0.02
_KILLED = "killed by"
_FULL = os.strerror(errno.ENOSPC)
TRIES_MORE = 2  # for a cell whose process was killed from outside
_INTERRUPTIONS = (_KILLED, "took longer", "used more", "members not finished", "asks for")  # not the cell's mistake
WATCH_SECONDS = 0.5
Report = Callable[[Cell, str, dict[str, Any]], None]
Command = Callable[[Path], list[str]]


class Limits(NamedTuple):
    """What a cell may use.

    Attributes:
        seconds: wall-clock time, None without limit.
        memory_gb: memory of all its processes together, None without limit.
    """

    seconds: float | None = None
    memory_gb: float | None = None


# ---- a cell's folder ----------------------------------------------------------------------------------------------


def read_status(folder: Path) -> dict[str, Any]:
    """A cell's ``status.json``; empty if there is none or it is damaged."""
    return read_json(folder / "status.json")


def write_status(folder: Path, cell: Cell, status: str, reason: str = "") -> None:
    """Write ``status.json``: done, failed or running, with the reason and the cell's fingerprint."""
    content = {"status": status, "reason": reason, "fingerprint": cell.fingerprint}
    write_text(folder / "status.json", json.dumps(content, indent=2) + "\n")


def is_done(folder: Path, cell: Cell) -> bool:
    """True if the cell was finished with the same configuration and data, and its results can be read."""
    status = read_status(folder)
    if status.get("status") != "done" or status.get("fingerprint") != cell.fingerprint:
        return False
    return _problem_of_results(folder) is None


def _problem_of_results(folder: Path) -> str | None:
    if not (folder / "metrics.json").exists():
        return "ended without metrics"
    try:
        read_cell(folder)
    except ValueError as error:
        return str(error)
    return None


def prepare(folder: Path, cell: Cell) -> None:
    """Make the folder; an interrupted run is resumed, what another configuration or a mistake left is removed."""
    status = read_status(folder)
    reason = str(status.get("reason"))
    mistaken = status.get("status") == "failed" and not reason.startswith(_INTERRUPTIONS) and _FULL not in reason
    if folder.exists() and (status.get("fingerprint") != cell.fingerprint or mistaken or _damaged(folder)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.json", "scores.csv", "progress.json"):
        (folder / name).unlink(missing_ok=True)
    write_text(folder / "config.yaml", yaml.safe_dump(cell.config, sort_keys=False))
    write_status(folder, cell, "running")


def _damaged(folder: Path) -> bool:
    """A checkpoint that is no whole zip archive (torch's format) cannot be resumed from."""
    import zipfile

    checkpoint = folder / "checkpoints" / "last.ckpt"
    try:
        if checkpoint.exists():
            with zipfile.ZipFile(checkpoint) as archive:
                return archive.testzip() is not None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return True
    return False


def finish(folder: Path, cell: Cell, problem: str | None) -> bool:
    """Write the final status of a cell whose process has ended; True if all went well."""
    (folder / "progress.json").unlink(missing_ok=True)
    problem = problem or _problem_of_results(folder)
    if problem is None:
        panel = folder / "panels" / "most_anomalous.png"
        if panel.exists():
            shutil.copyfile(panel, folder / "panel.png")
    write_status(folder, cell, "done" if problem is None else "failed", problem or "")
    return problem is None


def reason_of(code: int, log: Path) -> str:
    """Why a process failed: its signal, or the last telling line of its log."""
    if code < 0 or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):  # the latter: it saved before it ended
        name = signal.Signals(-code if code < 0 else code - 128).name
        return f"{_KILLED} {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or line.startswith("error:")]
    return (telling or lines or [f"exit code {code}"])[-1][:300]


# ---- one runner per folder ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the benchmark's folder; the lock goes when the process does, however it ends.

    Raises:
        UserError: another runner holds it, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(out))
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error
        yield


# ---- the local engine ---------------------------------------------------------------------------------------------


def run_local(
    cells: list[Cell],
    out: Path,
    limits: Limits,
    workers: int,
    report: Report,
    command: Command,
    cores: int = 1,
) -> dict[str, str]:
    """Run cells in a pool of subprocesses.

    Args:
        cells: to be run, in this order.
        out: the benchmark's folder.
        limits: of each cell.
        workers: processes at a time; GPUs are divided among them.
        report: called with a cell, its state (``running``, ``done``, ``failed``) and its progress or status.
        command: the command line that runs the cell in a folder, in a process of its own.
        cores: of each cell, its number of threads. Figures depend on it in the last digits, so that it must not follow
            the number of workers.

    Returns:
        dict: name of each cell that failed, and why.
    """
    pool = _Pool(list(cells), out, limits, report, cores, command)
    try:
        while pool.waiting or pool.running:
            while len(pool.running) < workers and pool.start_one():
                pass
            pool.look_after()
            time.sleep(POLL_SECONDS)
    finally:
        stop([worker.process for worker in pool.running])
    return pool.failed


class _Worker(NamedTuple):
    cell: Cell
    folder: Path
    process: subprocess.Popen[bytes]
    started: float
    gpus: list[str]


class _Pool:
    """The cells of one run: waiting, running, failed."""

    def __init__(
        self,
        waiting: list[Cell],
        out: Path,
        limits: Limits,
        report: Report,
        cores: int,
        command: Command,
    ) -> None:
        self.waiting, self.out, self.limits, self.report, self.cores = waiting, out, limits, report, cores
        self.command = command
        self.running: list[_Worker] = []
        self.killed: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.gpus = visible_gpus()
        self.watched = 0.0

    def start_one(self) -> bool:
        """Start the first cell whose members are finished; False if none can be started now."""
        busy = {cell.name for cell in (*self.waiting, *(worker.cell for worker in self.running))}
        cell = next((cell for cell in self.waiting if not busy.intersection(cell.needs)), None)
        if cell is None:
            return False
        wanted = gpus_wanted(cell.config.get("trainer", {}), len(self.gpus))
        problem = _unfinished_members(self.out, cell)
        if self.gpus and wanted > len(self.gpus):
            problem = problem or f"asks for {wanted} GPUs (trainer.devices), there are {len(self.gpus)}"
        gpus = [] if problem else take_gpus(min(wanted, len(self.gpus)), self.gpus, [one.gpus for one in self.running])
        if gpus is None:  # nobody overtakes a cell that waits for GPUs, or it would wait for ever
            return False
        self.waiting.remove(cell)
        folder = self.out / "cells" / cell.name
        try:
            prepare(folder, cell)
            if problem:
                self._end(cell, folder, problem)
                return True
            environment = environment_of(self.cores, gpus if self.gpus else None)
            with (folder / "log.txt").open("ab") as log:
                process = subprocess.Popen(
                    self.command(folder), stdout=log, stderr=log, env=environment, start_new_session=True
                )
        except OSError as error:
            self._fail(cell, _told(error, folder))
            return True
        self.running.append(_Worker(cell, folder, process, time.monotonic(), gpus))
        self.report(cell, "running", {})
        return True

    def look_after(self) -> None:
        """End what has finished or takes too much; tell the progress of the others."""
        watch = time.monotonic() - self.watched > WATCH_SECONDS
        self.watched = time.monotonic() if watch else self.watched
        for worker in list(self.running):
            problem = _problem(worker, self.limits, watch)
            if problem != "":
                kill(worker.process)  # and what it may have left behind
                self.running.remove(worker)
                if problem is not None and problem.startswith(_KILLED) and self.killed[worker.cell.name] < TRIES_MORE:
                    self.killed[worker.cell.name] += 1  # from outside: not the cell's mistake, it goes on where it was
                    self.waiting.insert(0, worker.cell)
                    continue
                self._end(worker.cell, worker.folder, problem)
            elif watch:
                self.report(worker.cell, "running", read_json(worker.folder / "progress.json"))

    def _end(self, cell: Cell, folder: Path, problem: str | None) -> None:
        try:
            well = finish(folder, cell, problem)
        except OSError as error:
            self._fail(cell, _told(error, folder))
            return
        status = read_status(folder)
        if not well:
            self.failed[cell.name] = str(status.get("reason"))
        self.report(cell, "done" if well else "failed", status)

    def _fail(self, cell: Cell, reason: str) -> None:
        """A failure that cannot be written down; the cell is run again next time."""
        self.failed[cell.name] = reason
        self.report(cell, "failed", {"status": "failed", "reason": reason})


def _told(error: OSError, folder: Path) -> str:
    return f"the runner cannot write {error.filename or folder}: {error.strerror or error}"


def _unfinished_members(out: Path, cell: Cell) -> str | None:
    """Why an ensemble cannot be made: a failed member may have left a half-trained checkpoint."""
    unfinished = [need for need in cell.needs if read_status(out / "cells" / need).get("status") != "done"]
    return f"members not finished: {', '.join(unfinished)}" if unfinished else None


def _problem(worker: _Worker, limits: Limits, watch: bool) -> str | None:
    """Empty while the process runs, None if it ended well, else why it failed."""
    code = worker.process.poll()
    if code is not None:
        return None if code == 0 else reason_of(code, worker.folder / "log.txt")
    if limits.seconds is not None and time.monotonic() - worker.started > limits.seconds:
        return f"took longer than {limits.seconds / 60:g} minutes"
    if watch and limits.memory_gb is not None and memory_gb(worker.process.pid, limits.memory_gb) > limits.memory_gb:
        return f"used more than {limits.memory_gb:g} GB of memory"
    return ""
