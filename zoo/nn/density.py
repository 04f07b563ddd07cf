"""Densities of embeddings in float64: one Gaussian with a shrunk covariance, and mixtures of them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.nn.fitted import FittedStatistics
from zoo.nn.processes import gathered

_ITERATIONS = 100
_TOLERANCE = 1e-4  # of the mean log likelihood, in nats


class ShrunkGaussian(FittedStatistics):
    """One Gaussian with Ledoit and Wolf's covariance, fitted to embeddings that are collected batch by batch."""

    embeddings: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self) -> None:
        super().__init__("embeddings", "mean", "whitening")

    def collect(self, embedded: Tensor) -> None:
        """Keep the embeddings ``(B, K)`` float64 of a batch."""
        self.embeddings = torch.cat([self.embeddings, embedded]) if self.embeddings.numel() else embedded

    def finish(self) -> None:
        """Mean and the inverse Cholesky factor of the shrunk covariance; the embeddings go."""
        self.embeddings = gathered(self.embeddings)
        self.mean = self.embeddings.mean(dim=0)
        factor = torch.linalg.cholesky(ledoit_wolf(self.embeddings - self.mean))
        identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        self.whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        self.embeddings = factor.new_empty(0)

    def distance(self, embedded: Tensor) -> Tensor:
        """Mahalanobis distance ``(B,)`` float32 of embeddings ``(B, K)`` float64.

        Raises:
            UserError: nothing was fitted.
        """
        if not self.whitening.numel():
            raise UserError("no density yet: run fit to its end, or load a checkpoint of a finished fit")
        white = (embedded - self.mean) @ self.whitening.T
        distance: Tensor = white.norm(dim=1)
        return distance.float()


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
