"""The same cells on a Ray cluster: an existing one (``RAY_ADDRESS``) or a local one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plan import Cell
from benchmarks.runner import Limits, read_status, run_local
from zoo.errors import UserError


def run_ray(
    cells: list[Cell],
    out: Path,
    limits: Limits,
    workers: int,
    report: Callable[[Cell, str, dict[str, Any]], None],
) -> list[Cell]:
    """Run cells as Ray tasks; the folder must lie on storage that every node sees.

    Args:
        cells: see :func:`benchmarks.runner.run_local`.
        out: see there.
        limits: see there.
        workers: cells at a time; each asks for one CPU, and one GPU if the cluster has any.
        report: see there.

    Returns:
        list: the cells that failed.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'uad-zoo[ray]'") from error
    root = str(Path(__file__).parents[1])
    ray.init(
        num_cpus=None if ray.is_initialized() or "RAY_ADDRESS" in os.environ else workers,
        include_dashboard=False,
        log_to_driver=False,
        ignore_reinit_error=True,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0

    @ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)
    def run_one(cell: Cell) -> bool:
        return not run_local([cell], out.absolute(), limits, 1, lambda *_: None)

    try:
        alone = [cell for cell in cells if not cell.needs]
        later = [cell for cell in cells if cell.needs]  # ensembles wait for their members
        pending = {run_one.remote(cell): cell for cell in alone}
        failed = []
        while pending or later:
            if not pending:
                pending, later = {run_one.remote(cell): cell for cell in later}, []
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            cell = pending.pop(ready)
            try:
                well = ray.get(ready)
            except Exception as error:  # a lost node fails its cell alone
                from benchmarks.runner import write_status

                write_status(out / "cells" / cell.name, cell, "failed", f"Ray: {type(error).__name__}")
                well = False
            if not well:
                failed.append(cell)
            status = read_status(out / "cells" / cell.name)
            report(cell, str(status.get("status")), status)
        return failed
    finally:
        ray.shutdown()
