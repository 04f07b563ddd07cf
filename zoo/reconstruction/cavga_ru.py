"""CAVGA-Ru: a variational autoencoder whose attention must cover all that is healthy; what it leaves out is anomalous.

Venkataramanan et al. 2020, "Attention guided anomaly localization in images" (arXiv 1911.08616), the unsupervised
variant on a residual network. Networks and settings as in the port that Meissen et al. 2022 published.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Prediction
from zoo.nn.adversarial import log_players, player_step, realness_loss
from zoo.nn.convolutional import check_divisible
from zoo.nn.features import create_backbone
from zoo.reconstruction._adversarial import Adversarial
from zoo.scoring.residual import residual_map

_DISCRIMINATOR, _AUTOENCODER = range(2)
_HALVINGS = 4
_DISCRIMINATOR_HALVINGS = 5


class CAVGARu(Adversarial):
    """Convolutional adversarial variational autoencoder with guided attention (CAVGA-Ru).

    Loss: squared error, mean KL term, an adversarial term on reconstructions and on decodings of draws, and
    ``attention_weight`` times the mean of one minus the attention. The attention is Grad-CAM of the code's mean,
    summed, on the encoder's last maps; as a 1x1 convolution leads from those to the mean, the gradient is its weights
    and needs no second backward pass. Map: 1 minus the attention. Deviations: the attention is scaled by each image's
    own maximum (the port: by the batch's); the discriminator plays against the autoencoder (the port sums both losses,
    so that both lower the same).

    Args:
        backbone: a ResNet of timm.
        weights: of the backbone's stages: ``imagenet``, ``random`` or a path; the stem is always new.
        adversarial_weight: weight of the adversarial term.
        attention_weight: weight of the attention term.
        **adversarial: arguments of :class:`~zoo.reconstruction._adversarial.Adversarial`; ``image_size`` in multiples
            of 32 and at least 64 (the port: 128, the paper: 256); the code has a sixteenth of its sides.
    """

    reference = {
        "title": "Attention Guided Anomaly Localization in Images",
        "venue": "ECCV",
        "year": 2020,
        "url": "https://arxiv.org/abs/1911.08616",
    }
    tiny = {"image_size": 64, "backbone": "resnet10t", "weights": "random", "latent_dim": 8}
    small = {"backbone": "resnet10t", "weights": "random", "latent_dim": 32, "lr": 0.001}
    expects = (0.0, 1.0)
    betas = (0.9, 0.999)

    encoder: nn.Sequential
    to_mean: nn.Conv2d
    to_log_variance: nn.Conv2d
    decoder: nn.Sequential
    discriminator: nn.Sequential

    def __init__(
        self,
        *,
        backbone: str = "resnet18",
        weights: str = "imagenet",
        adversarial_weight: float = 1.0,
        attention_weight: float = 0.01,
        **adversarial: Any,
    ) -> None:
        super().__init__(**adversarial)

    def build(self) -> None:
        """Create encoder, decoder and discriminator."""
        hp = self.hparams
        check_divisible(self.image_size, 2**_DISCRIMINATOR_HALVINGS, "CAVGA-Ru's discriminator", minimum=64)
        self.encoder = _residual_encoder(hp["backbone"], hp["weights"], self.in_channels)
        maps = self.encoder(torch.zeros(1, self.in_channels, 64, 64)).shape[1]
        self.to_mean, self.to_log_variance = (nn.Conv2d(maps, hp["latent_dim"], 1) for _ in range(2))
        widths = [max(1, hp["latent_dim"] >> level) for level in range(_HALVINGS + 1)]
        layers: list[nn.Module] = []
        for source, target in itertools.pairwise(widths):
            layers += [DecoderBlock(source, target, double=True), DecoderBlock(target, target)]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(widths[-1], self.in_channels, 3, padding=1))
        self.discriminator = _discriminator(self.in_channels)

    def players(self) -> tuple[list[nn.Module], ...]:
        """Discriminator and autoencoder."""
        return [self.discriminator], [self.encoder, self.to_mean, self.to_log_variance, self.decoder]

    def attention(self, maps: Tensor) -> Tensor:
        """Attention ``(B, 1, H/16, W/16)`` in [0, 1] of the encoder's last maps, its maximum 1 in every image."""
        weights = self.to_mean.weight.float().sum(dim=0)
        attention = (maps.float() * weights).sum(dim=1, keepdim=True).relu()  # a product would be cut to bfloat16
        return attention / attention.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12)

    def play(self, image: Tensor) -> dict[str, Tensor]:
        """A step of the discriminator, a step of the autoencoder."""
        hp = self.hparams
        with torch.no_grad():
            maps = self.encoder(image)
            mean, log_variance = self.to_mean(maps), self.to_log_variance(maps)
            noise = torch.randn(mean.shape).to(image.device)
            drawn = torch.randn(mean.shape).to(image.device)
            made = torch.cat([self.decoder(_sample(mean, log_variance, noise)), self.decoder(drawn)])

        def discriminate() -> Tensor:
            of_real, of_made = self.discriminator(image), self.discriminator(made)
            log_players(self, "discriminator", of_real, of_made)
            return realness_loss(of_real, True) + realness_loss(of_made, False)

        def reconstruct() -> Tensor:
            maps = self.encoder(image)
            mean, log_variance = self.to_mean(maps).float(), self.to_log_variance(maps).float()
            reconstruction = self.decoder(_sample(mean, log_variance, noise))
            error = F.mse_loss(reconstruction.float(), image)
            divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
            uncovered = (1 - self.attention(maps)).mean()
            passing = sum(
                (realness_loss(self.discriminator(one), True) for one in (reconstruction, self.decoder(drawn))),
                start=error.new_zeros(()),
            )
            parts = {"train/reconstruction": error, "train/kl": divergence, "train/uncovered": uncovered}
            self.log_dict({name: value.detach() for name, value in parts.items()})
            weighted = hp["adversarial_weight"] * passing + hp["attention_weight"] * uncovered
            loss: Tensor = error + divergence + weighted
            return loss

        discriminator_loss = player_step(self, _DISCRIMINATOR, discriminate)
        return {"discriminator_loss": discriminator_loss, "loss": player_step(self, _AUTOENCODER, reconstruct)}

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """1 minus the attention, at the image's size; mean absolute error of the mean code's image."""
        maps = self.encoder(image)
        reconstruction = self.decoder(self.to_mean(maps)).float()
        attention = F.interpolate(self.attention(maps), self.image_size, mode="bilinear", align_corners=True)
        score = residual_map(reconstruction, image, "l1").mean(dim=(1, 2, 3))
        return Prediction(score, 1 - attention, reconstruction)


class DecoderBlock(nn.Module):
    """Convolution, norm, ReLU, convolution, norm, plus shortcut, ReLU.

    Args:
        source: channels in.
        width: channels out.
        double: double the sides after the first convolution, with a 1x1 convolution and a norm as shortcut; else both
            widths are equal and the input is the shortcut.
    """

    def __init__(self, source: int, width: int, double: bool = False) -> None:
        super().__init__()
        self.doubles = double
        self.conv1, self.norm1 = nn.Conv2d(source, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        if self.doubles:
            self.shortcut, self.shortcut_norm = nn.Conv2d(source, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, source, H, W)``."""
        y, own = self.conv1(x), x
        if self.doubles:  # by nearest neighbours
            y, own = (F.interpolate(one, scale_factor=2.0) for one in (y, self.shortcut(x)))
            own = self.shortcut_norm(own)
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(y)))) + own)


def _sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    return mean + noise * (0.5 * log_variance).exp()


def _residual_encoder(backbone: str, weights: str, in_channels: int) -> nn.Sequential:
    """A ResNet's stages behind a new 7x7 stem without max-pooling, all trainable: a sixteenth of the sides."""
    whole = create_backbone(backbone, weights)
    parts: dict[str, Any] = dict(whole.named_children())
    stem = nn.Conv2d(in_channels, parts["bn1"].num_features, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(stem, parts["bn1"], nn.ReLU(), *(parts[f"layer{number}"] for number in range(1, 5)))


def _discriminator(in_channels: int) -> nn.Sequential:
    """Five halvings with batch norm, mean over places, one logit."""
    layers: list[nn.Module] = []
    widths = [32 << level for level in range(_DISCRIMINATOR_HALVINGS)]
    for source, target in itertools.pairwise([in_channels, *widths]):
        layers += [nn.Conv2d(source, target, 4, 2, 1, bias=False), nn.BatchNorm2d(target), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
