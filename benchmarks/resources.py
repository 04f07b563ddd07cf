"""Cores, memory and GPUs of a cell: what it gets, and what it takes with all its processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_GPU_WORDS = ("gpu", "cuda")


def available_cores() -> int:
    """Cores that this process may use: SLURM, containers and taskset give it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(cores: int) -> int:
    """Threads of a cell that gets so many cores: as many, unless the user's OMP_NUM_THREADS asks for fewer."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) else cores


def environment_of(cores: int, gpus: list[str] | None) -> dict[str, str]:
    """Environment of a cell's process.

    Args:
        cores: of the cell; PyTorch's and BLAS's threads, see :func:`threads_of`.
        gpus: the cell's; None leaves the choice to the machine.
    """
    threads = str(threads_of(cores))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    if "SLURM_JOB_ID" in environment:  # the job's tasks are runners, not ranks of a cell: Lightning starts those itself
        environment["SLURM_JOB_NAME"] = "interactive"
    return environment


# ---- memory -------------------------------------------------------------------------------------------------------


def process_tree(pid: int) -> list[int]:
    """A process and all its descendants; only the process itself where the system does not tell (not Linux)."""
    found = [pid]
    for one in found:
        for tasks in _children_files(one):
            with contextlib.suppress(OSError):
                found += [child for child in map(int, tasks.read_text().split()) if child not in found]
    return found


def _children_files(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return []


def memory_gb(pid: int, limit: float = 0.0) -> float:
    """Memory of a process and its descendants in GB.

    Resident pages are added up, which counts pages that forked loader workers share once for each; only when that sum
    exceeds ``limit``, shared pages are divided among those that share them, which takes longer to tell.

    Args:
        pid: of the process.
        limit: GB.

    Returns:
        float: 0 where it cannot be told.
    """
    tree = process_tree(pid)
    resident = sum(_resident(one) for one in tree) / 1e9
    return resident if resident <= limit else sum(_proportional(one) for one in tree) / 1e9


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, IndexError, ValueError, StopIteration):
        return _resident(pid)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its descendants; the process leads a group of its own."""
    descendants = process_tree(process.pid) if process.poll() is None else []
    if sys.platform == "win32":  # no groups, no descendants that could be told
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for pid in descendants[1:]:  # those that left the group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def stop(processes: list[subprocess.Popen[bytes]], grace: float = 10.0) -> None:
    """Ask processes to end, which lets a training save its checkpoint, and end what is left after the grace (s)."""
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            time.sleep(0.05)
    finally:
        for process in processes:
            kill(process)


# ---- GPUs ---------------------------------------------------------------------------------------------------------


def visible_gpus() -> list[str]:
    """GPUs that ``CUDA_VISIBLE_DEVICES`` leaves (the user's, SLURM's or Ray's choice), else all; without torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(n) for n in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def gpus_wanted(trainer: dict[str, Any], available: int) -> int:
    """GPUs that a cell's trainer settings ask for, of those available.

    ``devices`` is a number, a list, ``auto`` (one for each cell) or -1 (all).
    """
    accelerator = trainer.get("accelerator", "auto")
    if accelerator not in (*_GPU_WORDS, "auto") or (accelerator == "auto" and not available):
        return 0
    devices = trainer.get("devices", "auto")
    if isinstance(devices, list):
        return len(devices)
    if str(devices) == "-1":
        return max(available, 1)
    return int(devices) if str(devices).isdigit() else 1


def take_gpus(wanted: int, gpus: list[str], running: list[list[str]]) -> list[str] | None:
    """Choose GPUs for a cell.

    A cell that wants several has them for itself; one that wants one gets the least used, which cells share when there
    are more workers than GPUs.

    Args:
        wanted: number.
        gpus: all.
        running: those of each running cell.

    Returns:
        list: the GPUs, or None if the cell must wait.
    """
    held = {gpu for cell in running if len(cell) > 1 for gpu in cell}
    uses = [gpu for cell in running for gpu in cell]
    free = [gpu for gpu in gpus if gpu not in (uses if wanted > 1 else held)]
    if len(free) < wanted:
        return None
    return sorted(free, key=lambda gpu: (uses.count(gpu), gpus.index(gpu)))[:wanted]
