"""Residual maps: how far an image (or its features) lies from its reconstruction, pixel by pixel."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.scoring.ms_ssim import ms_ssim, ms_ssim_error_map
from zoo.scoring.ssim import ssim_loss, ssim_map

ResidualKind = Literal["l1", "l2", "ssim", "ms_ssim"]
_MS_SSIM_SHARE = 0.85  # the rest is the absolute difference (Zhao et al. 2017 give 0.84; Chen et al. 2022 use 0.85)
_MS_SSIM_FLOOR = 1e-6  # a fractional power of 0 has no gradient


def residual_map(reconstruction: Tensor, target: Tensor, kind: ResidualKind = "l2", window: int = 11) -> Tensor:
    """Residual averaged over channels.

    Args:
        reconstruction: ``(B, C, *S)``; ``ssim`` needs two spatial axes, and so does ``ms_ssim``.
        target: ``(B, C, *S)``.
        kind: ``l1`` absolute, ``l2`` squared difference, ``ssim`` minus the structural similarity (negative where
            the two are alike), ``ms_ssim`` 0.85 of the multi-scale similarity's error plus 0.15 of ``l1``.
        window: side of the SSIM window in pixels.

    Returns:
        float32 ``(B, 1, *S)``, larger = more anomalous.
    """
    _check_kind(kind)
    if kind == "ssim":
        return -ssim_map(reconstruction, target, window).mean(dim=1, keepdim=True)
    difference = reconstruction.float() - target.float()
    if kind == "ms_ssim":
        error = ms_ssim_error_map(target, reconstruction.unsqueeze(1), window).squeeze(1)
        return _MS_SSIM_SHARE * error + (1 - _MS_SSIM_SHARE) * difference.abs().mean(dim=1, keepdim=True)
    return (difference.abs() if kind == "l1" else difference.square()).mean(dim=1, keepdim=True)


def residual_loss(reconstruction: Tensor, target: Tensor, kind: ResidualKind = "l2", window: int = 11) -> Tensor:
    """Mean over everything of what :func:`residual_map` shows: a scalar, in float32 even under autocast.

    ``ms_ssim`` multiplies the scales of the index where the map adds them.
    """
    _check_kind(kind)
    if kind == "ms_ssim":
        error = 1.0 - ms_ssim(reconstruction, target, window, floor=_MS_SSIM_FLOOR).mean()
        return _MS_SSIM_SHARE * error + (1 - _MS_SSIM_SHARE) * F.l1_loss(reconstruction.float(), target.float())
    if kind == "ssim":
        return ssim_loss(reconstruction, target, window)
    return (F.l1_loss if kind == "l1" else F.mse_loss)(reconstruction.float(), target.float())


def cosine_map(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of the channel vectors: ``(B, C, *S)`` twice -> float32 ``(B, 1, *S)`` in [0, 2]."""
    return 1.0 - F.cosine_similarity(a.float(), b.float(), dim=1, eps=1e-8).unsqueeze(1)


def cosine_error(pairs: Sequence[tuple[Tensor, Tensor]], size: Sequence[int]) -> Tensor:
    """Sum over pairs of maps of :func:`cosine_map`, each resized (bilinear, corners aligned).

    Args:
        pairs: ``(B, C_i, h_i, w_i)`` twice each.
        size: ``(H, W)`` of the result.

    Returns:
        float32 ``(B, 1, H, W)``.
    """
    maps = [F.interpolate(cosine_map(a, b), size=tuple(size), mode="bilinear", align_corners=True) for a, b in pairs]
    return torch.stack(maps).sum(dim=0)


def _check_kind(kind: str) -> None:
    if kind not in get_args(ResidualKind):
        raise ValueError(f"residual '{kind}' is unknown; known: {', '.join(get_args(ResidualKind))}")
