"""f-AnoGAN: a Wasserstein GAN of healthy images, then an encoder into it; what they lose is anomalous.

Schlegl et al. 2019, "f-AnoGAN: fast unsupervised anomaly detection with generative adversarial networks", with the
networks and losses that Meissen et al. 2022 compare with.
"""

import itertools

import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.convolutional import check_divisible
from zoo.scoring.pooling import pool_map
from zoo.scoring.residual import residual_map
from zoo.scoring.ssim import ssim_loss

_WIDTHS = (1, 2, 4, 4, 8, 8)  # multiples of the base width after each halving of the image


class FAnoGAN(AnomalyModule):
    """f-AnoGAN in two stages: WGAN-GP, then the encoder with generator and critic fixed.

    As in the code compared with, the generator ends in a hyperbolic tangent (range [-1, 1]), the code
    of an image lies in [-1, 1] while the generator was trained on a standard normal, and the generator's batch norms
    go on moving in the second stage.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** levels``.
        in_channels: image channels.
        levels: halvings of the image, at most 5.
        width: base width of all three networks.
        latent_dim: length of the code.
        penalty_weight: weight of the critic's gradient penalty.
        feature_weight: weight of the critic's features beside the image, in the encoder's loss and in the score.
        lr: learning rate of generator and critic (Adam, betas 0 and 0.9).
        encoder_lr: learning rate of the encoder (Adam).
    """

    reference = {
        "title": "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks",
        "venue": "Medical Image Analysis",
        "year": 2019,
        "url": "https://doi.org/10.1016/j.media.2019.01.010",
    }
    tiny = {"image_size": 32, "levels": 2, "width": 4, "latent_dim": 4}
    small = {"width": 8, "lr": 0.001, "encoder_lr": 0.001}

    generator: "Generator"
    critic: "Critic"
    encoder: "Encoder"

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        levels: int = 5,
        width: int = 64,
        latent_dim: int = 128,
        penalty_weight: float = 10.0,
        feature_weight: float = 1.0,
        lr: float = 2e-4,
        encoder_lr: float = 5e-5,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False

    def build(self) -> None:
        """Create generator, critic and encoder, with Kaiming normal convolutions and Xavier uniform linear layers."""
        hp = self.hparams
        levels = hp["levels"]
        check_divisible(self.image_size, 2**levels, f"f-AnoGAN of {levels} levels")
        widths = level_widths(hp["width"], levels)
        self.generator = Generator(self.in_channels, self.image_size, widths, hp["latent_dim"])
        self.critic = Critic(self.in_channels, self.image_size, widths)
        self.encoder = Encoder(self.in_channels, self.image_size, widths, hp["latent_dim"])
        self.apply(initialise)

    def stages(self) -> tuple[Stage, ...]:
        """The GAN, then the encoder, each half of the budget."""
        return (Stage("optimise", self.train_gan), Stage("optimise", self.train_encoder))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for generator, critic and encoder."""
        lr = self.hparams["lr"]
        return [
            torch.optim.Adam(self.generator.parameters(), lr=lr, betas=(0.0, 0.9)),
            torch.optim.Adam(self.critic.parameters(), lr=lr, betas=(0.0, 0.9)),
            torch.optim.Adam(self.encoder.parameters(), lr=self.hparams["encoder_lr"]),
        ]

    def train_gan(self, batch: Batch, batch_idx: int) -> None:
        """One step of the critic, one of the generator."""
        image = batch["image"]
        generator_optimiser, critic_optimiser, _ = self._optimisers()
        with torch.no_grad():
            fake = self.generator(self._noise(image))
        alpha = torch.rand(len(image), 1, 1, 1, device=image.device)
        penalty = gradient_penalty(self.critic, image, fake, alpha)
        critic_loss = self.critic(fake).mean() - self.critic(image).mean() + self.hparams["penalty_weight"] * penalty
        self._step(critic_optimiser, critic_loss)
        self.toggle_optimizer(generator_optimiser)
        generator_loss = -self.critic(self.generator(self._noise(image))).mean()
        self._step(generator_optimiser, generator_loss)
        self.untoggle_optimizer(generator_optimiser)
        self.log_dict({"train/critic_loss": critic_loss, "train/generator_loss": generator_loss})

    def train_encoder(self, batch: Batch, batch_idx: int) -> None:
        """One step of the encoder: structural similarity of the images, squared error of the critic's features."""
        image = batch["image"]
        optimiser = self._optimisers()[2]
        self.toggle_optimizer(optimiser)
        reconstruction = self.generator(self.encoder(image))
        feature_loss = F.mse_loss(self.critic.features(reconstruction), self.critic.features(image))
        loss = ssim_loss(reconstruction, image) + self.hparams["feature_weight"] * feature_loss
        self._step(optimiser, loss)
        self.untoggle_optimizer(optimiser)
        self.log("train/encoder_loss", loss)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Minus the similarity to the reconstruction; its foreground mean plus the error of the critic's features."""
        reconstruction = self.generator(self.encoder(image)).float()
        anomaly_map = residual_map(reconstruction, image, "ssim")
        difference = (self.critic.features(reconstruction) - self.critic.features(image)).float().square().mean(dim=1)
        image_score = pool_map(anomaly_map, "mean", foreground=foreground)
        return Prediction(image_score + self.hparams["feature_weight"] * difference, anomaly_map, reconstruction)

    def _optimisers(self) -> list[LightningOptimizer]:
        return self.optimizers()  # type: ignore[return-value]  # a list, as several are configured

    def _noise(self, image: Tensor) -> Tensor:
        return torch.randn(len(image), self.hparams["latent_dim"], device=image.device)

    def _step(self, optimiser: LightningOptimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Squared distance of the critic's gradient norm from 1 at ``alpha * real + (1 - alpha) * fake``, in float32."""
    with torch.autocast(real.device.type, enabled=False):
        mixed = (alpha * real.float() + (1 - alpha) * fake.float()).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


class _Upsample(nn.Module):
    """Doubles the sides: each 2 x 2 cell comes from four neighbouring channels, not from one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2)


class _Block(nn.Module):
    """Pre-activation residual block: norm, ReLU, conv1, norm, ReLU, conv2, plus shortcut."""

    def __init__(
        self, norm1: nn.Module, conv1: nn.Module, norm2: nn.Module, conv2: nn.Module, shortcut: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2, self.shortcut = norm1, conv1, norm2, conv2, shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        out: Tensor = self.conv2(F.relu(self.norm2(y))) + self.shortcut(x)
        return out


def _up_block(source: int, width: int) -> _Block:
    return _Block(
        nn.BatchNorm2d(source),
        nn.Sequential(_Upsample(), nn.Conv2d(source, width, 3, padding=1, bias=False)),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1),
        nn.Sequential(_Upsample(), nn.Conv2d(source, width, 1)),
    )


def _down_blocks(widths: tuple[int, ...], image_size: tuple[int, ...], layer_norm: bool) -> nn.Sequential:
    blocks = []
    for level, (source, width) in enumerate(itertools.pairwise(widths)):
        shape = (source, *(side // 2**level for side in image_size))
        norm1, norm2 = (nn.LayerNorm(shape) if layer_norm else nn.BatchNorm2d(source) for _ in range(2))
        blocks.append(
            _Block(
                norm1,
                nn.Conv2d(source, source, 3, padding=1, bias=False),
                norm2,
                nn.Sequential(nn.Conv2d(source, width, 1), nn.AvgPool2d(2)),
                nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(source, width, 1)),
            )
        )
    return nn.Sequential(*blocks)


def _grid(image_size: tuple[int, ...], widths: tuple[int, ...]) -> tuple[int, int, int]:
    height, width = (side // 2 ** (len(widths) - 1) for side in image_size)
    return widths[-1], height, width


class Generator(nn.Module):
    """Code ``(B, latent_dim)`` to image ``(B, C, H, W)`` in [-1, 1]."""

    def __init__(self, in_channels: int, image_size: tuple[int, ...], widths: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        self.grid = _grid(image_size, widths)
        channels, height, width = self.grid
        self.to_grid = nn.Linear(latent_dim, channels * height * width)
        falling = widths[::-1]
        self.blocks = nn.Sequential(*(_up_block(*pair) for pair in itertools.pairwise(falling)))
        self.norm = nn.BatchNorm2d(widths[0])
        self.to_image = nn.Conv2d(widths[0], in_channels, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        """Image of a code."""
        x = self.blocks(self.to_grid(code).unflatten(1, self.grid))
        return torch.tanh(self.to_image(F.relu(self.norm(x))))


class Critic(nn.Module):
    """Image ``(B, C, H, W)`` to a realness ``(B, 1)``; layer norm, because the penalty is one image's own."""

    def __init__(self, in_channels: int, image_size: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = _grid(image_size, widths)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.blocks = _down_blocks(widths, image_size, layer_norm=True)
        self.head = nn.Linear(channels * height * width, 1)

    def features(self, image: Tensor) -> Tensor:
        """What the last layer sees, flattened."""
        features: Tensor = self.blocks(self.stem(image)).flatten(1)
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Realness, unbounded."""
        realness: Tensor = self.head(self.features(image))
        return realness


class Encoder(nn.Module):
    """Image ``(B, C, H, W)`` to a code ``(B, latent_dim)``, in [-1, 1] if ``bounded``."""

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, ...],
        widths: tuple[int, ...],
        latent_dim: int,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        self.bounded = bounded
        channels, height, width = _grid(image_size, widths)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.blocks = _down_blocks(widths, image_size, layer_norm=False)
        self.head = nn.Linear(channels * height * width, latent_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Code of an image."""
        code = self.head(self.blocks(self.stem(image)).flatten(1))
        return torch.tanh(code) if self.bounded else code


def level_widths(width: int, levels: int) -> tuple[int, ...]:
    """Channels before and after each of at most five halvings, for a base width."""
    return tuple(width * multiple for multiple in _WIDTHS[: levels + 1])


def initialise(module: nn.Module) -> None:
    """For ``apply``: Kaiming normal convolutions, Xavier uniform linear layers, no biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
