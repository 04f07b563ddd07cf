"""Contrastive learning: the loss, its projection head, and random views made on the images' device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.crops import box_masks
from zoo.scoring.smoothing import gaussian_blur

_GREY = (0.299, 0.587, 0.114)
# the colour plane that hues turn in: two axes at right angles to each other and to grey
_HUE_AXES = ((2 / 6**0.5, -1 / 6**0.5, -1 / 6**0.5), (0.0, 1 / 2**0.5, -1 / 2**0.5))


def projection_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear layer, ReLU, linear layer."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


def nt_xent(first: Tensor, second: Tensor, temperature: float, groups: Tensor | None = None) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views of each image (Chen et al. 2020, eq. 1), in float32.

    Args:
        first: ``(B, D)`` of one view each, of any length.
        second: ``(B, D)`` of the other.
        temperature: divides the cosines.
        groups: ``(B,)`` int64; only views of the same group are negatives. None: all are.

    Returns:
        Mean over the 2 B views, a scalar.
    """
    with torch.autocast(first.device.type, enabled=False):
        views = F.normalize(torch.cat([first, second]).float(), dim=1)
        similarity = views @ views.T / temperature
        left_out = torch.eye(len(views), dtype=torch.bool, device=views.device)
        partner = torch.arange(len(views), device=views.device).roll(len(first))
        if groups is not None:
            both = torch.cat([groups, groups])
            left_out = left_out | (both[:, None] != both[None])
        return F.cross_entropy(similarity.masked_fill(left_out, -torch.inf), partner)


def random_crop_and_turn(image: Tensor, area: tuple[float, float], degrees: float = 0.0) -> Tensor:
    """Crop to a random share of the area (aspect 3/4..4/3), turned by up to ``degrees``, and stretch back, bilinear.

    Args:
        image: ``(B, C, H, W)``.
        area: smallest and largest share.
        degrees: largest angle either way.
    """
    count = len(image)
    size, aspect, x, y, turn = torch.rand(5, count)
    size = area[0] + (area[1] - area[0]) * size
    aspect = torch.exp((2 * aspect - 1) * math.log(4 / 3))
    width, height = (size * aspect).sqrt().clamp(max=1), (size / aspect).sqrt().clamp(max=1)
    angle = torch.deg2rad(degrees * (2 * turn - 1))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = width * angle.cos(), -height * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = width * angle.sin(), height * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)
    grid = F.affine_grid(theta.to(image.device), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, "bilinear", "reflection", align_corners=False)


def jitter_intensity(image: Tensor, strength: float, share: float) -> Tensor:
    """Brightness, then contrast, each times a factor in 1 +- ``strength``, of a share of the images.

    Args:
        image: ``(B, C, H, W)`` in [0, 1].
        strength: see above.
        share: of the images that are altered.

    Returns:
        Values cut to [0, 1].
    """
    chosen, brightness, contrast = torch.rand(3, len(image), 1, 1, 1).to(image.device)
    chosen = chosen < share
    bright = (image * (1 + strength * (2 * brightness - 1))).clamp(0, 1)
    mean = bright.mean(dim=(1, 2, 3), keepdim=True)
    changed = ((bright - mean) * (1 + strength * (2 * contrast - 1)) + mean).clamp(0, 1)
    return torch.where(chosen, changed, image)


def jitter_colour(image: Tensor, saturation: float, hue: float, share: float, grey_share: float) -> Tensor:
    """Saturation and hue of a share of the images, and another share turned grey.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1].
        saturation: largest change of its factor.
        hue: largest turn of the hue circle either way, as a share of it.
        share: of the images whose colour is altered.
        grey_share: of the images that become grey.

    Returns:
        Values cut to [0, 1].
    """
    chosen, factor, turn, grey = torch.rand(4, len(image), 1, 1, 1).to(image.device)
    luma = torch.einsum("bchw,c->bhw", image, torch.tensor(_GREY, device=image.device))[:, None]
    saturated = luma + (image - luma) * (1 + saturation * (2 * factor - 1))
    axes = torch.tensor(_HUE_AXES, device=image.device)
    mean = saturated.mean(dim=1, keepdim=True)
    first, second = torch.einsum("bchw,kc->kbhw", saturated - mean, axes)[:, :, None]
    angle = 2 * math.pi * hue * (2 * turn - 1)
    turned_first = first * angle.cos() - second * angle.sin()
    turned_second = first * angle.sin() + second * angle.cos()
    turned = mean + turned_first * axes[0].view(3, 1, 1) + turned_second * axes[1].view(3, 1, 1)
    coloured = torch.where(chosen < share, turned.clamp(0, 1), image)
    return torch.where(grey < grey_share, luma.expand_as(image), coloured)


def cut_out(image: Tensor, largest: float) -> Tensor:
    """One rectangle of zeros in each image, its sides up to ``largest`` of the image's.

    Args:
        image: ``(B, C, H, W)``.
        largest: share of each side.
    """
    sides, starts = torch.rand(2, len(image), 2).to(image.device)
    sides = largest * sides
    return image.masked_fill(box_masks(starts * (1 - sides), sides, image.shape[2:]), 0.0)


def random_blur(image: Tensor, sigma: tuple[float, float], share: float) -> Tensor:
    """Gaussian blur of a share of the images, of one width in pixels for the whole batch.

    Args:
        image: ``(B, C, H, W)``.
        sigma: smallest and largest width.
        share: of the images that are blurred.
    """
    width = sigma[0] + (sigma[1] - sigma[0]) * float(torch.rand(()))  # on the CPU: nothing waits
    chosen = torch.rand(len(image), 1, 1, 1).to(image.device) < share
    return torch.where(chosen, gaussian_blur(image, width), image)
