"""Runs cells in subprocesses of their own: what crashes, hangs or eats the memory fails alone."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.plan import Cell
from zoo.errors import UserError

POLL_SECONDS = 0.02


class Limits(NamedTuple):
    """What a cell may use.

    Attributes:
        seconds: wall-clock time, None without limit.
        memory_gb: resident memory of its processes, None without limit.
    """

    seconds: float | None = None
    memory_gb: float | None = None


# ---- a cell's folder ----------------------------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under another name, then rename it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_status(folder: Path) -> dict[str, Any]:
    """A cell's ``status.json``; empty if there is none or it is damaged."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def write_status(folder: Path, cell: Cell, status: str, reason: str = "") -> None:
    """Write ``status.json``: done, failed or running, with the reason and the cell's fingerprint."""
    content = {"status": status, "reason": reason, "fingerprint": cell.fingerprint}
    write_atomically(folder / "status.json", json.dumps(content, indent=2) + "\n")


def is_done(folder: Path, cell: Cell) -> bool:
    """True if the cell was finished with the same configuration and data, and its metrics are there."""
    status = read_status(folder)
    if status.get("status") != "done" or status.get("fingerprint") != cell.fingerprint:
        return False
    return _readable_metrics(folder)


def _readable_metrics(folder: Path) -> bool:
    try:
        return "metrics" in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def prepare(folder: Path, cell: Cell) -> None:
    """Make the folder; what another configuration left is removed, an interrupted run of the same one is resumed."""
    if folder.exists() and (read_status(folder).get("fingerprint") != cell.fingerprint or _damaged(folder)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    write_atomically(folder / "config.yaml", yaml.safe_dump(cell.config, sort_keys=False))
    write_status(folder, cell, "running")


def _damaged(folder: Path) -> bool:
    """A checkpoint that is no whole zip archive (torch's format) cannot be resumed from."""
    import zipfile

    checkpoint = folder / "checkpoints" / "last.ckpt"
    return checkpoint.exists() and not zipfile.is_zipfile(checkpoint)


def finish(folder: Path, cell: Cell, problem: str | None) -> bool:
    """Write the final status of a cell whose process has ended; True if all went well."""
    if problem is None and not _readable_metrics(folder):
        problem = "ended without metrics"
    if problem is None:
        panel = folder / "panels" / "most_anomalous.png"
        if panel.exists():
            shutil.copyfile(panel, folder / "panel.png")
    write_status(folder, cell, "done" if problem is None else "failed", problem or "")
    return problem is None


def reason_of(code: int, log: Path) -> str:
    """Why a process failed: its signal, or the last telling line of its log."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
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
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise UserError(f"--out {out}: in use by {owner}; wait for it or give another folder") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        yield


# ---- the local engine ---------------------------------------------------------------------------------------------


def worker_environment(cores: int, gpu: str | None) -> dict[str, str]:
    """Environment of a cell's process: its share of the cores, its GPU."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def _next_cell(waiting: list[Cell], running: list[Cell]) -> Cell | None:
    """The first cell whose members are neither waiting nor running."""
    busy = {cell.name for cell in (*waiting, *running)}
    return next((cell for cell in waiting if not busy.intersection(cell.needs)), None)


def _unfinished_members(out: Path, cell: Cell) -> str:
    """Why an ensemble cannot be made: a failed member may have left a half-trained checkpoint."""
    unfinished = [need for need in cell.needs if read_status(out / "cells" / need).get("status") != "done"]
    return f"members not finished: {', '.join(unfinished)}" if unfinished else ""


class _Worker(NamedTuple):
    cell: Cell
    folder: Path
    process: subprocess.Popen[bytes]
    started: float
    slot: int


def run_local(
    cells: list[Cell],
    out: Path,
    limits: Limits,
    workers: int,
    report: Callable[[Cell, str, dict[str, Any]], None],
    command: Callable[[Path], list[str]] | None = None,
) -> list[Cell]:
    """Run cells in a pool of subprocesses.

    Args:
        cells: to be run, in this order.
        out: the benchmark's folder.
        limits: of each cell.
        workers: processes at a time; cores and GPUs are divided among them.
        report: called with a cell, its state (``running``, ``done``, ``failed``) and its status.
        command: of a cell's folder; None: this package's worker.

    Returns:
        list: the cells that failed.
    """
    make_command = command or (lambda folder: [sys.executable, "-m", "benchmarks.cell", str(folder)])
    gpus, cores = visible_gpus(), max(1, (os.cpu_count() or 1) // workers)
    waiting, running, failed = list(cells), dict[int, _Worker](), list[Cell]()
    try:
        while waiting or running:
            for slot in range(workers):
                cell = None if slot in running else _next_cell(waiting, [worker.cell for worker in running.values()])
                if cell is not None:
                    waiting.remove(cell)
                    folder = out / "cells" / cell.name
                    prepare(folder, cell)
                    if missing := _unfinished_members(out, cell):
                        finish(folder, cell, missing)
                        failed.append(cell)
                        report(cell, "failed", read_status(folder))
                        continue
                    environment = worker_environment(cores, gpus[slot % len(gpus)] if gpus else None)
                    with (folder / "log.txt").open("ab") as log:
                        process = subprocess.Popen(
                            make_command(folder), stdout=log, stderr=log, env=environment, start_new_session=True
                        )
                    running[slot] = _Worker(cell, folder, process, time.monotonic(), slot)
                    report(cell, "running", {})
            for slot, worker in list(running.items()):
                problem = _problem(worker, limits)
                if problem == "":
                    continue
                del running[slot]
                if not finish(worker.folder, worker.cell, problem):
                    failed.append(worker.cell)
                report(worker.cell, str(read_status(worker.folder).get("status")), read_status(worker.folder))
            time.sleep(POLL_SECONDS)
    finally:
        for worker in running.values():
            _kill(worker.process)
    return failed


def _problem(worker: _Worker, limits: Limits) -> str | None:
    """Empty while the process runs, None if it ended well, else why it failed."""
    code = worker.process.poll()
    if code is not None:
        return None if code == 0 else reason_of(code, worker.folder / "log.txt")
    if limits.seconds is not None and time.monotonic() - worker.started > limits.seconds:
        _kill(worker.process)
        return f"took longer than {limits.seconds / 60:g} minutes"
    if limits.memory_gb is not None and resident_gb(worker.process.pid) > limits.memory_gb:
        _kill(worker.process)
        return f"used more than {limits.memory_gb:g} GB of memory"
    return ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def resident_gb(pid: int) -> float:
    """Resident memory of a process in GB; 0 where it cannot be told."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def visible_gpus() -> list[str]:
    """GPUs that ``CUDA_VISIBLE_DEVICES`` leaves (the user's, SLURM's or Ray's choice), else all; without torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(n) for n in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]
