"""Deep SVDD: a network without biases, pre-trained as an encoder, that maps healthy images close to one point.

Ruff et al. 2018, "Deep one-class classification".
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.adversarial import player_step
from zoo.nn.convolutional import check_divisible
from zoo.nn.fitted import Centre, away_from_zero
from zoo.nn.processes import gathered

_PRETRAINING, _TRAINING = 350, 150  # epochs
_FALLS = (250 / 350, 50 / 150)  # where the rate falls to a tenth, as a share of each
_FREE_RADIUS = 10 / 150  # share of the training before the soft boundary's radius follows the distances
_FROM_ZERO = 0.1
_GRID = 4  # places a side that the decoder starts from


class DeepSVDD(AnomalyModule):
    """Deep support vector data description.

    No map. Biases would let the network put every image on the centre; it has none.

    Args:
        image_size: (H, W) in pixels, divisible by ``2 ** len(widths)``.
        in_channels: image channels.
        widths: channels of the convolutions, each followed by a halving.
        latent_dim: length of the representation, a multiple of 16.
        objective: ``one_class``, or ``soft_boundary`` whose radius leaves out the share ``nu``.
        nu: see there.
        lr: learning rate of both Adams.
        weight_decay: of both.
    """

    reference = {
        "title": "Deep One-Class Classification",
        "venue": "ICML",
        "year": 2018,
        "url": "https://proceedings.mlr.press/v80/ruff18a.html",
    }
    tiny = {"image_size": 32, "widths": (4, 8), "latent_dim": 16}
    small = {"lr": 1e-3}

    encoder: nn.Sequential
    decoder: nn.Sequential
    sphere: Centre
    squared_radius: Tensor

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        widths: tuple[int, ...] = (32, 64, 128),
        latent_dim: int = 128,
        objective: Literal["one_class", "soft_boundary"] = "one_class",
        nu: float = 0.1,
        lr: float = 1e-4,
        weight_decay: float = 1e-6,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False

    def build(self) -> None:
        """Create encoder and decoder, and reserve centre and radius.

        Raises:
            UserError: sides that cannot be halved so often, or an unfit ``latent_dim``.
        """
        hp = self.hparams
        widths, latent = tuple(hp["widths"]), hp["latent_dim"]
        check_divisible(self.image_size, 2 ** len(widths), f"Deep SVDD with {len(widths)} widths")
        if latent % _GRID**2:
            raise UserError(f"latent_dim is {latent}: a multiple of {_GRID**2} is needed")
        grid = tuple(side // 2 ** len(widths) for side in self.image_size)
        layers: list[nn.Module] = []
        for source, target in zip((self.in_channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(source, target, 5, padding=2, bias=False), nn.BatchNorm2d(target, 1e-4, affine=False)]
            layers += [nn.LeakyReLU(), nn.MaxPool2d(2)]
        places = grid[0] * grid[1]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * places, latent, bias=False))
        layers = [nn.BatchNorm1d(latent, 1e-4, affine=False), nn.Unflatten(1, (latent // _GRID**2, _GRID, _GRID))]
        layers.append(nn.Upsample(size=grid))  # of images of 32 pixels, the original's, it changes nothing
        before = latent // _GRID**2
        for target in widths[::-1]:
            layers += [nn.LeakyReLU(), nn.ConvTranspose2d(before, target, 5, padding=2, bias=False)]
            layers += [nn.BatchNorm2d(target, 1e-4, affine=False), nn.LeakyReLU(), nn.Upsample(scale_factor=2)]
            before = target
        layers.append(nn.ConvTranspose2d(before, self.in_channels, 5, padding=2, bias=False))
        self.decoder = nn.Sequential(*layers, nn.Sigmoid())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight, nn.init.calculate_gain("leaky_relu"))
        self.sphere = Centre()
        self.register_buffer("squared_radius", torch.zeros(()))

    def stages(self) -> tuple[Stage, ...]:
        """Autoencoder, centre, one-class training."""
        return (
            Stage("optimise", self._pretrain, share=_PRETRAINING),
            Stage("collect", self._collect, self._finish),
            Stage("optimise", self._train, share=_TRAINING),
        )

    def _pretrain(self, batch: Batch, batch_idx: int) -> None:
        image = batch["image"]

        def loss() -> Tensor:
            return F.mse_loss(self.decoder(self.encoder(image)).float(), image)

        self.log("train/reconstruction", player_step(self, 0, loss))
        self._follow(0)

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        self.sphere.add(self.encoder(batch["image"]))

    def _finish(self) -> None:
        """The mean, its entries kept from 0: a zero could be reached by zero weights."""
        self.sphere.finish()
        self.sphere.centre = away_from_zero(self.sphere.centre, _FROM_ZERO)

    def _train(self, batch: Batch, batch_idx: int) -> None:
        hp, soft = self.hparams, self.hparams["objective"] == "soft_boundary"
        found: list[Tensor] = []

        def loss() -> Tensor:
            distance = self.distance(batch["image"])
            found.append(distance.detach())
            if not soft:
                return distance.mean()
            outside: Tensor = F.relu(distance - self.squared_radius).mean() / hp["nu"]
            return self.squared_radius + outside

        self.log("train/loss", player_step(self, 1, loss))
        one_class = self.optimise_batches * _TRAINING / (_PRETRAINING + _TRAINING)
        left = self.staging.progress.total - self.staging.progress.done
        if soft and left < (1 - _FREE_RADIUS) * one_class:
            self.squared_radius = torch.quantile(gathered(found[0]), 1 - hp["nu"])
        self._follow(1)

    def _follow(self, number: int) -> None:
        schedules: Any = self.lr_schedulers()
        schedules[number].step()

    def configure_optimizers(self) -> Any:
        """Adam for the autoencoder and for the encoder alone, each a tenth of the rate in its last part."""
        hp = self.hparams
        parts = (nn.ModuleList([self.encoder, self.decoder]), self.encoder)
        optimisers = [torch.optim.Adam(one.parameters(), lr=hp["lr"], weight_decay=hp["weight_decay"]) for one in parts]
        shares = [epochs / (_PRETRAINING + _TRAINING) for epochs in (_PRETRAINING, _TRAINING)]
        milestones = [max(1, int(self.optimise_batches * s * fall)) for s, fall in zip(shares, _FALLS, strict=True)]
        made = [
            torch.optim.lr_scheduler.MultiStepLR(one, [milestone], 0.1)
            for one, milestone in zip(optimisers, milestones, strict=True)
        ]
        return optimisers, made

    def distance(self, image: Tensor) -> Tensor:
        """Squared distance to the centre: float32 ``(B,)``."""
        squared: Tensor = (self.encoder(image).float() - self.sphere.centre).square().sum(dim=1)
        return squared

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared distance to the centre, less the squared radius of the soft boundary.

        Raises:
            UserError: the centre was not collected.
        """
        if not self.sphere.centre.numel():
            raise UserError("Deep SVDD has no centre yet: run fit, or load a checkpoint of a finished fit")
        return Prediction(self.distance(image) - self.squared_radius)
