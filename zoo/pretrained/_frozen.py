"""What methods over a frozen backbone share: the backbone, and how its maps are taken."""

from typing import Any

from zoo.module import AnomalyModule
from zoo.nn.features import FeatureExtractor


class FrozenFeatures(AnomalyModule):
    """A method over feature maps of a pretrained network; a subclass says which layers, and what is made of them.

    Args:
        image_size: (H, W) in pixels.
        in_channels: 1 or 3.
        backbone: a timm model.
        weights: ``imagenet``, ``random``, or the path of a state dict of torchvision or timm.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        backbone: str = "resnet18",
        weights: str = "imagenet",
    ) -> None:
        super().__init__()

    def frozen(self, *layers: str, **options: Any) -> FeatureExtractor:
        """The backbone's maps, with its weights.

        Args:
            *layers: see :class:`~zoo.nn.features.FeatureExtractor`.
            **options: further ones.
        """
        hp = self.hparams
        given = {"weights": hp["weights"], "in_channels": self.in_channels, **options}
        return FeatureExtractor(hp["backbone"], layers, **given)
