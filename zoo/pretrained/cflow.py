"""CFLOW-AD: conditional flows of a frozen backbone's feature vectors, each given its place in the image.

Gudovskiy et al. 2022, "CFLOW-AD: real-time unsupervised anomaly detection with localization via conditional normalizing
flows" (arXiv 2107.12571).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Batch, Prediction, Stage
from zoo.nn.features import FeatureExtractor
from zoo.nn.fitted import FittedStatistics
from zoo.nn.flows import Flow
from zoo.nn.processes import process_count
from zoo.nn.vit import sincos_positions
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule

_WARM_UP = 2 / 25  # share of the training in which the rate rises, from a tenth
_LAST_RATE = 1e-3


class CFLOW(FrozenFeatures):
    """Conditional flows of single feature vectors (CFLOW-AD).

    1 or 3 channels. Every batch's places are shuffled and cut into fibres of ``fibre`` vectors, with a step of the
    optimiser each: at 256 pixels and 32 images some 170 steps a batch. The original scales maps by maxima over the test
    set; here each layer's maximum over the training images is collected after the training.

    Args:
        layers: layers of the backbone, each with a flow of its own.
        steps: couplings of each flow.
        condition_channels: sine-cosine code of the place, divisible by 4.
        clamp: bound of the logarithm of a scale.
        soft_permutation: mix channels by a random orthogonal matrix (the original) or by an order (its ports).
        fibre: vectors a step of the optimiser.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam; it rises in the first 2/25 of the training and falls along a cosine to a thousandth.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.
    """

    reference = {
        "title": "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via Conditional Normalizing "
        "Flows",
        "venue": "WACV",
        "year": 2022,
        "url": "https://arxiv.org/abs/2107.12571",
    }
    tiny = {
        "image_size": 32,
        "backbone": "resnet18",
        "layers": ("layer1", "layer2"),
        "weights": "random",
        "steps": 2,
        "condition_channels": 8,
        "fibre": 64,
    }
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4"), "fibre": 1024}

    extractor: FeatureExtractor
    healthy: FittedStatistics

    def __init__(
        self,
        *,
        backbone: str = "wide_resnet50_2",
        layers: tuple[str, ...] = ("layer2", "layer3", "layer4"),
        steps: int = 8,
        condition_channels: int = 128,
        clamp: float = 1.9,
        soft_permutation: bool = True,
        fibre: int = 256,
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        lr: float = 2e-4,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)
        self.automatic_optimization = False

    def build(self) -> None:
        """Create the extractor, and a flow and the codes of its places for each layer."""
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])

        def subnet(source: int, target: int) -> nn.Module:
            return nn.Sequential(nn.Linear(source, 2 * source), nn.ReLU(), nn.Linear(2 * source, target))

        self.flows = nn.ModuleList()
        for number, (channels, stride) in enumerate(zip(self.extractor.channels, self.extractor.strides, strict=True)):
            rows, columns = (-(-side // stride) for side in self.image_size)
            code = sincos_positions(hp["condition_channels"], (rows, columns), cls_token=False)
            self.register_buffer(f"code_{number}", code, persistent=False)
            flow = Flow(
                channels,
                [subnet] * hp["steps"],
                clamp=hp["clamp"],
                condition_channels=hp["condition_channels"],
                soft=hp["soft_permutation"],
            )
            self.flows.append(flow)
        self.healthy = FittedStatistics("largest")

    def stages(self) -> tuple[Stage, ...]:
        """Train the flows, then collect how likely healthy places become."""
        return Stage("optimise", self._train), Stage("collect", self._collect, self._finish)

    def vectors(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each layer the vectors of all places ``(B * h * w, C)``, float32, and their places' codes."""
        found = []
        for number, values in enumerate(self.extractor(image)):
            code: Tensor = getattr(self, f"code_{number}")
            found.append((values.float().flatten(2).mT.flatten(0, 1), code.repeat(values.shape[0], 1)))
        return found

    def likelihood(self, number: int, vectors: Tensor, codes: Tensor) -> Tensor:
        """Log likelihood ``(N,)`` of a layer's vectors, divided by their length."""
        with torch.autocast(vectors.device.type, enabled=False):
            z, determinant = self.flows[number](vectors, codes)
        channels = vectors.shape[1]
        constant = 0.5 * channels * math.log(2 * math.pi)
        found: Tensor = (determinant - 0.5 * z.square().sum(dim=1) - constant) / channels
        return found

    def _train(self, batch: Batch, batch_idx: int) -> None:
        optimiser: Any = self.optimizers()
        losses = []
        for number, (vectors, codes) in enumerate(self.vectors(batch["image"])):
            order = torch.randperm(len(vectors)).to(vectors.device)
            for fibre in order.split(self.hparams["fibre"]):
                loss = -F.logsigmoid(self.likelihood(number, vectors[fibre], codes[fibre])).mean()
                optimiser.zero_grad()
                self.manual_backward(loss)
                optimiser.step()
                losses.append(loss.detach())
        schedule: Any = self.lr_schedulers()
        schedule.step()
        self.log("train/loss", torch.stack(losses).mean())

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        found = torch.stack([self.likelihood(n, *pair).max() for n, pair in enumerate(self.vectors(batch["image"]))])
        before = self.healthy.largest
        self.healthy.largest = torch.maximum(before, found) if before.numel() else found

    def _finish(self) -> None:
        if process_count() > 1:
            torch.distributed.all_reduce(self.healthy.largest, torch.distributed.ReduceOp.MAX)

    def configure_optimizers(self) -> Any:
        """Adam; the rate rises for a short while and falls along a cosine, by batches."""
        total = max(1, self.optimise_batches)
        warm_up = max(1, round(_WARM_UP * total))

        def rate(batch: int) -> float:
            fall = _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, batch / total)))
            return (0.1 + 0.9 * batch / warm_up) * fall if batch < warm_up else fall

        optimizer = torch.optim.Adam(self.flows.parameters(), lr=self.hparams["lr"])
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, rate)]

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """By how much the layers' likelihoods, each relative to its largest on healthy images, fall short of 1.

        Raises:
            UserError: the largest likelihoods were not collected yet.
        """
        if not self.healthy.fitted:
            raise UserError("CFLOW has no healthy likelihoods yet: run fit, or load a checkpoint of a finished fit")
        maps = []
        for number, (values, stride) in enumerate(zip(self.vectors(image), self.extractor.strides, strict=True)):
            grid = tuple(-(-side // stride) for side in image.shape[2:])
            found = self.likelihood(number, *values).view(image.shape[0], 1, *grid)
            relative = (found - self.healthy.largest[number]).clamp(max=0).exp()
            maps.append(F.interpolate(relative, size=image.shape[2:], mode="bilinear", align_corners=True))
        return Prediction(None, len(maps) - torch.stack(maps).sum(dim=0))
