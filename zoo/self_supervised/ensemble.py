"""Ensemble of trained models: the mean of what they put out.

Baugh et al., MICCAI 2023, average the raw outputs of the models of all folds; the same works for any registered method.
"""

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoints.loading import load_pretrained
from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.registry import load_class
from zoo.sample import DataSource
from zoo.scoring.pooling import PoolingRule


class Ensemble(AnomalyModule):
    """Mean of the outputs of trained models, for example of all folds of the multi-task U-Net.

    Members that offer ``raw_output`` (multi-task) are averaged before their output is clipped, as published; of others
    the maps and the scores are averaged. Fitting does nothing; the checkpoint holds all members.

    Args:
        image_size: of all members.
        in_channels: of all members.
        checkpoints: of any methods with maps of one range: whatever ``zoo.load_pretrained`` takes, such as run folders.
        members: names and arguments of the members as JSON; filled from the checkpoints, so that an ensemble's own
            checkpoint can be loaded without their files.
        score: how an averaged raw output becomes a score.
    """

    reference = {
        "title": "Many tasks make light work: Learning to localise medical anomalies from multiple synthetic tasks",
        "venue": "MICCAI",
        "year": 2023,
        "url": "https://arxiv.org/abs/2307.00899",
    }
    dims = (2, 3)
    expects = "any"  # each member converts
    fitting = "single_pass"
    tiny = {
        "image_size": 32,
        "members": '[["autoencoder", {"hidden_dims": [8, 16], "latent_dim": 4}],'
        ' ["autoencoder", {"hidden_dims": [8], "latent_dim": 4}]]',
    }

    members: nn.ModuleList

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        checkpoints: tuple[str, ...] = (),
        members: str = "",
        score: PoolingRule = "mean",
    ) -> None:
        super().__init__()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Those of the members, each once."""
        members: list[Any] = list(self.members)
        return tuple(dict.fromkeys(one for member in members for one in member.remarks))

    def build(self) -> None:
        """Load the members, or rebuild them for their weights to follow."""
        if self.hparams["members"]:
            size = {"image_size": self.image_size, "in_channels": self.in_channels}
            made = [
                load_class(name).from_hparams({**arguments, **size})
                for name, arguments in json.loads(self.hparams["members"])
            ]
            for member in made:
                member.configure_model()
        elif self.hparams["checkpoints"]:
            made = [load_pretrained(path) for path in self.hparams["checkpoints"]]
            for path, member in zip(self.hparams["checkpoints"], made, strict=True):
                if (member.image_size, member.in_channels) != (self.image_size, self.in_channels):
                    raise UserError(
                        f"{path}: made for images {member.in_channels} x {member.image_size}, the data are "
                        f"{self.in_channels} x {self.image_size}"
                    )
        else:
            raise UserError("an ensemble needs members: give --model.checkpoints '[a.ckpt, b.ckpt]'")
        data = self._data()
        for member in made if data is not None else ():
            member.settle(data)
        self.hparams["members"] = _described(made)
        self.members = nn.ModuleList(made).requires_grad_(False)
        self.scores_with_gradient = any(member.scores_with_gradient for member in made)

    def settle(self, data: DataSource | None) -> None:
        """The members see the same data."""
        super().settle(data)
        if data is not None and self._built:
            for member in self.members:
                member.settle(data)  # type: ignore[operator]
            self.hparams["members"] = _described(self.members)

    def stages(self) -> tuple[Stage, ...]:
        """One empty pass."""
        return (Stage("collect", _nothing),)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mean of the members' raw outputs, clipped to [0, 1]; or of their scores and maps."""
        outputs: list[Any] = list(self.members)
        if all(hasattr(member, "raw_output") for member in outputs):
            anomaly_map = torch.stack([member.raw_output(image) for member in outputs]).mean(0).clamp(0, 1)
            return Prediction(None, anomaly_map)
        predictions = [member.predict_anomaly(image, foreground) for member in outputs]
        score = torch.stack([one.anomaly_score for one in predictions]).mean(0)
        maps = [one.anomaly_map for one in predictions if one.anomaly_map is not None]
        return Prediction(score, torch.stack(maps).mean(0) if len(maps) == len(predictions) else None)


def _described(members: Iterable[Any]) -> str:
    return json.dumps([[member.method().name, dict(member.hparams)] for member in members])


def _nothing(batch: Batch, batch_idx: int) -> None:
    """Members are trained already."""
