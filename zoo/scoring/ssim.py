"""Structural similarity with zero padding: the map, and a loss whose gradient is computed in the same pass.

Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", as the structural feature
autoencoder uses it (Meissen et al. 2022): Gaussian window of sigma 1.5, size-preserving zero padding, biased moments,
C1 = (0.01 L)^2 and C2 = (0.03 L)^2 for a dynamic range L, full product, no clamping.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_SIGMA = 1.5
# Blurs of one such block of floats stay in a CPU core's cache (1 MiB each).
_BLOCK_ELEMENTS = 1 << 18


class _Moments(NamedTuple):
    """Factors of the similarity 4 a1 a2 / (b1 b2) with the means that they are made of."""

    mean_x: Tensor
    mean_y: Tensor
    luminance: Tensor  # a1 = mu_x mu_y + C1 / 2
    structure: Tensor  # a2 = sigma_xy + C2 / 2
    luminance_norm: Tensor  # b1 = mu_x^2 + mu_y^2 + C1
    structure_norm: Tensor  # b2 = sigma_x^2 + sigma_y^2 + C2


def gaussian_window(size: int, sigma: float = _SIGMA) -> Tensor:
    """Normalised Gaussian ``(size, size)``, the outer product of two normalised 1-D ones.

    Raises:
        ValueError: an even or non-positive size, which has no centre.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"SSIM window must be odd and positive, found {size}")
    offset = torch.arange(size, dtype=torch.float32) - size // 2
    line = torch.exp(-(offset**2) / (2 * sigma**2))
    line = line / line.sum()
    return torch.outer(line, line)


def ssim_map(x: Tensor, y: Tensor, window: int = 11, data_range: float = 1.0) -> Tensor:
    """Similarity of every pixel and channel, in float32 whatever the autocast state.

    Args:
        x: ``(B, C, H, W)``.
        y: ``(B, C, H, W)``.
        window: side of the Gaussian window in pixels, odd.
        data_range: dynamic range L of the constants.

    Returns:
        ``(B, C, H, W)``, at most 1; 1 where both windows are equal.
    """
    _check_pair(x, y)
    kernel = gaussian_window(window).to(x.device)
    with torch.autocast(x.device.type, enabled=False):
        parts = [_similarity(_moments(*_pair(x, y, block), kernel, data_range)) for block in _blocks(x)]
    return torch.cat(parts)


def ssim_loss(x: Tensor, y: Tensor, window: int = 11, data_range: float = 1.0) -> Tensor:
    """Negative mean similarity, a scalar in about [-1, 1] (minus SSIM, not one minus SSIM).

    Where only ``x`` needs a gradient, value and gradient come from one pass in cache-sized blocks: four blurs, then
    three for the closed-form gradient, and nothing else is kept for the backward pass. Float32 even under autocast,
    where ``E[x^2] - E[x]^2`` would cancel in half precision.

    Args:
        x: ``(B, C, H, W)``, usually the reconstruction.
        y: ``(B, C, H, W)``, the target.
        window: side of the Gaussian window in pixels, odd.
        data_range: dynamic range L of the constants.
    """
    _check_pair(x, y)
    if y.requires_grad and torch.is_grad_enabled():
        return -ssim_map(x, y, window, data_range).mean()
    with torch.autocast(x.device.type, enabled=False):
        loss: Tensor = _NegativeSSIM.apply(x, y, window, data_range)
        return loss


class _NegativeSSIM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, window: int, span: float) -> Tensor:
        kernel = gaussian_window(window).to(x.device)
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty(x.shape, device=x.device) if needs_gradient else None
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for block in _blocks(x):
            part_x, part_y = _pair(x, y, block)
            moments = _moments(part_x, part_y, kernel, span)
            similarity = _similarity(moments)
            total += similarity.sum()
            if gradient is not None:
                gradient[block] = _gradient(part_x, part_y, moments, similarity, kernel)
        if gradient is not None:
            ctx.save_for_backward(gradient)
            ctx.dtype = x.dtype
        return (-total / x.numel()).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * (-grad_outputs[0] / gradient.numel())).to(ctx.dtype), None, None, None


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"SSIM needs two tensors (B, C, H, W) of one shape, found {tuple(x.shape)}, {tuple(y.shape)}")


def _blocks(x: Tensor) -> list[slice]:
    """Slices of the batch: small ones on a CPU for its cache, the whole batch elsewhere (and in exported graphs)."""
    if torch.compiler.is_exporting():
        return [slice(None)]
    size = len(x) if x.device.type != "cpu" else max(1, _BLOCK_ELEMENTS // max(1, x[0].numel()))
    return [slice(start, start + size) for start in range(0, len(x), max(1, size))]


def _pair(x: Tensor, y: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """A block of both in float32 and channel by channel, the layout in which depthwise convolutions are fast."""
    return x[block].float().contiguous(), y[block].float().contiguous()


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    channels = x.shape[1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    return F.conv2d(x, weight, padding=kernel.shape[-1] // 2, groups=channels)


def _moments(x: Tensor, y: Tensor, kernel: Tensor, data_range: float) -> _Moments:
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
    squares, product = _blur(torch.addcmul(x * x, y, y), kernel), _blur(x * y, kernel)
    means_product = mean_x * mean_y
    means_squares = torch.addcmul(mean_x * mean_x, mean_y, mean_y)
    return _Moments(
        mean_x,
        mean_y,
        means_product + c1 / 2,
        (product - means_product).add_(c2 / 2),
        means_squares + c1,
        (squares - means_squares).add_(c2),
    )


def _similarity(m: _Moments) -> Tensor:
    return (m.luminance * m.structure).mul_(4).div_(m.luminance_norm * m.structure_norm)


def _gradient(x: Tensor, y: Tensor, m: _Moments, similarity: Tensor, kernel: Tensor) -> Tensor:
    """Gradient of the summed similarity with respect to ``x``; the symmetric window is its own adjoint."""
    inverse = 4 / (m.luminance_norm * m.structure_norm)
    by_product = m.luminance * inverse
    by_squares = (similarity / m.structure_norm).mul_(-2)
    by_mean = (m.structure - m.luminance) * m.mean_y
    by_mean.addcmul_(m.mean_x, (m.luminance_norm - m.structure_norm) * similarity, value=0.5).mul_(inverse)
    gradient = torch.addcmul(_blur(by_mean, kernel), x, _blur(by_squares, kernel))
    return gradient.addcmul_(y, _blur(by_product, kernel))
