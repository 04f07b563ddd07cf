"""Residual maps: how far an image (or its features) lies from its reconstruction, pixel by pixel."""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from zoo.scoring.ssim import ssim_loss, ssim_map

ResidualKind = Literal["l1", "l2", "ssim"]


def residual_map(reconstruction: Tensor, target: Tensor, kind: ResidualKind = "l2", window: int = 11) -> Tensor:
    """Residual averaged over channels.

    Args:
        reconstruction: ``(B, C, *S)``; ``ssim`` needs two spatial axes.
        target: ``(B, C, *S)``.
        kind: ``l1`` absolute, ``l2`` squared difference, ``ssim`` minus the structural similarity (negative where
            the two are alike).
        window: side of the SSIM window in pixels.

    Returns:
        float32 ``(B, 1, *S)``, larger = more anomalous.
    """
    _check_kind(kind)
    if kind == "ssim":
        return -ssim_map(reconstruction, target, window).mean(dim=1, keepdim=True)
    difference = reconstruction.float() - target.float()
    return (difference.abs() if kind == "l1" else difference.square()).mean(dim=1, keepdim=True)


def residual_loss(reconstruction: Tensor, target: Tensor, kind: ResidualKind = "l2", window: int = 11) -> Tensor:
    """Mean over everything of what :func:`residual_map` shows: a scalar, in float32 even under autocast."""
    _check_kind(kind)
    if kind == "ssim":
        return ssim_loss(reconstruction, target, window)
    return (F.l1_loss if kind == "l1" else F.mse_loss)(reconstruction.float(), target.float())


def cosine_map(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of the channel vectors: ``(B, C, *S)`` twice -> float32 ``(B, 1, *S)`` in [0, 2]."""
    return 1.0 - F.cosine_similarity(a.float(), b.float(), dim=1, eps=1e-8).unsqueeze(1)


def _check_kind(kind: str) -> None:
    if kind not in get_args(ResidualKind):
        raise ValueError(f"residual '{kind}' is unknown; known: {', '.join(get_args(ResidualKind))}")
