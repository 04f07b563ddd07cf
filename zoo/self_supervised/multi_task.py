"""Multi-task synthetic-anomaly U-Net.

Baugh et al., MICCAI 2023, "Many tasks make light work: learning to localise medical anomalies from multiple synthetic
tasks" (arXiv 2307.00899).
A U-Net learns to segment anomalies that five tasks put into healthy images. Some tasks train, the others validate: a
model is kept when it finds anomalies of kinds it has not seen. The paper averages the models of all folds (`ensemble`).
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.checkpoints.many_tasks import arguments_of, original_tensors, own_tensors
from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, batch_generator
from zoo.nn.schedules import each_step, trained
from zoo.nn.unet import UNet, in_patches
from zoo.sample import data_of
from zoo.scoring.pooling import PoolingRule
from zoo.synthetic.batched_labels import label_batch
from zoo.synthetic.folds import TASK_NAMES, sample_fold, task_folds
from zoo.synthetic.samples import carry_out
from zoo.synthetic.shapes import box_of
from zoo.synthetic.sources import ImagesOfSplit, read_sources, read_volumes
from zoo.synthetic.tasks import Context, draw_anomalies, five_tasks

_log = logging.getLogger(__name__)


class MultiTaskUNet(AnomalyModule):
    """Multi-task synthetic-anomaly U-Net (many tasks make light work).

    As the authors' code: division of tasks and samples, tasks, network, loss, schedule, criterion. Deviations: samples
    are divided by subject and in the order of their ids (there: images, in the folder's order); the criterion weighs
    images equally (there: batches); the healthy half of the criterion is not mirrored; placement gives up after 100
    attempts. Selection by ``val/loss``, the patience of 5,000 steps and the pixel AP in groups of 20 belong to the
    trainer: ``configs/papers/multi_task_*``.

    Args:
        image_size: ``(H, W)`` or ``(D, H, W)``, multiples of ``2 ** depth``.
        in_channels: image channels.
        num_train_tasks: tasks that train, 1 to 4; the others validate.
        fold: which of the combinations of tasks, in lexicographic order: 5, 10, 10 and 5 of them.
        hold_out_samples: divide the DataModule's healthy images (of training and validation) into five parts, train on
            those of the training tasks and validate on the others, as published; parts hold whole subjects, the
            published ones single images. False: the DataModule's own division for all folds.
        seeded_validation: the validation anomalies are the same in every epoch, so that the criterion does not jitter;
            False draws new ones, as published.
        patch_size: train on random patches of this size and predict with overlapping ones; None: whole images, as
            published. Anomalies are made in the whole image; the patches of a batch lie at the same place.
        batched: make the anomalies of a batch at once on its device instead of image by image on the CPU, from the same
            draws and equal to rounding; None: where there is an accelerator.
        depth: halvings: 6 for films, 4 for brains.
        width: channels of the first stage.
        max_width: largest number of channels: 512 for films, 320 for brains.
        positions: random Fourier features of the position; narrow networks learn faster with few (width 16: 4 in 3-D).
        other_images: folder of images of another kind for the inter-data-set blend, of which a random half is used: the
            paper's are ImageNet for films and MOOD abdomens (``.nii.gz``) for brains. None: patches come from the own
            images, inverted, so that the task stays foreign.
        max_push: largest displacement of sink and source in pixels: 10 for films, 5 for brains.
        intensity_scale: of the smooth intensity task, for images in [-1, 1].
        label_sigma: change that is half an anomaly, for images in [-1, 1].
        use_foreground: place anomalies at least half in the foreground. The authors' code does so for brains only.
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
    expects = "z_scores"
    checkpoint_format = "many_tasks"
    tiny = {"image_size": 32, "depth": 3, "width": 4, "positions": 2, "num_train_tasks": 4}
    small = {"depth": 4, "width": 8, "max_width": 64}

    network: UNet

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        num_train_tasks: int = 4,
        fold: int = 0,
        hold_out_samples: bool = True,
        seeded_validation: bool = True,
        patch_size: tuple[int, ...] | None = None,
        batched: bool | None = None,
        depth: int = 6,
        width: int = 32,
        max_width: int = 512,
        positions: int = 32,
        other_images: str | None = None,
        max_push: float = 10.0,
        intensity_scale: float = 0.2,
        label_sigma: float = 0.2,
        use_foreground: bool = False,
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
        self._splits: dict[str, Any] = {}
        self._others: tuple[Any, Any] | None = None

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Tasks of the fold, which no validation of this model may use."""
        return tuple(TASK_NAMES[task] for task in self._tasks[0])

    @property
    def remarks(self) -> tuple[str, ...]:
        """That the other data set is missing, which every fold trains on or validates with."""
        if self.hparams["other_images"] is not None:
            return ()
        return ("inter-data-set blends without another data set (other_images): from inverted images of the same set",)

    @property
    def _tasks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        fold: int = self.hparams["fold"]
        return task_folds(self.hparams["num_train_tasks"])[fold]

    def build(self) -> None:
        """Create the U-Net."""
        names = ("patch_size", "depth", "width", "max_width", "positions")
        self.network = UNet(self.image_size, self.in_channels, **{name: self.hparams[name] for name in names})

    def setup(self, stage: str) -> None:
        """Give the DataModule the fold's division of the healthy images, and take the sources of blends from it."""
        data = data_of(self.trainer)
        if stage not in ("fit", "validate") or data is None or not hasattr(data, "healthy_groups"):
            return
        if self.hparams["hold_out_samples"]:
            groups = data.healthy_groups()
            parts = sample_fold(len(groups), self.hparams["num_train_tasks"], self.hparams["fold"])
            data.assign(*([name for number in part for name in groups[number]] for part in parts))
        self._splits = {split: data.dataset(split) for split in ("train", "val")}

    def teardown(self, stage: str) -> None:
        """Give the DataModule its own division back."""
        if self._splits:
            self._splits = {}
            data = data_of(self.trainer)
            assert data is not None
            data.assign()

    def _sources(self, split: str, images: Tensor) -> tuple[Any, Any, Any, Any]:
        """What blends take patches from, and the foreground of both, if it counts.

        All images of the split (without one, of the batch) for the intra blend, those of the other data set for the
        inter blend, in the range that the network expects.
        """
        data, others = self._splits.get(split), self._foreign_images()
        if data is None:
            return images, -images if others is None else others[0], None, None
        own = ImagesOfSplit(data, lambda batch: self.to_expected(batch["image"]))
        inside = (
            ImagesOfSplit(data, lambda batch: batch["foreground"][:, 0]) if self.hparams["use_foreground"] else None
        )
        if others is not None:
            return own, others[0], inside, others[1]
        return own, ImagesOfSplit(data, lambda batch: -self.to_expected(batch["image"])), inside, inside

    def _foreign_images(self) -> tuple[Any, Any] | None:
        if self.hparams["other_images"] is not None and self._others is None:
            folder = Path(self.hparams["other_images"])
            if len(self.image_size) == 3:
                self._others = read_volumes(folder, self.in_channels, share=0.5)
            else:
                self._others = read_sources(folder, self.image_size, self.in_channels, share=0.5), None
        return self._others

    def _make_anomalies(
        self, batch: Batch, tasks: tuple[int, ...], rng: np.random.Generator, split: str
    ) -> tuple[Tensor, Tensor]:
        """Altered images ``(B, C, *S)`` and labels ``(B, 1, *S)``; each image has a generator of its own."""
        images, generators = batch["image"].clone(), rng.spawn(len(batch["image"]))
        inside = batch["foreground"][:, 0].clone() if self.hparams["use_foreground"] else None
        if self.hparams["flip"]:
            mirrored = torch.tensor([one.random() < 0.5 for one in generators], device=images.device)
            for part in (images, inside):
                if part is not None:
                    part[mirrored] = part[mirrored].flip(-1)
        kinds = five_tasks(self.hparams["max_push"], self.hparams["intensity_scale"])
        chosen = [int(one.choice(tasks)) for one in generators]
        own, others, own_inside, others_inside = self._sources(split, images)
        contexts = [Context(others, others_inside) if task == 1 else Context(own, own_inside) for task in chosen]
        places = [None] * len(images) if inside is None else list(inside.cpu().numpy())
        drawn = [
            draw_anomalies(one, kinds[task], images.shape[1:], context, place)
            for one, task, context, place in zip(generators, chosen, contexts, places, strict=True)
        ]
        batched = images.device.type != "cpu" if self.hparams["batched"] is None else self.hparams["batched"]
        altered, mask = carry_out(images, drawn, contexts, batched)
        return altered, label_batch(altered, images, mask, self.hparams["label_sigma"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error between the raw output and the label of the altered images."""
        rng = batch_generator()
        altered, label = self._make_anomalies(batch, self._tasks[0], rng, "train")
        corner, patch_size = None, self.hparams["patch_size"]
        if patch_size is not None:
            corner = [int(rng.integers(n - patch + 1)) for n, patch in zip(self.image_size, patch_size, strict=True)]
            box = (slice(None), slice(None), *box_of(corner, patch_size))
            altered, label = altered[box], label[box]
        loss = F.mse_loss(self.network(altered, corner).float(), label)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Predict, and log the published criterion: error on healthy images plus error on the held-out tasks."""
        own, healthy = self.as_expected(batch), batch["label"] == 0
        output = self._output(own["image"])
        if healthy.any():
            part: Batch = {"image": own["image"][healthy], "foreground": own["foreground"][healthy]}
            seed = [42, batch_idx] if self.hparams["seeded_validation"] else int(torch.randint(2**62, ()))
            altered, label = self._make_anomalies(part, self._tasks[1], np.random.default_rng(seed), "val")
            loss = output[healthy].square().mean() + F.mse_loss(self._output(altered), label)
            self.log("val/loss", loss, batch_size=len(label))
        anomaly_map = output.clamp(0, 1)
        return Prediction(self.pooled_score(anomaly_map, own["foreground"]), anomaly_map)

    def configure_optimizers(self) -> Any:
        """AdamW without weight decay; linear warm-up, then exponential decay to a twentieth, per step."""
        optimizer = torch.optim.AdamW(trained(self), lr=self.hparams["lr"], weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, self.hparams["warmup_steps"], self.hparams["decay"])
        )
        return each_step(optimizer, schedule)

    def raw_output(self, image: Tensor) -> Tensor:
        """The network's unbounded ``(B, 1, *S)`` output for the data's images, which ensembles average."""
        return self._output(self.to_expected(image))

    def _output(self, normalised: Tensor) -> Tensor:
        if self.hparams["patch_size"] is None:
            out: Tensor = self.network(normalised).float()
            return out
        return in_patches(self.network, normalised, self.hparams["patch_size"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Map: output clipped to [0, 1]; score: its mean by default."""
        return Prediction(None, self._output(image).clamp(0, 1))

    @staticmethod
    def recognises(checkpoint: Mapping[str, Any]) -> bool:
        """True for files of the authors' code: their names of the U-Net's tensors, at the top or one level down."""
        return bool(original_tensors(checkpoint))

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

        tensors = own_tensors(checkpoint)
        found = arguments_of(tensors, init_args.get("in_channels", 1))
        model = cls.from_hparams({**found, **init_args})
        model.configure_model()
        _log.info("many-tasks checkpoint: %s", transfer(model, tensors))
        return model


def lr_factor(step: int, warmup_steps: int, decay: float) -> float:
    """Factor of the learning rate at an optimiser step: warm-up from 0.01, decay down to 0.05."""
    if step < warmup_steps:
        return 0.01 + 0.99 * step / warmup_steps
    steps = step - warmup_steps
    return decay**steps if steps < int(math.log(0.05) / math.log(decay)) else 0.05
