"""CCD: constrained contrastive distribution learning, a pretext that makes a backbone for other methods.

Tian et al. 2021, "Constrained contrastive distribution learning for unsupervised anomaly detection and localisation in
medical images" (MICCAI, arXiv 2103.03423). Its checkpoint is a file of weights for ``padim``, ``igd`` and every other
method with ``weights``.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.contrastive import cut_out, jitter_colour, jitter_intensity, nt_xent, projection_head, random_crop_and_turn
from zoo.nn.convolutional import check_divisible
from zoo.nn.density import ShrunkGaussian
from zoo.nn.features import create_backbone
from zoo.nn.patches import NEIGHBOURS, cut_patches, neighbouring_patches
from zoo.nn.schedules import cosine, trained

_STRONG = 4  # classes of strong augmentation
_PATCH, _STRIDE = 32, 16
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CCD(AnomalyModule):
    """Constrained contrastive distribution learning (CCD).

    Each image enters as four copies, one of each class of a strong augmentation. Loss: NT-Xent of two weak views of
    every copy, plus cross-entropy of the class. The model of patches takes one patch of each image in its place and
    adds cross-entropy of where a neighbouring patch lies, one of eight places, told from the features of both; the
    density is that of an image's mean over patches. By itself it scores with a Gaussian of the backbone's features, as
    CutPaste does, and has no map; its use is ``--model.weights runs/ccd/checkpoints/last.ckpt`` of PaDiM or IGD.
    Deviations from the released code, which does not run: labels follow the order of the views; the rows of the class
    head are normalised within the gradient. Ours: one linear layer tells the place.

    Args:
        image_size: (H, W) in pixels, for patches at least 64.
        in_channels: 1 (repeated) or 3.
        scale: learn from whole images (``image``) or from patches of 32 pixels (``patch``, the configuration
            ``ccd_patch``).
        backbone: an untrained timm model; a ResNet for PaDiM and IGD.
        strong: ``permute`` swaps the halves along rows, columns, both or not at all; ``rotate`` quarter turns (square
            images).
        negatives: ``all`` other views, as the code; ``same`` strong class only, as the paper.
        temperature: of NT-Xent.
        lr: of SGD with momentum 0.9, falling to a thousandth along a cosine; for patches the paper has 0.1.
        weight_decay: of SGD.
    """

    reference = {
        "title": "Constrained Contrastive Distribution Learning for Unsupervised Anomaly Detection and Localisation in "
        "Medical Images",
        "venue": "MICCAI",
        "year": 2021,
        "url": "https://arxiv.org/abs/2103.03423",
    }
    tiny = {"image_size": 32, "backbone": "resnet10t"}
    small = {"backbone": "resnet10t", "lr": 0.03}

    trunk: nn.Module
    projector: nn.Sequential
    classes: nn.Linear

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        scale: Literal["image", "patch"] = "image",
        backbone: str = "resnet18",
        strong: Literal["permute", "rotate"] = "permute",
        negatives: Literal["all", "same"] = "all",
        temperature: float = 0.2,
        lr: float = 0.01,
        weight_decay: float = 3e-4,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the backbone, both heads and the empty Gaussian.

        Raises:
            UserError: quarter turns of images that are not square, images too small for a patch and its neighbour, or
                channels other than 1 and 3.
        """
        if self.in_channels not in (1, 3):
            raise UserError(f"CCD's backbone takes images of 1 or 3 channels, the data have {self.in_channels}")
        if self._of_patches:
            check_divisible(self.image_size, 1, "a patch beside another", minimum=2 * _PATCH)
        elif self.hparams["strong"] == "rotate" and len(set(self.image_size)) > 1:
            raise UserError(f"model.strong rotate needs square images, the data are {self.image_size}; use permute")
        self.trunk = create_backbone(self.hparams["backbone"], "random")
        width = int(self.trunk.num_features)  # type: ignore[arg-type]  # every timm model has it
        self.projector = projection_head(width, width, 128)
        self.classes = nn.Linear(width, _STRONG)
        if self._of_patches:
            self.places = nn.Linear(2 * width, len(NEIGHBOURS))
        self.gaussian = ShrunkGaussian()
        self.mean, self.deviation = (
            nn.Buffer(torch.tensor(values).view(3, 1, 1), persistent=False) for values in (_MEAN, _STD)
        )

    @property
    def _of_patches(self) -> bool:
        return bool(self.hparams["scale"] == "patch")

    def stages(self) -> tuple[Stage, ...]:
        """Learn, then fit the density."""
        return Stage("optimise", self._contrast), Stage("collect", self._collect, self.gaussian.finish)

    def embed(self, image: Tensor) -> Tensor:
        """Features ``(B, D)`` of colour images in [0, 1]."""
        features: Tensor = self.trunk((image - self.mean) / self.deviation)
        return features

    def pooled(self, image: Tensor) -> Tensor:
        """Features ``(B, D)`` of images in [0, 1], float64: of whole ones, or the mean over their patches."""
        image = image.expand(-1, 3, -1, -1)
        if not self._of_patches:
            return self.embed(image).double()
        patches = cut_patches(image, _PATCH, _STRIDE)
        means: Tensor = self.embed(patches).double().unflatten(0, (image.shape[0], -1)).mean(dim=1)
        return means

    def losses(self, first: Tensor, second: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
        """NT-Xent, and cross-entropy of the strong class over both views.

        Args:
            first: features ``(N, D)`` of one weak view.
            second: of the other.
            strong: ``(N,)`` the class of each pair.
        """
        groups = strong if self.hparams["negatives"] == "same" else None
        contrast = nt_xent(self.projector(first), self.projector(second), self.hparams["temperature"], groups)
        logits = F.linear(torch.cat([first, second]), F.normalize(self.classes.weight, dim=1), self.classes.bias)
        return contrast, F.cross_entropy(logits.float(), torch.cat([strong, strong]))

    def _contrast(self, batch: Batch, batch_idx: int) -> Tensor:
        image = batch["image"].clamp(0, 1).expand(-1, 3, -1, -1)
        parts = {}
        if self._of_patches:
            image, neighbour, place = neighbouring_patches(image, _PATCH)
            both = torch.cat([self.embed(image), self.embed(neighbour)], dim=1)
            parts["place"] = F.cross_entropy(self.places(both).float(), place)
        copies, strong = strong_copies(image, self.hparams["strong"])
        views = torch.cat([weak_view(copies), weak_view(copies)])
        first, second = self.embed(views).chunk(2)
        parts["contrast"], parts["class"] = self.losses(first, second, strong)
        loss = torch.stack(list(parts.values())).sum()
        self.log_dict({f"train/{name}": part for name, part in {"loss": loss, **parts}.items()}, batch_size=len(image))
        return loss

    def configure_optimizers(self) -> Any:
        """SGD with momentum and a cosine to a thousandth."""
        lr = self.hparams["lr"]
        optimizer = torch.optim.SGD(trained(self), lr=lr, momentum=0.9, weight_decay=self.hparams["weight_decay"])
        return cosine(optimizer, self.optimise_batches, lr * 1e-3)

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        self.gaussian.collect(self.pooled(batch["image"]))

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mahalanobis distance of the features; no map.

        Raises:
            UserError: the density was not fitted.
        """
        return Prediction(self.gaussian.distance(self.pooled(image)))


def strong_copies(image: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Four copies of each image, one after another, one of each strong class.

    Args:
        image: ``(B, C, H, W)``.
        kind: ``permute`` or ``rotate``, see :class:`CCD`.

    Returns:
        tuple: copies ``(4 B, C, H, W)`` and their classes ``(4 B,)`` int64.
    """
    height, width = image.shape[2] // 2, image.shape[3] // 2
    if kind == "rotate":
        copies = [image.rot90(turns, (2, 3)) for turns in range(_STRONG)]
    else:
        copies = [image.roll(shift, (2, 3)) for shift in ((0, 0), (height, 0), (0, width), (height, width))]
    return torch.stack(copies, dim=1).flatten(0, 1), torch.arange(_STRONG, device=image.device).repeat(len(image))


def weak_view(image: Tensor) -> Tensor:
    """A random crop, its intensity and colour altered, a rectangle cut out: ``(B, 3, H, W)`` in [0, 1]."""
    image = random_crop_and_turn(image, (0.2, 1.0))
    image = jitter_colour(jitter_intensity(image, 0.4, 0.8), 0.4, 0.1, 0.8, 0.2)
    return cut_out(image, 75 / 256)
