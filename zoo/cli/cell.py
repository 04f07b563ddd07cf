"""``python -m zoo.cli.cell FOLDER``: run one cell, exactly as ``lightning fit --run FOLDER`` would."""

import ctypes
import signal
import sys
from pathlib import Path


def main(folder: Path) -> int:
    """Fit, test, tell the progress and leave the gallery's pictures behind.

    Args:
        folder: of the cell, with its ``config.yaml``.

    Returns:
        int: exit code.
    """
    die_with_parent()
    from lightning.pytorch import Callback

    from benchmarks.door import read_json
    from benchmarks.gallery import Gallery
    from benchmarks.progress import Progress
    from benchmarks.results import PLAN_FILE
    from benchmarks.selection import Selection
    from zoo.cli.running import main as run
    from zoo.errors import UserError

    callbacks: list[Callback] = [Gallery(folder), Progress(folder)]
    if read_json(folder.parents[1] / PLAN_FILE).get("selection"):
        callbacks.append(Selection(folder))
    try:
        return run(["fit", "--run", str(folder), "--trust"], callbacks)
    except UserError as error:
        print(f"error: {error}")
        return 2


def command(folder: Path) -> list[str]:
    """Command line that runs the cell in ``folder`` in a process of its own."""
    return [sys.executable, "-m", "zoo.cli.cell", str(folder)]


def die_with_parent() -> None:
    """A killed runner takes this process along, so that a second runner does not meet it (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
