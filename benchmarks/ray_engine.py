"""The same cells on a Ray cluster: an existing one (``RAY_ADDRESS``) or a local one."""

import os
from pathlib import Path
from typing import Any

from benchmarks.door import read_json
from benchmarks.plan import Cell
from benchmarks.resources import available_cores, gpus_wanted
from benchmarks.runner import Command, Limits, Report, read_status, run_local
from zoo.errors import UserError

WATCH_SECONDS = 1.0


def run_ray(
    cells: list[Cell],
    out: Path,
    limits: Limits,
    workers: int,
    report: Report,
    command: Command,
    cores: int = 1,
) -> dict[str, str]:
    """Run cells as Ray tasks; the folder must lie on storage that every node sees.

    A cell asks Ray for its cores, which are its number of threads, and for the GPUs of its ``trainer.devices``.

    Args:
        cells: see :func:`benchmarks.runner.run_local`.
        out: see there.
        limits: see there.
        workers: cells at a time.
        report: see there.
        command: see there.
        cores: see there.

    Returns:
        dict: name of each cell that failed, and why.

    Raises:
        UserError: Ray is not installed, or no node has the GPUs that a cell asks for.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'uad-zoo[ray]'") from error
    local = not ray.is_initialized() and "RAY_ADDRESS" not in os.environ
    ray.init(
        address="local" if local else None,
        num_cpus=max(workers * cores, available_cores()) if local else None,
        include_dashboard=False,
        log_to_driver=False,
        ignore_reinit_error=True,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
    )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest, gpus = _most(nodes, "CPU", max), _most(nodes, "GPU", max)
    share = max(1, min(cores, largest))

    def run_one(cell: Cell) -> dict[str, str]:
        return run_local([cell], out.absolute(), limits, 1, lambda *_: None, command, cores=share)

    remote: Any = ray.remote(max_retries=0)(run_one)

    def submit(cell: Cell) -> Any:
        wanted = gpus_wanted(cell.config.get("trainer", {}), gpus) if gpus else 0
        if wanted > gpus:
            raise UserError(f"{cell.name} asks for {wanted} GPUs (trainer.devices), the largest node has {gpus}")
        (out / "cells" / cell.name / "progress.json").unlink(missing_ok=True)
        return remote.options(num_cpus=share, num_gpus=wanted).remote(cell)

    failed: dict[str, str] = {}
    waiting = [cell for cell in cells if not cell.needs]
    later = [cell for cell in cells if cell.needs]  # ensembles wait for their members
    pending: dict[Any, Cell] = {}
    try:
        while waiting or pending or later:
            if not waiting and not pending:
                waiting, later = later, []
            while waiting and len(pending) < workers:
                cell = waiting.pop(0)
                pending[submit(cell)] = cell
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=WATCH_SECONDS)
            for reference in ready:
                cell = pending.pop(reference)
                try:
                    reasons = ray.get(reference)
                except Exception as error:  # a lost node fails its cell alone
                    reasons = {cell.name: f"Ray: {type(error).__name__}"}
                failed |= reasons
                status = read_status(out / "cells" / cell.name)
                report(cell, "failed" if reasons else "done", {**status, "reason": "".join(reasons.values())})
            for cell in pending.values():
                if progress := read_json(out / "cells" / cell.name / "progress.json"):
                    report(cell, "running", progress)
        return failed
    finally:
        ray.shutdown()


def _most(nodes: list[dict[str, float]], key: str, combine: Any) -> int:
    return int(combine([node.get(key, 0) for node in nodes] or [0]))
