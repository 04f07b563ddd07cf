"""Gaussian mixtures by expectation maximisation, in float64."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import UserError

_ITERATIONS = 100
_TOLERANCE = 1e-4  # of the mean log likelihood, in nats


class Mixture(NamedTuple):
    """A Gaussian mixture of K components in D dimensions, float64.

    Attributes:
        log_weights: ``(K,)``.
        means: ``(K, D)``.
        whitening: ``(K, D, D)``, the inverse Cholesky factors of the covariances.
    """

    log_weights: Tensor
    means: Tensor
    whitening: Tensor


def log_likelihoods(points: Tensor, mixture: Mixture) -> Tensor:
    """Log density of each component, weighted, at each point: ``(N, D)`` -> ``(N, K)``."""
    offset = points[:, None] - mixture.means
    white = torch.einsum("kde,nke->nkd", mixture.whitening, offset)
    volume = mixture.whitening.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    constant = -0.5 * points.shape[1] * math.log(2 * math.pi)
    return mixture.log_weights + constant + volume - 0.5 * white.square().sum(dim=2)


def log_density(points: Tensor, mixture: Mixture) -> Tensor:
    """Log density of the mixture at each point: ``(N, D)`` float64 -> ``(N,)``."""
    return log_likelihoods(points, mixture).logsumexp(dim=1)


def fit_mixture(points: Tensor, components: int, ridge: float = 1e-4) -> Mixture:
    """Fit by expectation maximisation from a k-means++ start, with torch's global generator.

    Each covariance is shrunk towards a multiple of the identity by ``D / (D + n)``, n being the component's share of
    the points: nothing where points abound, much where they are fewer than dimensions.

    Args:
        points: ``(N, D)``.
        components: number K.
        ridge: least part of the mean variance that is added to the diagonal.

    Raises:
        UserError: fewer points than components.
    """
    points = points.double()
    if len(points) < components:
        raise UserError(f"{components} components need at least as many healthy images, found {len(points)}")
    responsibility = _nearest(points, _start(points, components))
    before = -math.inf
    for _ in range(_ITERATIONS):
        mixture = _maximise(points, responsibility, ridge)
        joint = log_likelihoods(points, mixture)
        total = joint.logsumexp(dim=1)
        responsibility = (joint - total[:, None]).exp()
        now = float(total.mean())
        if now - before < _TOLERANCE:
            break
        before = now
    return mixture


def _start(points: Tensor, components: int) -> Tensor:
    """k-means++: each next centre is a point drawn by its squared distance to the nearest one so far."""
    chosen = [points[int(torch.randint(len(points), ()))]]
    for _ in range(components - 1):
        distance = torch.stack([(points - one).square().sum(dim=1) for one in chosen]).amin(dim=0)
        weights = distance + 1e-12 * distance.sum() + 1e-300
        chosen.append(points[int(torch.multinomial(weights.cpu(), 1))])
    return torch.stack(chosen)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    distance = (points[:, None] - centres).square().sum(dim=2)
    return torch.nn.functional.one_hot(distance.argmin(dim=1), len(centres)).double()


def _maximise(points: Tensor, responsibility: Tensor, ridge: float) -> Mixture:
    size = points.shape[1]
    counts = responsibility.sum(dim=0).clamp(min=1e-9)
    means = responsibility.T @ points / counts[:, None]
    offset = points[:, None] - means
    covariance = torch.einsum("nk,nkd,nke->kde", responsibility, offset, offset) / counts[:, None, None]
    level = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
    shrinkage = size / (size + counts)
    identity = torch.eye(size, dtype=points.dtype, device=points.device)
    floor = (shrinkage * level + ridge * level.mean() + 1e-12)[:, None, None]
    covariance = (1 - shrinkage)[:, None, None] * covariance + floor * identity
    factor = torch.linalg.cholesky(covariance)
    whitening = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    return Mixture((counts / counts.sum()).log(), means, whitening)


def ledoit_wolf(centred: Tensor) -> Tensor:
    """Covariance of centred rows ``(N, K)``, shrunk to a multiple of the identity by Ledoit and Wolf's estimate."""
    count, channels = centred.shape
    covariance = centred.T @ centred / count
    scale = covariance.trace() / channels
    norm = covariance.square().sum()
    distance = (norm - channels * scale.square()) / channels
    spread = (centred.square().sum(dim=1).square().mean() - norm) / (count * channels)
    shrinkage = (spread.clamp(min=0) / distance.clamp(min=1e-30)).clamp(max=1)
    covariance = (1 - shrinkage) * covariance
    covariance.diagonal().add_(shrinkage * scale + 1e-12)
    return covariance
