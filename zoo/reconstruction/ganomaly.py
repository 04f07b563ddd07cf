"""GANomaly: encode, decode, encode again; anomalous images move in the code space on the way.

Akcay, Atapour-Abarghouei and Breckon 2018, "GANomaly: semi-supervised anomaly detection via adversarial training".
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Prediction
from zoo.nn.adversarial import (
    dcgan_decoder,
    dcgan_encoder,
    initialise_dcgan,
    log_players,
    player_step,
    realness_loss,
)
from zoo.reconstruction._adversarial import Adversarial
from zoo.scoring.residual import residual_map

_DISCRIMINATOR, _GENERATOR = range(2)


class GANomaly(Adversarial):
    """GANomaly: encoder-decoder-encoder against a discriminator of images.

    Loss of the generator: squared distance of the discriminator's features, ``reconstruction_weight`` times the
    absolute error of the image, squared distance of the two codes. Score: squared distance of the codes; map: absolute
    error (the paper has none). Evaluated with running batch statistics and without restarting the discriminator, where
    ports use batch statistics and restart it once its loss vanishes.

    Args:
        latent_dim: channels of the code.
        width: channels of all stacks after their first halving.
        feature_weight: weight of the discriminator's features.
        reconstruction_weight: weight of the image's error.
        latent_weight: weight of the codes' distance.
        **adversarial: arguments of :class:`~zoo.reconstruction._adversarial.Adversarial`; ``image_size`` divisible
            until below 8, the original: 32 and 64.
    """

    reference = {
        "title": "GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training",
        "venue": "ACCV",
        "year": 2018,
        "url": "https://arxiv.org/abs/1805.06725",
    }
    tiny = {"image_size": 32, "width": 4, "latent_dim": 4}
    small = {"width": 8, "lr": 0.001}

    def __init__(
        self,
        *,
        latent_dim: int = 100,
        width: int = 64,
        feature_weight: float = 1.0,
        reconstruction_weight: float = 50.0,
        latent_weight: float = 1.0,
        **adversarial: Any,
    ) -> None:
        super().__init__(latent_dim=latent_dim, **adversarial)

    def build(self) -> None:
        """Create generator (encoder, decoder, second encoder) and discriminator."""
        hp, size = self.hparams, self.image_size
        widths = {"width": hp["width"], "max_width": 8 * hp["width"]}
        self.encoder = dcgan_encoder(self.in_channels, size, hp["latent_dim"], bias=False, **widths)
        self.decoder = dcgan_decoder(hp["latent_dim"], size, self.in_channels, **widths)
        self.second_encoder = dcgan_encoder(self.in_channels, size, hp["latent_dim"], bias=False, **widths)
        self.discriminator = dcgan_encoder(self.in_channels, size, 1, bias=False, **widths)
        self.apply(initialise_dcgan)

    def players(self) -> tuple[list[nn.Module], ...]:
        """Discriminator and generator."""
        return [self.discriminator], [self.encoder, self.decoder, self.second_encoder]

    def play(self, image: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator, one of the generator."""
        hp = self.hparams
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
        return {"discriminator_loss": discriminator_loss, "loss": player_step(self, _GENERATOR, generate)}

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared distance of the codes; absolute error of the image."""
        code = self.encoder(image)
        reconstruction = self.decoder(code)
        moved = (self.second_encoder(reconstruction).float() - code.float()).square().mean(dim=(1, 2, 3))
        reconstruction = reconstruction.float()
        return Prediction(moved, residual_map(reconstruction, image, "l1"), reconstruction)
