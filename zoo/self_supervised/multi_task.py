"""Multi-task synthetic-anomaly U-Net.

Baugh et al., MICCAI 2023, "Many tasks make light work: learning to localise medical anomalies from multiple synthetic
tasks" (arXiv 2307.00899).
A U-Net learns to segment anomalies that five tasks put into healthy images. Some tasks train, the others validate: a
model is kept when it finds anomalies of kinds it has not seen. The paper averages the models of all folds (`ensemble`).
"""

import itertools
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.unet import UNet
from zoo.scoring.pooling import PoolingRule, pool_map
from zoo.synthetic import anomaly_label, synthesise
from zoo.synthetic.sources import read_sources
from zoo.synthetic.tasks import five_tasks

NUM_TASKS = 5
_log = logging.getLogger(__name__)


class MultiTaskUNet(AnomalyModule):
    """Multi-task synthetic-anomaly U-Net (many tasks make light work).

    Args:
        image_size: ``(H, W)`` or ``(D, H, W)``, multiples of ``2 ** depth``.
        in_channels: image channels.
        num_train_tasks: tasks that train, 1 to 4; the others validate.
        fold: which of the combinations of tasks, in lexicographic order: 5, 10, 10 and 5 of them.
        hold_out_samples: train on the fold's part of the healthy images only, as published; False trains on all.
        depth: halvings: 6 for films, 4 for brains.
        width: channels of the first stage.
        max_width: largest number of channels: 512 for films, 320 for brains.
        positions: random Fourier features of the position.
        other_images: folder of images of another kind for the inter-data-set blend (the paper: ImageNet for films, MOOD
            abdomens for brains). None: patches come from the own images, inverted, so that the task stays foreign.
        max_push: largest displacement of sink and source in pixels: 10 for films, 5 for brains.
        intensity_scale: of the smooth intensity task, for images in [-1, 1].
        label_sigma: change that is half an anomaly, for images in [-1, 1].
        use_foreground: place anomalies at least half in the foreground. The authors' code does so for brains only.
        value_range: range of the data's images, which is mapped to [-1, 1]; None: what the DataModule says, and (0, 1)
            without one. Unbounded images (z-scored brains) stay as they are, as with (-1, 1).
        flip: mirror half of the training images along the last axis (brains).
        score: how the map, clipped to [0, 1], becomes a score; the paper: mean.
        score_fraction: share of pixels for ``top_q``.
        lr: of AdamW: 5e-3 for films, 1e-3 for brains.
        warmup_steps: optimiser steps of linear warm-up from a hundredth.
        decay: factor per step after the warm-up, down to a twentieth.
    """

    reference = {
        "title": "Many tasks make light work: Learning to localise medical anomalies from multiple synthetic tasks",
        "venue": "MICCAI",
        "year": 2023,
        "url": "https://arxiv.org/abs/2307.00899",
    }
    dims = (2, 3)
    checkpoint_format = "many_tasks"
    tiny = {"image_size": 32, "depth": 3, "width": 4, "positions": 2, "num_train_tasks": 4}

    network: UNet

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        num_train_tasks: int = 4,
        fold: int = 0,
        hold_out_samples: bool = True,
        depth: int = 6,
        width: int = 32,
        max_width: int = 512,
        positions: int = 32,
        other_images: str | None = None,
        max_push: float = 10.0,
        intensity_scale: float = 0.2,
        label_sigma: float = 0.2,
        use_foreground: bool = False,
        value_range: tuple[float, float] | None = None,
        flip: bool = False,
        score: PoolingRule = "mean",
        score_fraction: float = 0.25,
        lr: float = 5e-3,
        warmup_steps: int = 100,
        decay: float = 0.1 ** (1 / 8000),
    ) -> None:
        super().__init__()
        count = len(task_folds(num_train_tasks))
        if not 0 <= fold < count:
            raise UserError(f"model.fold must be 0 to {count - 1} with num_train_tasks {num_train_tasks}, found {fold}")
        self._train_ids: set[str] | None = None
        self._others: np.ndarray | None = None

    def build(self) -> None:
        """Create the U-Net and settle the range of the images."""
        data = getattr(self._trainer, "datamodule", None)
        if self.hparams["value_range"] is None and getattr(data, "stored_range", (0.0, 1.0)) is None:
            self.hparams["value_range"] = (-1.0, 1.0)
        self.settle_value_range()
        names = ("depth", "width", "max_width", "positions")
        self.network = UNet(self.image_size, self.in_channels, **{name: self.hparams[name] for name in names})

    def on_fit_start(self) -> None:
        """Find the fold's part of the training images, and the images of the other data set."""
        super().on_fit_start()
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.hparams["hold_out_samples"] and hasattr(data, "dataset"):
            ids = sorted(data.dataset("train").ids)
            chosen = sample_fold(len(ids), self.hparams["num_train_tasks"], self.hparams["fold"])[0]
            self._train_ids = {ids[number] for number in chosen}
        if self.hparams["other_images"] is not None:
            self._others = read_sources(Path(self.hparams["other_images"]), self.image_size, self.in_channels)

    def _normalised(self, image: Tensor) -> Tensor:
        return 2 * self.to_unit_range(image) - 1

    def _make_anomalies(self, batch: Batch, tasks: tuple[int, ...], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Altered images ``(B, C, *S)`` in [-1, 1] and labels ``(B, 1, *S)``; each image has a generator of its own."""
        images = self._normalised(batch["image"]).cpu().numpy()
        foreground = batch["foreground"][:, 0].cpu().numpy() if self.hparams["use_foreground"] else None
        kinds = five_tasks(self.hparams["max_push"], self.hparams["intensity_scale"])
        others = -images if self._others is None else self._others
        altered, labels = np.empty_like(images), np.empty_like(images[:, :1])
        for number, one in enumerate(rng.spawn(len(images))):
            image = images[number]
            own = None if foreground is None else foreground[number]
            if self.hparams["flip"] and one.random() < 0.5:
                image = image[..., ::-1].copy()
                own = None if own is None else own[..., ::-1]
            task = int(one.choice(tasks))
            sources, source_foreground = (others, None) if task == 1 else (images, foreground)
            altered[number], mask = synthesise(
                image, kinds[task], one, sources=sources, foreground=own, source_foreground=source_foreground
            )
            labels[number, 0] = anomaly_label(altered[number], image, mask, self.hparams["label_sigma"])
        device = batch["image"].device
        return torch.from_numpy(altered).to(device), torch.from_numpy(labels).to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Mean squared error between the raw output and the label of the altered images."""
        if self._train_ids is not None:
            kept = [number for number, name in enumerate(batch["id"]) if name in self._train_ids]
            if not kept:
                return None
            batch = {key: batch[key][kept] for key in ("image", "foreground") if key in batch}
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        tasks = task_folds(self.hparams["num_train_tasks"])[self.hparams["fold"]][0]
        altered, label = self._make_anomalies(batch, tasks, rng)
        loss = F.mse_loss(self.network(altered).float(), label)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Predict, and log the published criterion: error on healthy images plus error on the held-out tasks.

        The anomalies are the same in every epoch, unlike the original's; so the criterion does not jitter.
        """
        healthy = batch["label"] == 0
        if healthy.any():
            part: Batch = {key: batch[key][healthy] for key in ("image", "foreground") if key in batch}
            tasks = task_folds(self.hparams["num_train_tasks"])[self.hparams["fold"]][1]
            altered, label = self._make_anomalies(part, tasks, np.random.default_rng([42, batch_idx]))
            on_healthy = self.network(self._normalised(part["image"])).float().square().mean()
            loss = on_healthy + F.mse_loss(self.network(altered).float(), label)
            self.log("val/loss", loss, batch_size=len(label))
        return self(batch["image"])

    def configure_optimizers(self) -> Any:
        """AdamW without weight decay; linear warm-up, then exponential decay to a twentieth, per step."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.hparams["lr"], weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, self.hparams["warmup_steps"], self.hparams["decay"])
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def raw_output(self, image: Tensor) -> Tensor:
        """The network's unbounded ``(B, 1, *S)`` output, which ensembles average."""
        return self.network(self._normalised(image)).float()

    def predict_anomaly(self, image: Tensor) -> Prediction:
        """Map: output clipped to [0, 1]; score: its mean by default."""
        anomaly_map = self.raw_output(image).clamp(0, 1)
        return Prediction(pool_map(anomaly_map, self.hparams["score"], self.hparams["score_fraction"]), anomaly_map)

    @staticmethod
    def recognises(checkpoint: Mapping[str, Any]) -> bool:
        """True for files of the authors' code: their names of the U-Net's tensors, at the top or one level down."""
        return "conv_blocks_context.0.blocks.0.conv.weight" in _tensors(checkpoint)

    @classmethod
    def from_original(cls, checkpoint: Mapping[str, Any], **init_args: Any) -> Self:
        """Import a checkpoint of the authors' code; depth, widths and encoding follow from the tensors.

        Args:
            checkpoint: state dict, or a dictionary that holds one.
            **init_args: arguments of this class, over those of the file; image_size defaults to the paper's.

        Raises:
            UserError: tensors are missing or do not fit.
        """
        from zoo.checkpoints.transfer import transfer

        tensors = {_own_name(key): value for key, value in _tensors(checkpoint).items()}
        first = tensors["network.encoder.0.0.conv.weight"]
        dims, depth = first.dim() - 2, sum(key.startswith("network.heads.") for key in tensors)
        channels = init_args.get("in_channels", 1)
        found = {
            "image_size": (256, 256) if dims == 2 else (80, 112, 80),
            "in_channels": channels,
            "depth": depth,
            "width": first.shape[0],
            "max_width": max(value.shape[0] for key, value in tensors.items() if key.endswith("conv.weight")),
            "positions": (first.shape[1] - channels - dims) // 2,
            "value_range": (-1.0, 1.0),
        }
        model = cls(**{**found, **init_args})
        model.configure_model()
        bottom = f"network.encoder.{depth}."
        tensors = {key.replace(f"{bottom}.", bottom): value for key, value in tensors.items()}
        _log.info("many-tasks checkpoint: %s", transfer(model, tensors))
        return model


def task_folds(num_train_tasks: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Training and validation tasks of every fold, in lexicographic order.

    Raises:
        UserError: a number outside 1 to 4.
    """
    if not 1 <= num_train_tasks < NUM_TASKS:
        raise UserError(f"model.num_train_tasks must be 1 to {NUM_TASKS - 1}, found {num_train_tasks}")
    everything = range(NUM_TASKS)
    return [
        (train, tuple(task for task in everything if task not in train))
        for train in itertools.combinations(everything, num_train_tasks)
    ]


def sample_fold(count: int, num_train_tasks: int, fold: int) -> tuple[list[int], list[int]]:
    """Training and validation samples of a fold: part i of five contiguous ones belongs to task i.

    The parts of the training tasks train, unless the others are strictly more: then the sides (not the tasks) swap.
    """
    parts = np.array_split(np.arange(count), NUM_TASKS)
    train, validation = (
        [int(number) for task in tasks for number in parts[task]] for tasks in task_folds(num_train_tasks)[fold]
    )
    return (validation, train) if len(validation) > len(train) else (train, validation)


def lr_factor(step: int, warmup_steps: int, decay: float) -> float:
    """Factor of the learning rate at an optimiser step: warm-up from 0.01, decay down to 0.05."""
    if step < warmup_steps:
        return 0.01 + 0.99 * step / warmup_steps
    steps = step - warmup_steps
    return decay**steps if steps < int(math.log(0.05) / math.log(decay)) else 0.05


def _tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict: the file itself or the first dictionary in it with the U-Net's names."""
    for candidate in (checkpoint, *[value for value in checkpoint.values() if isinstance(value, Mapping)]):
        named = {str(key).removeprefix("module."): value for key, value in candidate.items()}
        if "conv_blocks_context.0.blocks.0.conv.weight" in named:
            return named
    return {}


def _own_name(key: str) -> str:
    key = re.sub(r"^conv_blocks_localization\.(\d+)\.(\d+)\.blocks\.0\.", r"network.decoder.\1.\2.", key)
    key = re.sub(r"^conv_blocks_context\.(\d+)\.(\d+)\.blocks\.0\.", r"network.encoder.\1.\2.", key)
    key = re.sub(r"^conv_blocks_context\.(\d+)\.blocks\.(\d+)\.", r"network.encoder.\1.\2.", key)
    return re.sub(r"^seg_outputs\.", "network.heads.", key).replace(".instnorm.", ".norm.")
