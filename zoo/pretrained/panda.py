"""PANDA: features of a backbone, pulled together on healthy images; the distance to the nearest ones is the score.

Reiss et al. 2021, "PANDA: adapting pretrained features for anomaly detection and segmentation" (arXiv 2010.05903).
Without the adaptation it is DN2 of Bergman et al. 2020, "Deep nearest neighbor anomaly detection" (arXiv 2002.10445).
"""

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.module import Batch, Prediction, Stage
from zoo.nn.features import FeatureExtractor
from zoo.nn.fitted import Centre
from zoo.nn.neighbours import nearest_neighbours
from zoo.nn.processes import gathered
from zoo.pretrained._frozen import FrozenFeatures


class PANDA(FrozenFeatures):
    """Adapted features and their nearest neighbours (PANDA; DN2 without the adaptation).

    1 or 3 channels; no map. Training: the centre of the features is measured, then the backbone's
    last layers are trained to bring the features near it, then the features of all training images are kept (8 KiB an
    image by default). Batch norms keep their running statistics throughout. Too long a training collapses all features
    into the centre, so the published length of about 15 epochs matters.

    Args:
        backbone: a timm model.
        layer: its layer, averaged over all places.
        adapt: train the backbone; False is DN2.
        trained: names that the parameters to be trained start with; the others stay as they are.
        neighbours: nearest training images that the score takes.
        distance: ``squared`` = sum of the squared distances to them (PANDA), ``mean`` = mean distance (DN2).
        lr: learning rate of SGD.
        momentum: of SGD.
        weight_decay: of SGD.
        clip: largest norm of the gradient, unless the trainer has a limit of its own.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.
    """

    reference = {
        "title": "PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation",
        "venue": "CVPR",
        "year": 2021,
        "url": "https://arxiv.org/abs/2010.05903",
    }
    tiny = {"image_size": 32, "backbone": "resnet18", "layer": "layer3", "weights": "random"}
    small = {"backbone": "tf_efficientnet_lite0", "layer": "blocks.4", "trained": ("blocks.3", "blocks.4")}

    extractor: FeatureExtractor
    memory: Centre

    def __init__(
        self,
        *,
        backbone: str = "resnet152",
        layer: str = "layer4",
        adapt: bool = True,
        trained: tuple[str, ...] = ("layer3", "layer4"),
        neighbours: int = 2,
        distance: Literal["squared", "mean"] = "squared",
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 5e-5,
        clip: float = 1e-3,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create the backbone, release what is trained, and reserve the statistics.

        Raises:
            UserError: no parameter of the backbone is to be trained, though ``adapt`` is on.
        """
        hp = self.hparams
        self.extractor = self.frozen(hp["layer"], differentiable=hp["adapt"])
        released = [
            p for name, p in self.extractor.backbone.named_parameters() if name.startswith(tuple(hp["trained"]))
        ]
        if hp["adapt"] and not released:
            raise UserError(f"trained is {hp['trained']}: no such part of {hp['backbone']} up to its {hp['layer']}")
        for parameter in released:
            parameter.requires_grad_(hp["adapt"])
        self.memory = Centre("bank")

    def stages(self) -> tuple[Stage, ...]:
        """Centre, adaptation, bank; without the adaptation the bank alone."""
        bank = Stage("collect", self.collect_bank, self.finish_bank)
        if not self.hparams["adapt"]:
            return (bank,)
        return Stage("collect", self.collect_centre, self.memory.finish), Stage("optimise", self.adapt), bank

    def embed(self, image: Tensor) -> Tensor:
        """Features averaged over all places: float32 ``(B, K)``."""
        means: Tensor = self.extractor(image)[0].float().mean(dim=(2, 3))
        return means

    def collect_centre(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the sum of the untrained features."""
        self.memory.add(self.embed(batch["image"]))

    def adapt(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared distance to the centre, averaged over the features' dimensions."""
        loss = (self.embed(batch["image"]) - self.memory.centre).square().mean()
        self.log("train/loss", loss)
        return loss

    def collect_bank(self, batch: Batch, batch_idx: int) -> None:
        """Keep the features of a batch."""
        embedded, memory = self.embed(batch["image"]), self.memory
        memory.bank = torch.cat([memory.bank, embedded]) if memory.bank.numel() else embedded

    def finish_bank(self) -> None:
        """Take in the features of all processes."""
        self.memory.bank = gathered(self.memory.bank)

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """SGD with a constant rate over what is trained; none for DN2."""
        hp = self.hparams
        if not hp["adapt"]:
            return None
        released = [parameter for parameter in self.extractor.parameters() if parameter.requires_grad]
        return torch.optim.SGD(released, lr=hp["lr"], momentum=hp["momentum"], weight_decay=hp["weight_decay"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Distance to the nearest training images.

        Raises:
            UserError: the bank was not fitted.
        """
        if not self.memory.bank.numel():
            raise UserError(f"{type(self).__name__} has no bank yet: run fit, or load a checkpoint of a finished fit")
        distances, _ = nearest_neighbours(self.embed(image), self.memory.bank, self.hparams["neighbours"])
        squared = self.hparams["distance"] == "squared"
        return Prediction(distances.square().sum(dim=1) if squared else distances.mean(dim=1))
