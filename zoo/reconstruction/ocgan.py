"""OCGAN: an autoencoder whose whole code space must decode to healthy images, so that nothing else can be brought back.

Perera, Nallapati and Xiang 2019, "OCGAN: one-class novelty detection using GANs with constrained latent
representations" (arXiv 1903.08550). With the image game alone it is ALOCC (Sabokrou et al. 2018, arXiv 1802.09088), the
configuration ``alocc``.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.module import Batch, Prediction, Stage
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

_DISCRIMINATORS, _CLASSIFIER, _AUTOENCODER = range(3)
_LATENT_WEIGHT = 10.0  # of the latent game in the autoencoder's loss


class OCGAN(Adversarial):
    """One-class GAN (OCGAN): denoising autoencoder, discriminators of images and codes, informative-negative mining.

    Codes lie in (-1, 1). The discriminator of codes compares them with uniform draws, that of images decodings of such
    draws with real images. In the last part of the fit each draw first takes one gradient step towards what a weak
    classifier holds for fake. As the paper: one logit for codes and a hyperbolic tangent on them, where the release has
    sixteen and a leaky ReLU. Deviations for other sizes than the original's 61 pixels: convolutions are padded and as
    many as halve the image below 8 pixels; the code is one place, as there.

    Args:
        game: ``full``; ``image`` leaves out codes and mining and compares reconstructions with images (ALOCC).
        latent_dim: channels of the code.
        width: channels of the autoencoder after its first halving.
        discriminator_width: the same of the discriminator of images and of the classifier.
        noise: deviation of the noise on the input for images in [-1, 1] (variance 0.2).
        reconstruction_weight: of half the mean squared error (the release: 500; its command line: 10).
        mining_share: last part of the fit with mining.
        mining_step: length of the mining step.
        score: ``error`` is the mean squared error; ``realness`` is 1 minus what the discriminator of images thinks of
            the reconstruction.
        **adversarial: arguments of :class:`~zoo.reconstruction._adversarial.Adversarial`; ``image_size`` divisible
            until below 8, 64 is near the original.
    """

    reference = {
        "title": "OCGAN: One-class Novelty Detection Using GANs with Constrained Latent Representations",
        "venue": "CVPR",
        "year": 2019,
        "url": "https://arxiv.org/abs/1903.08550",
    }
    tiny = {"image_size": 32, "width": 4, "latent_dim": 4}
    small = {"width": 8, "lr": 0.001}

    def __init__(
        self,
        *,
        game: Literal["full", "image"] = "full",
        latent_dim: int = 16,
        width: int = 64,
        discriminator_width: int = 12,
        noise: float = 0.447,
        reconstruction_weight: float = 500.0,
        mining_share: float = 0.25,
        mining_step: float = 2.0,
        score: Literal["error", "realness"] = "error",
        **adversarial: Any,
    ) -> None:
        super().__init__(latent_dim=latent_dim, **adversarial)

    def build(self) -> None:
        """Create autoencoder, both discriminators and the classifier."""
        hp, size = self.hparams, self.image_size
        wide = {"width": hp["width"], "max_width": 4 * hp["width"], "kernel": 5}
        narrow = {"width": hp["discriminator_width"], "max_width": 4 * hp["discriminator_width"], "kernel": 5}
        self.encoder = dcgan_encoder(self.in_channels, size, hp["latent_dim"], **wide).append(nn.Tanh())
        self.decoder = dcgan_decoder(hp["latent_dim"], size, self.in_channels, dropout=0.5, **wide)
        self.image_discriminator = dcgan_encoder(self.in_channels, size, 1, **narrow)
        self.classifier = dcgan_encoder(self.in_channels, size, 1, **narrow)
        layers: list[nn.Module] = [nn.Flatten()]
        for source, target in ((hp["latent_dim"], 128), (128, 64), (64, 32)):
            layers += [nn.Linear(source, target), nn.ReLU()]
        self.code_discriminator = nn.Sequential(*layers, nn.Linear(32, 1))
        self.apply(initialise_dcgan)

    def stages(self) -> tuple[Stage, ...]:
        """Without mining, then with it."""
        if self.hparams["game"] == "image":
            return super().stages()
        share = self.hparams["mining_share"]
        parts = (Stage("optimise", self.step, share=1 - share), Stage("optimise", self.step_mined, share=share))
        return tuple(part for part in parts if part.share > 0)

    def players(self) -> tuple[list[nn.Module], ...]:
        """Discriminators, classifier, autoencoder."""
        return [self.image_discriminator, self.code_discriminator], [self.classifier], [self.encoder, self.decoder]

    def draw_codes(self, count: int, device: torch.device) -> Tensor:
        """Uniform codes ``(count, latent_dim, 1, 1)`` in (-1, 1)."""
        return torch.rand(count, self.hparams["latent_dim"], 1, 1).to(device) * 2 - 1

    def mine(self, code: Tensor) -> Tensor:
        """Codes after one step that lowers the classifier's loss towards "fake", back in (-1, 1)."""
        code = code.detach().requires_grad_()
        loss = realness_loss(self.classifier(self.decoder(code)), real=False) * len(code)
        (gradient,) = torch.autograd.grad(loss, code)
        return torch.tanh(code - self.hparams["mining_step"] * gradient).detach()

    def step_mined(self, batch: Batch, batch_idx: int) -> None:
        """One batch of the game with mining."""
        self.log_losses(self.play_codes(batch["image"], mining=True))

    def play(self, image: Tensor) -> dict[str, Tensor]:
        """The game without mining, or that of images alone."""
        return self.play_images(image) if self.hparams["game"] == "image" else self.play_codes(image, mining=False)

    def play_codes(self, image: Tensor, mining: bool) -> dict[str, Tensor]:
        """A step of the discriminators, of the classifier, and of the autoencoder."""
        noisy = self._noisy(image)
        drawn = self.draw_codes(len(image), image.device)
        with torch.no_grad():
            code = self.encoder(noisy)
            decoded, restored = self.decoder(drawn), self.decoder(code)

        def discriminate() -> Tensor:
            real, fake = self.image_discriminator(image), self.image_discriminator(decoded)
            log_players(self, "image_discriminator", real, fake)
            of_draws, of_codes = self.code_discriminator(drawn), self.code_discriminator(code)
            log_players(self, "code_discriminator", of_draws, of_codes)
            of_images = realness_loss(real, True) + realness_loss(fake, False)
            return of_images + realness_loss(of_draws, True) + realness_loss(of_codes, False)

        def classify() -> Tensor:
            return realness_loss(self.classifier(restored), True) + realness_loss(self.classifier(decoded), False)

        losses = {
            "discriminator_loss": player_step(self, _DISCRIMINATORS, discriminate),
            "classifier_loss": player_step(self, _CLASSIFIER, classify),
        }
        start = self.draw_codes(len(image), image.device)
        mined = self.mine(start) if mining else torch.tanh(start)

        def reconstruct() -> Tensor:
            own = self.encoder(noisy)
            error = 0.5 * (self.decoder(own).float() - image).square().mean()
            games = _LATENT_WEIGHT * realness_loss(self.code_discriminator(own), True)
            games = games + realness_loss(self.image_discriminator(self.decoder(mined)), True)
            loss: Tensor = games + self.hparams["reconstruction_weight"] * error
            return loss

        return {**losses, "loss": player_step(self, _AUTOENCODER, reconstruct)}

    def play_images(self, image: Tensor) -> dict[str, Tensor]:
        """ALOCC: the discriminator tells images from reconstructions, which try to pass."""
        noisy = self._noisy(image)
        with torch.no_grad():
            restored = self.decoder(self.encoder(noisy))

        def discriminate() -> Tensor:
            real, fake = self.image_discriminator(image), self.image_discriminator(restored)
            log_players(self, "image_discriminator", real, fake)
            return realness_loss(real, True) + realness_loss(fake, False)

        def reconstruct() -> Tensor:
            restored = self.decoder(self.encoder(noisy))
            error = 0.5 * (restored.float() - image).square().mean()
            passing = realness_loss(self.image_discriminator(restored), True)
            loss: Tensor = passing + self.hparams["reconstruction_weight"] * error
            return loss

        losses = {"discriminator_loss": player_step(self, _DISCRIMINATORS, discriminate)}
        return {**losses, "loss": player_step(self, _AUTOENCODER, reconstruct)}

    def _noisy(self, image: Tensor) -> Tensor:
        noisy: Tensor = image + self.hparams["noise"] * torch.randn_like(image)
        return noisy

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared error of the reconstruction, without noise."""
        reconstruction = self.decoder(self.encoder(image)).float()
        anomaly_map = residual_map(reconstruction, image, "l2")
        score = anomaly_map.mean(dim=(1, 2, 3))
        if self.hparams["score"] == "realness":
            score = 1 - self.image_discriminator(reconstruction).float().sigmoid().flatten()
        return Prediction(score, anomaly_map, reconstruction)
