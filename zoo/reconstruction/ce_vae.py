"""Variational autoencoder that also learns to fill in covered squares from their surroundings.

Zimmerer et al. 2018, "Context-encoding variational autoencoder for unsupervised anomaly detection" (arXiv 1812.05941).
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.reconstruction.vae import VAEScore, VariationalAutoencoder
from zoo.scoring.residual import residual_loss


class ContextEncodingVAE(VariationalAutoencoder):
    """Context-encoding variational autoencoder (ceVAE).

    Beside the loss of a VAE, the reconstruction from the mean code of an image with covered squares is held against
    the whole image. Maps and scores are those of :class:`VariationalAutoencoder`.

    The network is that of the authors' code for the MOOD challenge: a code of 128 that whole-map convolutions make and
    read. It was fed images in [-1, 1], where an absolute error is twice as large beside the KL term; here it is [0, 1].

    Args:
        network: ``original``: a leaky ReLU before the first decoder block, gradients smoothed over 8 x 8 pixels;
            ``dense``: as :class:`VariationalAutoencoder`, and files from before this option.
        hidden_dims: channels after each halving of the image.
        latent_dim: length of the code; the paper tries up to 512.
        loss: reconstruction error, ``l1`` or ``l2``.
        kl_weight: weight of the KL term beside the reconstruction error, both averages.
        context_weight: share of the context encoding's error in the loss; the VAE's loss has the rest.
        max_squares: an image gets 0 to this many squares of up to half its sides, each of one value drawn between
            the image's extremes.
        score: see :class:`VariationalAutoencoder`.
        lr: learning rate of Adam.
        **vae: arguments of :class:`VariationalAutoencoder`.
    """

    reference = {
        "title": "Context-encoding Variational Autoencoder for Unsupervised Anomaly Detection",
        "venue": "MIDL",
        "year": 2019,
        "url": "https://arxiv.org/abs/1812.05941",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
    small = {"hidden_dims": (16, 32, 64, 128), "latent_dim": 64, "lr": 1e-3}

    before: ClassVar[dict[str, Any]] = {"network": "dense"}

    def __init__(
        self,
        *,
        network: Literal["original", "dense"] = "original",
        hidden_dims: tuple[int, ...] = (16, 64, 256, 1024),
        latent_dim: int = 128,
        loss: Literal["l1", "l2"] = "l1",
        kl_weight: float = 0.01,
        context_weight: float = 0.5,
        max_squares: int = 3,
        score: VAEScore = "elbo",
        lr: float = 1e-4,
        **vae: Any,
    ) -> None:
        super().__init__(
            hidden_dims=hidden_dims, latent_dim=latent_dim, loss=loss, kl_weight=kl_weight, score=score, lr=lr, **vae
        )

    @property
    def smoothing_side(self) -> int:
        """That of the chosen network."""
        return 8 if self.hparams["network"] == "original" else super().smoothing_side

    def build(self) -> None:
        """Create the network; its encoder puts out mean and log variance."""
        original = self.hparams["network"] == "original"
        self.network = self.dense(code_dim=2 * self.hparams["latent_dim"], activated=original)

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """Loss of the VAE on the image, error of the context encoding on its covered copy."""
        losses, weight = super().losses(image), self.hparams["context_weight"]
        covered_mean, _ = self.encode(cover_squares(image, self.hparams["max_squares"]))
        context = residual_loss(self.network.decode(covered_mean), image, self.hparams["loss"])
        return {**losses, "loss": (1 - weight) * losses["loss"] + weight * context, "context": context}


def cover_squares(image: Tensor, max_squares: int = 3) -> Tensor:
    """Copies with 0 to ``max_squares`` squares, each filled with one value from the image's range.

    Args:
        image: ``(B, C, H, W)``.
        max_squares: the number of squares of each image is drawn uniformly.
    """
    count, _, height, width = image.shape
    low, high = image.amin(dim=(1, 2, 3)), image.amax(dim=(1, 2, 3))
    squares = torch.randint(max_squares + 1, (count,), device=image.device)
    rows = torch.arange(height, device=image.device)[:, None]
    columns = torch.arange(width, device=image.device)
    covered = image
    for number in range(max_squares):
        top, left, size, value = torch.rand(4, count, 1, 1, device=image.device)
        side = 1 + size * (min(height, width) // 2 - 1)
        inside = _within(rows, top, side, height) & _within(columns, left, side, width)
        inside = inside & (number < squares).view(-1, 1, 1)
        fill = low.view(-1, 1, 1) + value * (high - low).view(-1, 1, 1)
        covered = torch.where(inside.unsqueeze(1), fill.unsqueeze(1), covered)
    return covered


def _within(position: Tensor, start: Tensor, side: Tensor, length: int) -> Tensor:
    first = (start * (length - side)).round()
    return (position >= first) & (position < first + side.round())
