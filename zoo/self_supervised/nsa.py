"""Natural synthetic anomalies.

Schlüter et al., "Natural synthetic anomalies for self-supervised anomaly detection and localization", ECCV 2022
(arXiv 2109.15222). Rescaled patches of other healthy images, at other places, blended by Poisson editing; the label
says how visible the change is.
"""

import logging
from typing import Any

import numpy as np
from torch import Tensor

from zoo.errors import UserError
from zoo.sample import DataSource
from zoo.self_supervised._segmenter import ResidualSegmenter, beside
from zoo.synthetic.natural import CONSTANTS, DataSet, NaturalConstants, add_to_batch, calibrate, with_changes
from zoo.synthetic.rectangles import BlendMode, LabelMode
from zoo.synthetic.strategy import RatedTask, rated_batch

_RATED: dict[BlendMode, RatedTask] = {"mixed": "mixed", "source": "replace", "swap": "swap"}
_log = logging.getLogger(__name__)


class NaturalSyntheticAnomalies(ResidualSegmenter):
    """Natural synthetic anomalies (NSA).

    Deviations: ``mixed`` takes the larger gradient per component, as the Poisson-editing literature has it, where the
    original's OpenCV compares ``|dx - dy|`` of both images per pixel; the mask is not eroded before blending (OpenCV
    keeps the image's own gradient in a rim of 3 pixels); images stay floating; a source patch is drawn inside the image
    instead of being cut at its border; no random turns and crops of the training images; and the network is the
    residual encoder-decoder of FPI, so that the family compares tasks and not networks.

    Args:
        constants: data set of the paper whose sizes, logistic, gradients and background are taken (``texture``: all
            textures but wood); ``auto``: calibrated on the training images and their foreground as in nnOOD.
        blend: ``mixed`` or ``source`` gradients, or ``swap`` for a plain paste; None: that of ``constants`` (mixed for
            X-rays and textures, source for objects).
        label: ``logistic`` in the change, or ``binary``.
        same_image: take patches from the image itself, as CutPaste does.
        steepness: of the logistic label, per grey level of 256; this and the following: None: that of ``constants``.
        midpoint: change in grey levels that gives 0.5.
        largest: bound of a patch's half-width as a share of the side.
        min_object: share of a patch that must be foreground.
        min_overlap: share of its foreground that must fall on foreground.
        patches: most patches in an image.
        background: grey level (0 to 255) of the background; below 0: everything is foreground.
        background_tolerance: in grey levels.
        strategy: put the confidence-aware strategy around the task (:mod:`zoo.synthetic.strategy`): histograms
            equalised, gradients scaled up and raters averaged; places, sizes and label are then its own.
        **residual: arguments of :class:`~zoo.self_supervised._segmenter.ResidualSegmenter`.
    """

    reference = {
        "title": "Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization",
        "venue": "ECCV",
        "year": 2022,
        "url": "https://arxiv.org/abs/2109.15222",
    }
    tiny = {"image_size": 32, "widths": (8, 16, 16)}
    small = {"widths": (8, 16, 32, 32)}

    def __init__(
        self,
        *,
        constants: DataSet = "chest_xray",
        blend: BlendMode | None = None,
        label: LabelMode = "logistic",
        same_image: bool = False,
        steepness: float | None = None,
        midpoint: float | None = None,
        largest: float | None = None,
        min_object: float | None = None,
        min_overlap: float | None = None,
        patches: int | None = None,
        background: float | None = None,
        background_tolerance: float | None = None,
        strategy: bool = False,
        **residual: Any,
    ) -> None:
        super().__init__(**residual)
        self._constants: NaturalConstants | None = None

    def prepare_fit(self, data: DataSource | None) -> None:
        """Calibrate, if the constants are not those of a known data set."""
        if self.hparams["constants"] != "auto" or self.hparams["strategy"]:
            return
        if data is None or not hasattr(data, "dataset"):
            raise UserError(
                "model.constants auto calibrates on the training set and needs a DataModule; name a data set"
            )
        images = data.dataset("train")
        batch = images.__getitems__(list(np.linspace(0, len(images) - 1, min(len(images), 500)).round().astype(int)))
        unit, inside = self.to_expected(batch["image"]).clamp(0, 1).numpy(), batch["foreground"][:, 0].numpy()
        self._constants = calibrate(unit, inside, np.random.default_rng(0), self.hparams["blend"] or "mixed")
        _log.info("NSA constants of these data: %s", self._constants)

    def natural_constants(self) -> NaturalConstants:
        """The constants of the data set, with what the user set over them.

        Raises:
            UserError: ``auto`` before a fit.
        """
        found = self._constants or CONSTANTS.get(self.hparams["constants"])
        if found is None:
            raise UserError("model.constants auto is calibrated when a fit starts; name a data set to draw without one")
        return with_changes(found, self.hparams)

    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Patches of the other images; ``auto`` finds objects by the foreground, others by the background's grey."""
        h, c = self.hparams, self.natural_constants()
        image = image.clamp(0, 1)
        if h["strategy"]:
            return rated_batch(image, rng, task=_RATED[c.blend], same_image=h["same_image"])[:2]
        inside = None if foreground is None or h["constants"] != "auto" else foreground[:, 0].cpu().numpy()
        parts = add_to_batch(image.cpu().numpy(), rng, c, inside, label=h["label"], same_image=h["same_image"])
        return beside(image, *parts)
