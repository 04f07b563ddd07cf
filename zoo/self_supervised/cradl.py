"""CRADL: contrastive representations of healthy slices, and their density; its gradient shows where an image is odd.

Lueth, Zimmerer et al. 2023, "CRADL: contrastive representations for unsupervised anomaly detection and localization"
(arXiv 2301.02126).
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.contrastive import jitter_intensity, nt_xent, projection_head, random_blur, random_crop_and_turn
from zoo.nn.convolutional import check_divisible
from zoo.nn.density import Mixture, fit_mixture, log_density
from zoo.nn.fitted import FittedStatistics
from zoo.nn.processes import gathered
from zoo.nn.schedules import cosine
from zoo.scoring.smoothing import gaussian_blur

_HELD_OUT = 10  # every tenth representation chooses the number of components


class CRADL(AnomalyModule):
    """SimCLR on healthy slices, then a Gaussian mixture of the encoder's outputs (CRADL).

    Score: minus the log density; map: its absolute gradient with respect to the image, averaged over channels and
    smoothed. The number of components is the one that gives every tenth, held-out healthy representation the highest
    likelihood; the paper chooses it, and the score, on a validation set with real anomalies. Not stated in what was
    read, and ours: sizes of the encoder (the convolutional form of the context-encoding VAE, so that only the training
    differs), temperature, augmentations (no flips, no colour), optimiser, smoothing.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``.
        in_channels: image channels.
        hidden_dims: channels after each 4x4 convolution that halves the image.
        latent_dim: length of the representation.
        components: numbers of Gaussians to choose from.
        temperature: of NT-Xent.
        smoothing: width in pixels of the Gaussian over the map.
        lr: of Adam, falling to 0 along a cosine.
    """

    reference = {
        "title": "CRADL: Contrastive Representations for Unsupervised Anomaly Detection and Localization",
        "venue": "arXiv",
        "year": 2023,
        "url": "https://arxiv.org/abs/2301.02126",
    }
    tiny = {"image_size": 32, "hidden_dims": (4, 8), "latent_dim": 4, "components": (1, 2)}
    small = {"hidden_dims": (16, 32, 64, 64), "latent_dim": 64, "lr": 1e-3}
    scores_with_gradient = True

    encoder: nn.Sequential
    projector: nn.Sequential
    mixture: FittedStatistics

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 64, 256, 1024),
        latent_dim: int = 512,
        components: tuple[int, ...] = (1, 2, 4, 8),
        temperature: float = 0.5,
        smoothing: float = 3.0,
        lr: float = 1e-4,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create encoder and projection head, and reserve the mixture."""
        hp = self.hparams
        widths = tuple(hp["hidden_dims"])
        check_divisible(self.image_size, 2 ** len(widths), f"CRADL's encoder of {len(widths)} levels")
        layers: list[nn.Module] = []
        for source, width in itertools.pairwise((self.in_channels, *widths)):
            layers += [nn.Conv2d(source, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.01)]
        grid = tuple(side // 2 ** len(widths) for side in self.image_size)
        self.encoder = nn.Sequential(*layers, nn.Conv2d(widths[-1], hp["latent_dim"], grid), nn.Flatten())
        self.projector = projection_head(hp["latent_dim"], hp["latent_dim"], 128)
        self.mixture = FittedStatistics("representations", "log_weights", "means", "whitening")

    def stages(self) -> tuple[Stage, ...]:
        """Contrast views, then fit the density."""
        return Stage("optimise", self._contrast), Stage("collect", self._collect, self._fit)

    def _contrast(self, batch: Batch, batch_idx: int) -> Tensor:
        views = torch.cat([random_view(batch["image"]), random_view(batch["image"])])
        first, second = self.projector(self.encoder(views)).chunk(2)
        loss = nt_xent(first, second, self.hparams["temperature"])
        self.log("train/loss", loss, batch_size=len(first))
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with a cosine."""
        parameters = [*self.encoder.parameters(), *self.projector.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.hparams["lr"])
        return cosine(optimizer, self.optimise_batches)

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        found = self.encoder(batch["image"]).double()
        kept = self.mixture.representations
        self.mixture.representations = torch.cat([kept, found]) if kept.numel() else found

    def _fit(self) -> None:
        """Choose the number of components, then fit it to all representations."""
        points, numbers = gathered(self.mixture.representations), sorted(self.hparams["components"])
        best = numbers[0]
        if len(numbers) > 1:
            judged = torch.arange(len(points), device=points.device) % _HELD_OUT == _HELD_OUT - 1
            judged = judged if bool(judged.any()) else ~judged  # below ten images: by the fit itself
            learnt = points[~judged] if not bool(judged.all()) else points
            usable = [number for number in numbers if number <= len(learnt)] or [numbers[0]]
            quality = {k: float(log_density(points[judged], fit_mixture(learnt, k)).mean()) for k in usable}
            best = max(quality, key=lambda number: quality[number])
        fitted, stats = fit_mixture(points, best), self.mixture
        stats.log_weights, stats.means, stats.whitening = fitted
        stats.representations = points.new_empty(0)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Minus the log density of the representation, and its gradient.

        Raises:
            UserError: the mixture was not fitted.
        """
        stats = self.mixture
        if not stats.means.numel():
            raise UserError("CRADL has no density yet: run fit to its end, or load a checkpoint of a finished fit")
        image.requires_grad_()
        score = -log_density(self.encoder(image).double(), Mixture(stats.log_weights, stats.means, stats.whitening))
        (gradient,) = torch.autograd.grad(score.sum(), image)
        anomaly_map = gaussian_blur(gradient.float().abs().mean(dim=1, keepdim=True), self.hparams["smoothing"])
        return Prediction(score.float(), anomaly_map)


def random_view(image: Tensor) -> Tensor:
    """Crop and turn, alter brightness and contrast, blur: ``(B, C, H, W)`` in [0, 1]."""
    view = random_crop_and_turn(image, (0.2, 1.0), degrees=30.0)
    return random_blur(jitter_intensity(view, 0.4, 0.8), (0.1, 2.0), 0.5)
