"""Poisson image interpolation.

Tan et al., "Detecting outliers with Poisson image interpolation", MICCAI 2021 (arXiv 2107.02622): foreign patch
interpolation in the gradient domain, so that no seam gives the patch away.
"""

from torch import Tensor

from zoo.self_supervised.fpi import ForeignPatchInterpolation
from zoo.synthetic.blending import poisson_interpolate


class PoissonImageInterpolation(ForeignPatchInterpolation):
    """Poisson image interpolation (PII).

    As FPI, with the larger of ``alpha`` times the foreign gradient and ``1 - alpha`` times the own one in the patch.
    The original solves for the whole image and clips to the batch's range; here only the patch is solved, with the
    same result, and each image is clipped to the range of its pair, so that it does not depend on the others.
    """

    reference = {
        "title": "Detecting Outliers with Poisson Image Interpolation",
        "venue": "MICCAI",
        "year": 2021,
        "url": "https://arxiv.org/abs/2107.02622",
    }
    tiny = {"image_size": 32, "widths": (8, 16, 16)}
    small = {"widths": (8, 16, 32, 32)}
    rated_task = "interpolate"

    def interpolate(self, own: Tensor, other: Tensor, alpha: float, bounds: tuple[Tensor, Tensor]) -> Tensor:
        """Blend a patch ``(C, h, w)`` of the other image into the own one; arguments as in FPI."""
        if min(own.shape[1:]) < 3:
            return own
        return poisson_interpolate(own, other, alpha, (0, 0)).clamp(*bounds)
