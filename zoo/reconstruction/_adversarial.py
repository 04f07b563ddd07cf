"""What adversarial trainings share: players with an optimiser each, and a word when one of them collapses."""

from abc import abstractmethod
from typing import ClassVar

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from zoo.callbacks.collapse import TellCollapse
from zoo.module import AnomalyModule, Batch, Stage


class Adversarial(AnomalyModule):
    """Networks that play against each other, each player with its own Adam; a subclass writes ``build`` and the game.

    Args:
        image_size: (H, W) in pixels.
        in_channels: image channels.
        latent_dim: length of the code, or channels of its map.
        lr: learning rate of all Adams, constant.

    Class attributes:
        betas: of all Adams.
    """

    expects = (-1.0, 1.0)  # generators end in a hyperbolic tangent
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        latent_dim: int = 128,
        lr: float = 2e-4,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False

    @abstractmethod
    def players(self) -> tuple[list[nn.Module], ...]:
        """The networks of each player."""

    @abstractmethod
    def play(self, image: Tensor) -> dict[str, Tensor]:
        """Let every player step once, by :func:`~zoo.nn.adversarial.player_step`.

        Args:
            image: ``(B, C, H, W)``.

        Returns:
            dict: losses to be logged.
        """

    def stages(self) -> tuple[Stage, ...]:
        """One stage: the trainer's steps count batches, not the steps of all players."""
        return (Stage("optimise", self.step),)

    def step(self, batch: Batch, batch_idx: int) -> None:
        """One batch of the game."""
        self.log_losses(self.play(batch["image"]))

    def log_losses(self, losses: dict[str, Tensor]) -> None:
        """Log them under ``train/``."""
        self.log_dict({f"train/{name}": value for name, value in losses.items()})

    def configure_callbacks(self) -> list[Callback]:
        """A collapsed player is told."""
        return [TellCollapse()]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for each player, in their order."""
        lr, betas = self.hparams["lr"], self.betas
        return [torch.optim.Adam(nn.ModuleList(parts).parameters(), lr=lr, betas=betas) for parts in self.players()]
