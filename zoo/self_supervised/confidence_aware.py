"""Confidence-aware self-supervised localisation by probabilistic Poisson image interpolation (P-PII).

Müller et al., "Confidence-aware and self-supervised image anomaly localisation", UNSURE 2023 (arXiv 2303.13227). Known
for certain are the abstract, the figure and the authors' generator; network, loss and inference are not published in
the sources at hand. What is inferred is marked so below.
"""

from typing import Any

import numpy as np
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor

from zoo.callbacks.uncertainty import UncertaintyCurves
from zoo.module import Batch, Prediction, batch_generator
from zoo.scoring.pooling import PoolingRule
from zoo.self_supervised._segmenter import UNetSegmenter
from zoo.synthetic.raters import RaterLaw
from zoo.synthetic.strategy import RatedTask, equalise_histogram, like_tasks, rated_batch


class ConfidenceAware(UNetSegmenter):
    """Confidence-aware detector trained by probabilistic Poisson image interpolation (P-PII).

    Stated (authors' generator): number of anomalies, raters, discs, gain, mixed gradients, averaging, label = ten times
    the change, spread of the raters as a second label; histogram equalisation. Inferred: the U-Net and its two heads
    (logit, log-spread), the loss, Monte-Carlo dropout, the cut of labels and images to [0, 1], the share of clean
    images, pooling to the score, optimiser.

    Args:
        task: what happens inside a rater's disc: ``mixed`` gradients (stated), or another task of the library under the
            same strategy, see :mod:`zoo.synthetic.strategy`.
        anomalies: lowest and highest number of anomalies (stated: 10 to 19).
        raters: lowest and highest number of raters of an anomaly (stated: 1 to 9).
        gain: lowest and highest factor of the source's gradients (stated: 10 to 19).
        clean: share of training images without anomalies (inferred).
        equalise: equalise the histogram of every image (stated; the algorithm is inferred: 64 levels, whole image).
        dropout: channel dropout on the two deepest stages (inferred).
        samples: Monte-Carlo passes at prediction; 1 without dropout (inferred).
        confidence: the map is the mean probability minus ``confidence`` times the uncertainty; 0 the mean (inferred).
        max_width: largest number of channels of the U-Net.
        score: how the map becomes a score.
        score_fraction: share of pixels for ``top_q``.
        **unet: arguments of :class:`~zoo.self_supervised._segmenter.UNetSegmenter`.
    """

    reference = {
        "title": "Confidence-Aware and Self-Supervised Image Anomaly Localisation",
        "venue": "UNSURE, MICCAI Workshop",
        "year": 2023,
        "url": "https://arxiv.org/abs/2303.13227",
    }
    tiny = {"image_size": 32, "depth": 3, "width": 4, "samples": 2, "anomalies": (1, 3), "raters": (1, 2)}
    small = {"depth": 3, "width": 8, "samples": 4}

    def __init__(
        self,
        *,
        task: RatedTask = "mixed",
        anomalies: tuple[int, int] = (10, 19),
        raters: tuple[int, int] = (1, 9),
        gain: tuple[int, int] = (10, 19),
        clean: float = 0.1,
        equalise: bool = True,
        dropout: float = 0.2,
        samples: int = 10,
        confidence: float = 0.0,
        max_width: int = 512,
        score: PoolingRule = "mean",
        score_fraction: float = 0.25,
        **unet: Any,
    ) -> None:
        super().__init__(max_width=max_width, score=score, score_fraction=score_fraction, **unet)

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Both blends, or the task under the raters."""
        return like_tasks(self.hparams["task"])

    def build(self) -> None:
        """Create the U-Net with its two heads."""
        self.network = self.unet(out_channels=2, dropout=self.hparams["dropout"])
        if self.hparams["samples"] > 1:
            self.network.fix_dropout(self.hparams["samples"])

    def prepare(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` cut to [0, 1], equalised if asked for."""
        unit = image.clamp(0, 1)
        return equalise_histogram(unit) if self.hparams["equalise"] else unit

    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Altered images, labels and the raters' spreads ``(B, 1, H, W)`` in [0, 1], wherever the foreground is."""
        h = self.hparams
        law = RaterLaw(tuple(h["anomalies"]), tuple(h["raters"]), tuple(h["gain"]))
        return rated_batch(image, rng, task=h["task"], law=law, clean=h["clean"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy with the soft label, and squared error of the spread."""
        altered, label, spread = self.make_anomalies(self.prepare(batch["image"]), batch_generator())
        logit, raw_spread = self.network(altered).float().chunk(2, dim=1)
        loss = F.binary_cross_entropy_with_logits(logit, label) + 0.5 * F.mse_loss(F.softplus(raw_spread), spread)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
        return loss

    def configure_callbacks(self) -> list[Callback]:
        """A test also says whether the error falls when the most uncertain pixels are left out."""
        return [UncertaintyCurves()] if self.hparams["confidence"] == 0 else []

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mean probability over dropout masks, always the same; uncertainty: their variance and the spread, added."""
        logits, raw_spreads = self.network.monte_carlo(self.prepare(image)).float().chunk(2, dim=2)
        probability, spread = logits.sigmoid(), F.softplus(raw_spreads).mean(0)
        uncertainty = (probability.var(0, correction=0) + spread**2).sqrt()
        return Prediction(None, probability.mean(0) - self.hparams["confidence"] * uncertainty, None, uncertainty)
