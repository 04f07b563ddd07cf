"""Bayesian autoencoder: dropout stays on at test time, and the residual is that of the mean of many passes.

Pawlowski et al. 2018, "Unsupervised lesion detection in brain CT using Bayesian convolutional autoencoders"; with skip
connections Baur et al. 2020, "Bayesian skip-autoencoders for unsupervised hyperintense anomaly detection in high
resolution brain MRI" (the configuration ``bayesian_skip_ae``).
"""

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import check_divisible, conv_block
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_loss, residual_map


class BayesianAutoencoder(AnomalyModule):
    """Convolutional autoencoder with dropout at test time (Bayesian AE), with or without skip connections.

    Whole channels are dropped after every block; at test time by masks drawn once and the same for every image and
    call. Uncertainty: deviation over the passes. Widths are ours.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``.
        in_channels: image channels.
        hidden_dims: channels after each halving of the image; the last map is the code.
        skip: hand the encoder's maps, with dropout, to the decoder.
        dropout: probability of dropping a channel.
        samples: passes at test time.
        loss: ``l1`` or ``l2``; also the map.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
    """

    reference = {
        "title": "Unsupervised Lesion Detection in Brain CT using Bayesian Convolutional Autoencoders",
        "venue": "MIDL",
        "year": 2018,
        "url": "https://openreview.net/forum?id=S1hpzoisz",
    }
    tiny = {"image_size": 32, "hidden_dims": (4, 8), "samples": 2}
    small = {"samples": 8, "lr": 0.001}

    network: "DropoutAutoencoder"

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 64),
        skip: bool = False,
        dropout: float = 0.2,
        samples: int = 20,
        loss: Literal["l1", "l2"] = "l2",
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network and draw the masks of the test."""
        hp = self.hparams
        widths = tuple(hp["hidden_dims"])
        check_divisible(self.image_size, 2 ** len(widths), f"an autoencoder of {len(widths)} levels")
        self.network = DropoutAutoencoder(self.in_channels, widths, hp["skip"])
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(hp["samples"], sum(self.network.dropped), generator=generator) >= hp["dropout"]
        self.kept = nn.Buffer(drawn / (1 - hp["dropout"]), persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Error of one pass with dropout."""
        image = batch["image"]
        dropped = torch.rand(len(image), sum(self.network.dropped)).to(image.device) >= self.hparams["dropout"]
        reconstruction = self.network(image, dropped / (1 - self.hparams["dropout"]))
        loss = residual_loss(reconstruction, image, self.hparams["loss"])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Error of the mean reconstruction; deviation over the passes."""
        passes = torch.stack([self.network(image, kept.expand(image.shape[0], -1)).float() for kept in self.kept])
        mean = passes.mean(dim=0)
        uncertainty = passes.var(dim=0, correction=0).mean(dim=1, keepdim=True).sqrt()
        return Prediction(None, residual_map(mean, image, self.hparams["loss"]), mean, uncertainty)


class DropoutAutoencoder(nn.Module):
    """Encoder and decoder whose channels are multiplied with given factors after every block.

    Args:
        in_channels: image channels.
        widths: channels after each halving.
        skip: add the encoder's maps to the decoder's.

    Attributes:
        dropped: channels of each block, in the order of the factors.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], skip: bool) -> None:
        super().__init__()
        self.skip = skip
        falling = widths[::-1]
        self.encoder = nn.ModuleList(
            conv_block(nn.Conv2d(source, width, 3, stride=2, padding=1, bias=False), width)
            for source, width in itertools.pairwise((in_channels, *widths))
        )
        self.decoder = nn.ModuleList(
            conv_block(nn.ConvTranspose2d(source, width, 4, stride=2, padding=1, bias=False), width)
            for source, width in itertools.pairwise(falling)
        )
        self.to_image = nn.ConvTranspose2d(widths[0], in_channels, 4, stride=2, padding=1)
        self.dropped = (*widths, *falling[1:])

    def forward(self, image: Tensor, factors: Tensor) -> Tensor:
        """Reconstruction of ``(B, C, H, W)``.

        Args:
            image: see above.
            factors: ``(B, sum(dropped))``, 0 for dropped channels.
        """
        parts = iter(factors.to(image.dtype).split(self.dropped, dim=1))
        x, maps = image, []
        for block in self.encoder:
            x = block(x)
            x = x * next(parts)[:, :, None, None].to(x.dtype)
            maps.append(x)
        for number, block in enumerate(self.decoder):
            x = block(x)
            x = x * next(parts)[:, :, None, None].to(x.dtype)
            x = x + maps[-2 - number] if self.skip else x
        out: Tensor = self.to_image(x)
        return out
