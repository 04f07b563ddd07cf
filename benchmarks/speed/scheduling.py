"""What the local engine adds to each cell, beyond starting its process.

    python -m benchmarks.speed.scheduling

Runs 200 cells that only write their metrics, and the same 200 processes without the engine, in one go.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.plan import Cell
from benchmarks.runner import Limits, run_local

PROGRAM = (
    "import sys; open(sys.argv[1] + '/metrics.json', 'w').write('{\"metrics\": {}}'); "
    "open(sys.argv[1] + '/scores.csv', 'w').write('id,subject,label,score\\na,,0,0.5\\n')"
)
CELLS = 200


def main() -> None:
    """Print milliseconds per cell with and without the engine."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        cells = [Cell("dummy", "data", seed, {"seed_everything": seed}, str(seed)) for seed in range(CELLS)]

        def command(cell_folder: Path) -> list[str]:
            return [sys.executable, "-S", "-c", PROGRAM, str(cell_folder)]

        start = time.perf_counter()
        failed = run_local(cells, out, Limits(), 1, lambda *_: None, command)
        engine = time.perf_counter() - start
        assert not failed
        start = time.perf_counter()
        for cell in cells:
            subprocess.run(command(out / "cells" / cell.name), check=True)
        bare = time.perf_counter() - start
    print(f"{CELLS} cells: {1000 * engine / CELLS:.1f} ms each with the engine, {1000 * bare / CELLS:.1f} ms bare,")
    print(f"overhead {1000 * (engine - bare) / CELLS:.1f} ms per cell")


if __name__ == "__main__":
    main()
