"""What convolutional autoencoders share: sizes, one optimiser, and the residual as loss and as map."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import DenseAutoencoder, Norm, SpatialAutoencoder
from zoo.nn.schedules import trained
from zoo.scoring.residual import ResidualKind, residual_loss, residual_map


class Reconstructor(AnomalyModule):
    """An autoencoder, and how far an image lies from its reconstruction; a subclass writes ``build``.

    The output is not bounded. What a paper adds to the loss goes into :meth:`losses`, another map into :meth:`detect`.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``, with instance norm at least twice that.
        in_channels: image channels.
        hidden_dims: channels after each halving of the image.
        latent_dim: length of the code, or channels of its map.
        norm: ``batch``, ``instance`` or ``none``.
        lr: learning rate of Adam, constant.

    Class attributes:
        residual: of loss and map.
    """

    residual: ClassVar[ResidualKind] = "l2"

    network: nn.Module

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 64),
        latent_dim: int = 16,
        norm: Norm = "batch",
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    def dense(self, **options: Any) -> DenseAutoencoder:
        """An autoencoder of the method's sizes with a dense code.

        Args:
            **options: further ones of :class:`~zoo.nn.convolutional.DenseAutoencoder`.
        """
        return DenseAutoencoder(self.in_channels, self.image_size, **self._sizes(), **options)

    def spatial(self, level: int = 0, **options: Any) -> SpatialAutoencoder:
        """An autoencoder of the method's sizes whose code is a map.

        Args:
            level: how often its images have been halved before.
            **options: further ones of :class:`~zoo.nn.convolutional.SpatialAutoencoder`.
        """
        size = tuple(side // 2**level for side in self.image_size)
        return SpatialAutoencoder(self.in_channels, size, **self._sizes(), **options)

    def _sizes(self) -> dict[str, Any]:
        hp = self.hparams
        return {"hidden_dims": tuple(hp["hidden_dims"]), "latent_dim": hp["latent_dim"], "norm": hp["norm"]}

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """The loss of images ``(B, C, H, W)`` under ``loss``, and the parts of it that are logged."""
        return {"loss": residual_loss(self.network(image), image, self.residual)}

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """The loss of a batch."""
        losses = self.losses(batch["image"])
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        return losses["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(trained(self), lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """The residual, averaged over channels."""
        reconstruction = self.network(image).float()
        return Prediction(None, residual_map(reconstruction, image, self.residual), reconstruction)
