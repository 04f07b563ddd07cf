"""Multi-scale structural similarity: the global index of an image, and a size-preserving error map.

Wang, Simoncelli and Bovik 2003, "Multiscale structural similarity for image quality assessment". Everything in float32
whatever the autocast: ``E[x^2] - E[x]^2`` cancels in half precision.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SIGMA = 1.5


def usable_weights(size: tuple[int, int], window: int = 11, weights: tuple[float, ...] = WEIGHTS) -> tuple[float, ...]:
    """Weights of the scales on which a window still fits, renormalised to sum to 1; the first scale always stays.

    Args:
        size: image height and width in pixels; five scales of window 11 need at least 161.
        window: side of the Gaussian window in pixels.
        weights: one for each scale, finest first.
    """
    count, side = 0, min(size)
    while count < len(weights) and (side >= window or count == 0):
        count, side = count + 1, (side + 1) // 2
    total = sum(weights[:count])
    return tuple(weight / total for weight in weights[:count])


def ms_ssim_error_map(
    x: Tensor, y: Tensor, window: int = 11, data_range: float = 1.0, weights: tuple[float, ...] = WEIGHTS
) -> Tensor:
    """Weighted sum over scales of ``1 - relu(SSIM)``, every scale at full size (reflect padding, bilinear upsampling).

    Args:
        x: images ``(B, C, H, W)``, in [0, data_range].
        y: ``(B, S, C, H, W)``, S candidates for each image; the blurs of ``x`` alone are computed once.
        window: side of the Gaussian window (sigma 1.5) in pixels, odd; scales smaller than it are left out.
        data_range: dynamic range L of the constants (0.01 L)^2 and (0.03 L)^2.
        weights: of the scales, finest first; normalised to sum to 1.

    Returns:
        float32 ``(B, S, 1, H, W)`` in [0, 1], averaged over channels; exactly 0 where the two are equal.
    """
    with torch.autocast(x.device.type, enabled=False):
        a, b = x.float().unsqueeze(1), y.float()
        size = (int(b.shape[-2]), int(b.shape[-1]))
        total = torch.zeros((*b.shape[:2], *size), device=b.device)
        for scale, weight in enumerate(usable_weights(size, window, weights)):
            if scale:
                a, b = _halve(a), _halve(b)
            luminance, structure = _terms(a, b, window, data_range, valid=False)
            error = 1.0 - (luminance * structure).relu().mean(dim=2)
            total = total + weight * F.interpolate(error, size=size, mode="bilinear", align_corners=False)
        return total.unsqueeze(2)


def ms_ssim(
    x: Tensor,
    y: Tensor,
    window: int = 11,
    data_range: float = 1.0,
    weights: tuple[float, ...] = WEIGHTS,
    floor: float = 0.0,
) -> Tensor:
    """Multi-scale SSIM of each image over the valid region, channels averaged last, as pytorch-msssim computes it.

    Args:
        x: ``(B, C, H, W)``.
        y: ``(B, C, H, W)``.
        window: side of the Gaussian window in pixels, odd.
        data_range: dynamic range.
        weights: exponents of the scales, finest first; used as they are when all scales fit, else renormalised.
        floor: lower bound of the factors. 0 gives 0 for any image with a negative contrast term (ties); 1e-12 keeps
            such images apart.

    Returns:
        float32 ``(B,)``, 1 = equal.
    """
    with torch.autocast(x.device.type, enabled=False):
        a, b = x.float(), y.float()
        usable = usable_weights((int(a.shape[-2]), int(a.shape[-1])), window, weights)
        exponents = weights if len(usable) == len(weights) else usable
        index = torch.ones(a.shape[:2], device=a.device)
        for scale, exponent in enumerate(exponents):
            if scale:
                a, b = _halve(a, include_pad=True), _halve(b, include_pad=True)
            luminance, structure = _terms(a, b, window, data_range, valid=True)
            factor = structure if scale < len(exponents) - 1 else luminance * structure
            index = index * factor.mean(dim=(-2, -1)).clamp(min=floor) ** exponent
        return index.mean(dim=1)


def _halve(x: Tensor, include_pad: bool = False) -> Tensor:
    """2 x 2 averaging; an odd side gets one more pixel (zero padding in front counted in pytorch-msssim's way)."""
    flat = x.flatten(0, -4) if x.ndim > 4 else x
    if include_pad:
        flat = F.avg_pool2d(flat, 2, padding=(flat.shape[-2] % 2, flat.shape[-1] % 2))
    else:
        flat = F.avg_pool2d(flat, 2, ceil_mode=True)
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def _terms(a: Tensor, b: Tensor, window: int, data_range: float, valid: bool) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure terms of SSIM, broadcasting ``a`` against ``b``."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    rows = _blur_matrix(a.shape[-2], window, valid, a.device)
    columns = _blur_matrix(a.shape[-1], window, valid, a.device).T

    def blur(t: Tensor) -> Tensor:
        return rows @ (t @ columns)

    mean_a, mean_b = blur(a), blur(b)
    square_a, square_b, product = mean_a**2, mean_b**2, mean_a * mean_b
    covariance = blur(a * b) - product
    variances = (blur(a * a) - square_a) + (blur(b * b) - square_b)
    return (2 * product + c1) / (square_a + square_b + c1), (2 * covariance + c2) / (variances + c2)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a matrix first made while testing must serve training too
def _blur_matrix(size: int, window: int, valid: bool, device: torch.device) -> Tensor:
    """Banded matrix of the 1-D Gaussian: ``(size, size)`` with reflected borders, or the valid rows alone.

    A matrix product keeps float32 where cuDNN's convolutions would use TF32 by default, and folds the padding in.
    """
    window = min(window, size if size % 2 else size - 1) if size > 1 else 1
    offsets = torch.arange(window) - window // 2
    line = torch.exp(-(offsets.double() ** 2) / (2 * _SIGMA**2))
    line = line / line.sum()
    centre = torch.arange(size).unsqueeze(1)
    position = (centre + offsets).abs()
    position = torch.where(position >= size, 2 * (size - 1) - position, position)
    matrix = torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, position, line.expand(size, -1))
    if valid:
        matrix = matrix[window // 2 : size - window // 2]
    return matrix.float().to(device)
