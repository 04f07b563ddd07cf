"""``python -m benchmarks.cell FOLDER``: run one cell, exactly as ``lightning fit --run FOLDER`` would."""

import ctypes
import hashlib
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> int:
    """Fit, test and leave the gallery's pictures behind.

    Args:
        folder: of the cell, with its ``config.yaml``.

    Returns:
        int: exit code.
    """
    die_with_parent()
    from zoo.errors import UserError
    from zoo.running import main as run

    try:
        return run(["fit", "--run", str(folder)], [gallery(folder)])
    except UserError as error:
        print(f"error: {error}")
        return 2


def die_with_parent() -> None:
    """A killed runner takes this process along, so that a second runner does not meet it (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def gallery(folder: Path, count: int = 6) -> Any:
    """A callback that keeps input, truth and map of the same test images for every method.

    The images are chosen by a hash of their names: the ``count`` smallest, at least half of them anomalous if possible.
    """
    from lightning.pytorch import Callback

    class Gallery(Callback):
        def __init__(self) -> None:
            self.kept: dict[int, dict[str, tuple[str, dict[str, Any]]]] = {0: {}, 1: {}}

        def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
            for row, name in enumerate(batch["id"]):
                key, part = hashlib.sha256(name.encode()).hexdigest(), self.kept[int(batch["label"][row])]
                if len(part) < count or key < max(part):
                    part[key] = name, pictures(outputs, batch, row)
                    if len(part) > count:
                        del part[max(part)]

        def on_test_epoch_end(self, trainer: Any, module: Any) -> None:
            chosen = [*sorted(self.kept[1].items())[: (count + 1) // 2], *sorted(self.kept[0].items())[: count // 2]]
            arrays: dict[str, Any] = {"names": np.array([name for _, (name, _) in chosen])}
            for number, (_, (_, images)) in enumerate(chosen):
                arrays |= {f"{number}_{kind}": image for kind, image in images.items()}
            partial = folder / "gallery.partial.npz"
            np.savez_compressed(partial, **arrays)
            partial.replace(folder / "gallery.npz")

    return Gallery()


def pictures(outputs: Any, batch: Any, row: int) -> dict[str, Any]:
    """Input, map and truth of one image as 2-D arrays; of a volume the slice with the highest mean map."""
    parts = {"input": batch["image"], "map": outputs.anomaly_map, "truth": batch.get("mask")}
    found = {kind: part[row].detach().float().cpu().numpy() for kind, part in parts.items() if part is not None}
    if found["input"].ndim == 4:
        depth = int(found.get("map", found["input"]).mean((0, 2, 3)).argmax())
        found = {kind: image[:, depth] for kind, image in found.items()}
    return {kind: image.mean(0).astype(np.float32) for kind, image in found.items()}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
