"""Files that ``predict`` writes: ``scores.csv`` and one map per input."""

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.files import stem, whole


class PredictionWriter(Callback):
    """Writes scores and anomaly maps of ``predict``.

    ``scores.csv`` has a line per image: id, anomaly score, file of the map and the map's smallest and largest value.
    Maps are float32 ``.npy``, or 16-bit ``.png`` between these two values. Slices of a NIfTI file that the data set
    serves as they are stored become one NIfTI file with the same shape and affine.

    Args:
        folder: a new folder; set by the command line if None.
        maps: ``npy``, ``png`` or ``none``.
    """

    def __init__(self, folder: str | None = None, maps: Literal["npy", "png", "none"] = "npy") -> None:
        self.folder, self.maps = folder, maps
        self._rows: list[dict[str, Any]] = []
        self._volumes: dict[str, dict[int, NDArray[np.float32]]] = {}
        self._sources: dict[str, str] = {}

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """Into a new folder of the run, for a prediction."""
        if stage == "predict":
            self.folder = self.folder or str(results)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be written.
        """
        assert self.folder is not None
        self._rows, self._volumes, self._sources = [], {}, {}
        try:
            (Path(self.folder) / "maps").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--predictions.folder {self.folder}: cannot be written ({error.strerror})") from error

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write the maps of the batch."""
        scores = outputs.anomaly_score.detach().float().cpu().tolist()
        maps = [None] * len(scores)
        if outputs.anomaly_map is not None and self.maps != "none":
            maps = list(outputs.anomaly_map.detach().float().cpu().numpy()[:, 0])
        as_stored = bool(getattr(getattr(trainer, "datamodule", None), "slices_as_stored", False))
        for row, (score, anomaly_map) in enumerate(zip(scores, maps, strict=True)):
            name = batch["id"][row]
            line = {"id": name, "anomaly_score": repr(score), "map": "", "map_min": "", "map_max": ""}
            volume, separator, index = name.rpartition("#")
            if anomaly_map is not None:
                line |= {"map_min": repr(float(anomaly_map.min())), "map_max": repr(float(anomaly_map.max()))}
                if separator and as_stored:
                    self._volumes.setdefault(volume, {})[int(index)] = anomaly_map
                    self._sources[volume] = batch["source"][row]
                    line["map"] = str(_nifti_name(volume))
                else:
                    line["map"] = self._write_map(name, anomaly_map)
            self._rows.append(line)
        self._finish_volumes(complete_only=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``scores.csv``."""
        assert self.folder is not None
        self._finish_volumes(complete_only=False)
        suffix = "" if trainer.world_size == 1 else f".{trainer.global_rank}"
        path = Path(self.folder) / f"scores{suffix}.csv"
        with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("id", "anomaly_score", "map", "map_min", "map_max"))
            writer.writeheader()
            writer.writerows(self._rows)
        for line in self._rows[:10]:
            print(f"{float(line['anomaly_score']):12.6g}  {line['id']}")
        if len(self._rows) > 10:
            print(f"... and {len(self._rows) - 10} more")

    def _write_map(self, name: str, anomaly_map: NDArray[np.float32]) -> str:
        assert self.folder is not None
        relative = Path("maps") / (_safe(name) + f".{self.maps}")
        path = Path(self.folder) / relative
        if self.maps == "png" and anomaly_map.ndim == 2:
            from PIL import Image

            low, high = float(anomaly_map.min()), float(anomaly_map.max())
            grey = np.rint((anomaly_map - low) / max(high - low, 1e-30) * 65535).astype(np.uint16)
            with whole(path) as partial:
                Image.fromarray(grey).save(partial)
        else:
            path = path.with_suffix(".npy")
            with whole(path) as partial:
                np.save(partial, anomaly_map)
        return str(path.relative_to(self.folder))

    def _finish_volumes(self, complete_only: bool) -> None:
        import nibabel

        for volume, slices in list(self._volumes.items()):
            header: Any = nibabel.load(self._sources[volume])
            shape = header.shape[:3]
            if complete_only and len(slices) < shape[2]:
                continue
            stacked = np.zeros(shape, np.float32)
            for index, anomaly_map in slices.items():
                stacked[..., index] = _resized(anomaly_map, (shape[0], shape[1]))
            assert self.folder is not None
            path = Path(self.folder) / _nifti_name(volume)
            with whole(path) as partial:
                nibabel.save(nibabel.Nifti1Image(stacked, header.affine), partial)
            del self._volumes[volume]


def _safe(name: str) -> str:
    parts = [part for part in Path(name.replace("#", "_")).parts if part not in ("..", "/", "")]
    return "/".join(parts) or "image"


def _nifti_name(volume: str) -> Path:
    path = Path("maps") / _safe(volume)
    return path.with_name(f"{stem(path)}.nii.gz")


def _resized(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    import torch
    from torch.nn import functional

    if anomaly_map.shape == size:
        return anomaly_map
    tensor = torch.from_numpy(anomaly_map)[None, None]
    return functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()
