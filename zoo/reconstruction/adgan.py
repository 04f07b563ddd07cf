"""ADGAN: two generators between images and codes, a critic on either side. A re-construction from the abstract.

Liu, Tian et al. 2020, "Photoshopping colonoscopy video frames" (ISBI, arXiv 1910.10345). Layers, weights and schedule
are unpublished and there is no public code: all numbers here are this package's, and the published figures are no
target for them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.module import Prediction
from zoo.nn.adversarial import log_players, player_step
from zoo.nn.convolutional import check_divisible
from zoo.reconstruction._adversarial import Adversarial
from zoo.reconstruction.f_anogan import Critic, Encoder, Generator, gradient_penalty, initialise, level_widths
from zoo.scoring.residual import residual_map

_CRITICS, _GENERATORS = range(2)


class ADGAN(Adversarial):
    """Dual GAN of images and codes (ADGAN), re-constructed from the abstract.

    Known: two generators (image to code, code to image), a discriminator for each space, training on polyp-free frames
    of 64 pixels, score = difference of an image and its regenerated self. Ours: f-AnoGAN's networks without the
    hyperbolic tangent on the code, Wasserstein critics with gradient penalty, both cycles, all weights.

    Args:
        levels: halvings of the image, at most 5.
        width: base width of generators and image critic.
        penalty_weight: of both gradient penalties.
        image_cycle: weight of the absolute error of image, code, image.
        code_cycle: weight of the squared error of code, image, code.
        critic_steps: batches on which only the critics step, for each on which the generators do too.
        lr: learning rate of both Adams, betas 0 and 0.9.
        **adversarial: arguments of :class:`~zoo.reconstruction._adversarial.Adversarial`; ``image_size`` in
            multiples of ``2 ** levels``, the paper: 64.
    """

    reference = {
        "title": "Photoshopping Colonoscopy Video Frames (re-construction from the abstract)",
        "venue": "ISBI",
        "year": 2020,
        "url": "https://arxiv.org/abs/1910.10345",
    }
    betas = (0.0, 0.9)
    tiny = {"image_size": 32, "levels": 2, "width": 4, "latent_dim": 4, "critic_steps": 2}
    small = {"levels": 3, "width": 8, "critic_steps": 2, "lr": 0.001}

    encoder: Encoder
    generator: Generator
    image_critic: Critic
    code_critic: nn.Sequential

    def __init__(
        self,
        *,
        levels: int = 4,
        width: int = 64,
        penalty_weight: float = 10.0,
        image_cycle: float = 10.0,
        code_cycle: float = 1.0,
        critic_steps: int = 5,
        lr: float = 1e-4,
        **adversarial: Any,
    ) -> None:
        super().__init__(lr=lr, **adversarial)

    def build(self) -> None:
        """Create both generators and both critics."""
        hp = self.hparams
        check_divisible(self.image_size, 2 ** hp["levels"], f"ADGAN of {hp['levels']} levels")
        widths = level_widths(hp["width"], hp["levels"])
        shape = (self.in_channels, self.image_size, widths)
        self.encoder = Encoder(*shape, hp["latent_dim"], bounded=False)
        self.generator = Generator(*shape, hp["latent_dim"])
        self.image_critic = Critic(*shape)
        self.code_critic = nn.Sequential(
            nn.Linear(hp["latent_dim"], 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )
        self.apply(initialise)

    def players(self) -> tuple[list[nn.Module], ...]:
        """Critics and generators."""
        return [self.image_critic, self.code_critic], [self.encoder, self.generator]

    def play(self, image: Tensor) -> dict[str, Tensor]:
        """A step of the critics; every ``critic_steps`` batches one of the generators too."""
        hp = self.hparams
        drawn = torch.randn(len(image), hp["latent_dim"]).to(image.device)
        weights = torch.rand(len(image)).to(image.device)
        with torch.no_grad():
            fake, code = self.generator(drawn), self.encoder(image)

        def criticise() -> Tensor:
            total = image.new_zeros(())
            for name, critic, real, made in (
                ("image_critic", self.image_critic, image, fake),
                ("code_critic", self.code_critic, drawn, code),
            ):
                alpha = weights.view(-1, *[1] * (real.ndim - 1))
                of_real, of_made = critic(real).float(), critic(made).float()
                log_players(self, name, of_real, of_made)
                penalty = gradient_penalty(critic, real, made, alpha)
                total = total + of_made.mean() - of_real.mean() + hp["penalty_weight"] * penalty
            return total

        def generate() -> Tensor:
            code, fake = self.encoder(image), self.generator(drawn)
            passing = -self.image_critic(fake).float().mean() - self.code_critic(code).float().mean()
            image_cycle = (self.generator(code).float() - image).abs().mean()
            code_cycle = (self.encoder(fake).float() - drawn).square().mean()
            self.log_dict({"train/image_cycle": image_cycle.detach(), "train/code_cycle": code_cycle.detach()})
            loss: Tensor = passing + hp["image_cycle"] * image_cycle + hp["code_cycle"] * code_cycle
            return loss

        losses = {"critic_loss": player_step(self, _CRITICS, criticise)}
        if (self.trainer.fit_loop.epoch_loop.total_batch_idx + 1) % hp["critic_steps"] == 0:
            losses["loss"] = player_step(self, _GENERATORS, generate)
        return losses

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mean absolute difference of the image and its regenerated self."""
        reconstruction = self.generator(self.encoder(image)).float()
        anomaly_map = residual_map(reconstruction, image, "l1")
        return Prediction(anomaly_map.mean(dim=(1, 2, 3)), anomaly_map, reconstruction)
