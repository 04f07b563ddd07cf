"""GANomaly: encode, decode, encode again; anomalous images move in the code space on the way.

Akcay, Atapour-Abarghouei and Breckon 2018, "GANomaly: semi-supervised anomaly detection via adversarial training".
"""

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn

from zoo.callbacks.collapse import TellCollapse
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.adversarial import (
    dcgan_decoder,
    dcgan_encoder,
    initialise_dcgan,
    log_players,
    player_step,
    realness_loss,
)
from zoo.scoring.residual import residual_map

_DISCRIMINATOR, _GENERATOR = range(2)


class GANomaly(AnomalyModule):
    """GANomaly: encoder-decoder-encoder against a discriminator of images.

    Loss of the generator: squared distance of the discriminator's features, ``reconstruction_weight`` times the
    absolute error of the image, squared distance of the two codes. Score: squared distance of the codes; map: absolute
    error (the paper has none). Evaluated with running batch statistics and without restarting the discriminator, where
    ports use batch statistics and restart it once its loss vanishes.

    Args:
        image_size: (H, W) in pixels, divisible until below 8; the original: 32 and 64.
        in_channels: image channels.
        latent_dim: channels of the code.
        width: channels of all stacks after their first halving.
        feature_weight: weight of the discriminator's features.
        reconstruction_weight: weight of the image's error.
        latent_weight: weight of the codes' distance.
        lr: learning rate of both Adams, betas 0.5 and 0.999.
    """

    reference = {
        "title": "GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training",
        "venue": "ACCV",
        "year": 2018,
        "url": "https://arxiv.org/abs/1805.06725",
    }
    expects = (-1.0, 1.0)
    tiny = {"image_size": 32, "width": 4, "latent_dim": 4}
    small = {"width": 8, "lr": 0.001}

    encoder: nn.Sequential
    decoder: nn.Sequential
    second_encoder: nn.Sequential
    discriminator: nn.Sequential

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        latent_dim: int = 100,
        width: int = 64,
        feature_weight: float = 1.0,
        reconstruction_weight: float = 50.0,
        latent_weight: float = 1.0,
        lr: float = 2e-4,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False

    def build(self) -> None:
        """Create generator (encoder, decoder, second encoder) and discriminator."""
        hp, size = self.hparams, self.image_size
        widths = {"width": hp["width"], "max_width": 8 * hp["width"]}
        self.encoder = dcgan_encoder(self.in_channels, size, hp["latent_dim"], **widths)
        self.decoder = dcgan_decoder(hp["latent_dim"], size, self.in_channels, **widths)
        self.second_encoder = dcgan_encoder(self.in_channels, size, hp["latent_dim"], **widths)
        self.discriminator = dcgan_encoder(self.in_channels, size, 1, **widths)
        self.apply(initialise_dcgan)

    def configure_callbacks(self) -> list[Callback]:
        """A collapsed discriminator is told."""
        return [TellCollapse()]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for discriminator and generator."""
        generator = nn.ModuleList([self.encoder, self.decoder, self.second_encoder])
        return [
            torch.optim.Adam(player.parameters(), lr=self.hparams["lr"], betas=(0.5, 0.999))
            for player in (self.discriminator, generator)
        ]

    def stages(self) -> tuple[Stage, ...]:
        """One stage: the trainer's steps count batches, not the steps of both players."""
        return (Stage("optimise", self._play),)

    def _play(self, batch: Batch, batch_idx: int) -> None:
        """One step of the discriminator, one of the generator."""
        image, hp = batch["image"], self.hparams
        with torch.no_grad():
            fake = self.decoder(self.encoder(image))

        def discriminate() -> Tensor:
            of_real, of_fake = self.discriminator(image), self.discriminator(fake)
            log_players(self, "discriminator", of_real, of_fake)
            return 0.5 * (realness_loss(of_real, True) + realness_loss(of_fake, False))

        def generate() -> Tensor:
            code = self.encoder(image)
            reconstruction = self.decoder(code)
            features = self.discriminator[0]
            matching = F.mse_loss(features(reconstruction).float(), features(image).float())
            error = (reconstruction.float() - image).abs().mean()
            moved = F.mse_loss(self.second_encoder(reconstruction).float(), code.float())
            loss: Tensor = (
                hp["feature_weight"] * matching + hp["reconstruction_weight"] * error + hp["latent_weight"] * moved
            )
            return loss

        discriminator_loss = player_step(self, _DISCRIMINATOR, discriminate)
        self.log_dict(
            {"train/discriminator_loss": discriminator_loss, "train/loss": player_step(self, _GENERATOR, generate)}
        )

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared distance of the codes; absolute error of the image."""
        code = self.encoder(image)
        reconstruction = self.decoder(code)
        moved = (self.second_encoder(reconstruction).float() - code.float()).square().mean(dim=(1, 2, 3))
        reconstruction = reconstruction.float()
        return Prediction(moved, residual_map(reconstruction, image, "l1"), reconstruction)
