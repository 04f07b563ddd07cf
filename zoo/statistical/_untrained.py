"""What methods share that learn nothing."""

from zoo.module import AnomalyModule, Batch, Stage
from zoo.scoring.pooling import PoolingRule


class Untrained(AnomalyModule):
    """A map without any training; a subclass writes ``detect``. A fit leaves a checkpoint like any other method's.

    Args:
        image_size: (H, W) or (D, H, W) in pixels.
        in_channels: image channels.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
    ) -> None:
        super().__init__()

    def stages(self) -> tuple[Stage, ...]:
        """One pass that collects nothing."""
        return (Stage("collect", self.collect),)

    def collect(self, batch: Batch, batch_idx: int) -> None:
        """Nothing to learn."""
