"""FastFlow: 2-D normalising flows of a frozen backbone's maps; unlikely places are anomalous.

Yu et al. 2021, "FastFlow: unsupervised anomaly detection and localization via 2D normalizing flows" (arXiv 2111.07677).
The authors' code is not public; details as in the ports.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Batch, Prediction
from zoo.nn.features import FeatureExtractor
from zoo.nn.flows import Flow, Subnet
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule


class FastFlow(FrozenFeatures):
    """Two-dimensional flows of feature maps (FastFlow).

    1 or 3 channels. The norms before the flows have a factor at every place: they tie a model to its image size.

    Args:
        layers: layers of the backbone, each with a flow of its own.
        steps: couplings of each flow.
        kernels: sides of the subnets' convolutions, taken in turn: (3,) for ResNet-18, (3, 1) for wide ResNets.
        hidden_ratio: width of the subnets over their input's.
        clamp: bound of the logarithm of a scale.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
        weight_decay: of Adam.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; the paper's backbones are
            ``resnet18``, ``wide_resnet50_2`` and two transformers.
    """

    reference = {
        "title": "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows",
        "venue": "arXiv",
        "year": 2021,
        "url": "https://arxiv.org/abs/2111.07677",
    }
    tiny = {"image_size": 32, "layers": ("layer1", "layer2"), "weights": "random", "steps": 2}
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4")}

    extractor: FeatureExtractor

    def __init__(
        self,
        *,
        backbone: str = "resnet18",
        layers: tuple[str, ...] = ("layer1", "layer2", "layer3"),
        steps: int = 8,
        kernels: tuple[int, ...] = (3,),
        hidden_ratio: float = 1.0,
        clamp: float = 2.0,
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 1e-5,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create the extractor, and a norm and a flow for each layer."""
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])
        kernels = [hp["kernels"][number % len(hp["kernels"])] for number in range(hp["steps"])]

        def subnet(kernel: int) -> Subnet:
            def make(source: int, target: int) -> nn.Module:
                hidden = max(1, int(source * hp["hidden_ratio"]))
                first, last = (nn.Conv2d(*io, kernel, padding="same") for io in ((source, hidden), (hidden, target)))
                return nn.Sequential(first, nn.ReLU(), last)

            return make

        self.norms, self.flows = nn.ModuleList(), nn.ModuleList()
        for channels, stride in zip(self.extractor.channels, self.extractor.strides, strict=True):
            self.norms.append(nn.LayerNorm((channels, *(-(-side // stride) for side in self.image_size))))
            self.flows.append(Flow(channels, [subnet(kernel) for kernel in kernels], clamp=hp["clamp"]))

    def latents(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each layer the latent ``(B, C, h, w)`` and the log determinant ``(B, h, w)``, float32."""
        maps = [values.float() for values in self.extractor(image)]
        with torch.autocast(image.device.type, enabled=False):
            return [flow(norm(values)) for values, norm, flow in zip(maps, self.norms, self.flows, strict=True)]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Negative log likelihood of whole maps, without its constant; summed over the layers."""
        parts = self.latents(batch["image"])
        losses = [0.5 * z.square().sum(dim=(1, 2, 3)) - determinant.sum(dim=(1, 2)) for z, determinant in parts]
        loss = torch.stack(losses).sum(dim=0).mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate over norms and flows."""
        trained = [*self.norms.parameters(), *self.flows.parameters()]
        return torch.optim.Adam(trained, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mean over the layers of minus the likelihood's exponential, each resized to the image."""
        maps = [
            F.interpolate(-(-0.5 * z.square().mean(dim=1, keepdim=True)).exp(), size=image.shape[2:], mode="bilinear")
            for z, _ in self.latents(image)
        ]
        return Prediction(None, torch.stack(maps).mean(dim=0))
