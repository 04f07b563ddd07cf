"""ReContrast: reverse distillation with two teachers, one of which follows the data; each is rebuilt from the other.

Guo et al. 2023, "ReContrast: domain-specific anomaly detection via contrastive reconstruction" (arXiv 2306.02602).
"""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.module import Batch
from zoo.nn.features import FeatureExtractor, Statistics
from zoo.nn.losses import gate_gradient, global_cosine
from zoo.pretrained.reverse_distillation import Pairs, ReverseDistillation
from zoo.scoring.residual import cosine_map

_EASY, _HARD = -3.0, 1.0  # deviations from the mean distance below which places are easy: from the start to the end of
_RAMP = 0.1  # this share of the training


class ReContrast(ReverseDistillation):
    """Contrastive reconstruction of two encoders' features (ReContrast).

    1 or 3 channels.

    Args:
        statistics: batch norms of the trained encoder: ``frozen`` or ``batch``; the original chooses by the test set.
        encoder_lr: learning rate of AdamW over the encoder.
        weight_decay: of AdamW.
        lr: learning rate of AdamW over bottleneck and decoder.
        betas: of AdamW.
        **parent: arguments of :class:`~zoo.pretrained.reverse_distillation.ReverseDistillation`.
    """

    reference = {
        "title": "ReContrast: Domain-Specific Anomaly Detection via Contrastive Reconstruction",
        "venue": "NeurIPS",
        "year": 2023,
        "url": "https://arxiv.org/abs/2306.02602",
    }
    tiny = {"image_size": 32, "backbone": "resnet18", "layers": ("layer1", "layer2"), "weights": "random"}
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2", "blocks.4")}

    encoder: FeatureExtractor

    def __init__(
        self,
        *,
        statistics: Statistics = "frozen",
        encoder_lr: float = 1e-5,
        weight_decay: float = 1e-5,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        **parent: Any,
    ) -> None:
        super().__init__(lr=lr, betas=betas, **parent)

    def build(self) -> None:
        """Create the frozen teacher, its trained copy, the student and two heads for each layer."""
        super().build()
        options = {"differentiable": True, "statistics": self.hparams["statistics"]}
        self.encoder = self.frozen(*self.hparams["layers"], **options)
        self.encoder.load_state_dict(self.teacher.state_dict())
        self.encoder.requires_grad_(True)
        heads = (nn.ModuleList(nn.Conv2d(c, c, 1) for c in self.teacher.channels) for _ in range(2))
        self.frozen_heads, self.trained_heads = heads

    def pairs(self, image: Tensor) -> Pairs:
        """Of each layer the frozen features and what was made of the trained ones, then the reverse."""
        frozen, followed = self.teacher(image), self.encoder(image)
        both = self.student([torch.cat(maps) for maps in zip(followed, frozen, strict=True)])
        found: Pairs = []
        count = image.shape[0]
        halves = ((frozen, slice(None, count), self.frozen_heads), (followed, slice(count, None), self.trained_heads))
        for targets, half, heads in halves:
            made = [head(values[half]) for head, values in zip(heads, both, strict=True)]
            found += zip(targets, made, strict=True)
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Half the sum of 1 - cosine of whole maps; places that are easy by now send no gradient."""
        progress = self.staging.progress
        ramp = min(1.0, progress.done / max(1.0, _RAMP * progress.total))
        level = _EASY + (_HARD - _EASY) * ramp
        losses = []
        for target, made in self.pairs(batch["image"]):
            target = target.detach()
            distance = cosine_map(target, made.detach())
            gate_gradient(made, (distance >= distance.mean() + level * distance.std()).to(made.dtype))
            losses.append(global_cosine(target, made))
        loss = 0.5 * torch.stack(losses).sum()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with a constant rate each over the student with its heads, and over the encoder."""
        hp = self.hparams
        student = nn.ModuleList([self.student, self.frozen_heads, self.trained_heads])
        groups = [
            {"params": student.parameters()},
            {"params": self.encoder.parameters(), "lr": hp["encoder_lr"]},
        ]
        return torch.optim.AdamW(groups, lr=hp["lr"], betas=tuple(hp["betas"]), weight_decay=hp["weight_decay"])
