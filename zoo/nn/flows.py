"""Normalising flows: affine couplings of channels with exact log determinants.

The coupling is that of Ardizzone et al. 2019 (arXiv 1907.02392), as the flow methods of industrial inspection use it:
soft-clamped scales, a learned factor and offset of every channel, a fixed permutation.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Subnet = Callable[[int, int], nn.Module]

_SOFTNESS = 0.5  # of the softplus that keeps the channels' factors positive
_DAMPING = 0.1  # on what a subnet puts out: a new coupling is nearly the identity


class Coupling(nn.Module):
    """One step of a flow over channels, at all places by the same function.

    ``x1, x2`` are the first and second half of the channels: ``x2 * exp(clamp * tanh(s)) + t`` with ``s, t`` from a
    subnet of ``x1`` (and a condition); then every channel's factor and offset, then a permutation.

    Args:
        channels: C, at least 2.
        subnet: makes the network from its numbers of input and output channels.
        clamp: bound of the logarithm of a scale.
        seed: of the permutation, which is part of the state.
        condition_channels: channels of what is appended to the subnet's input.
        soft: permute by a random orthogonal matrix in place of an order.
    """

    permutation: Tensor

    def __init__(
        self,
        channels: int,
        subnet: Subnet,
        *,
        clamp: float,
        seed: int,
        condition_channels: int = 0,
        soft: bool = False,
    ) -> None:
        super().__init__()
        self.halves = (channels - channels // 2, channels // 2)
        self.clamp = clamp
        self.subnet = subnet(self.halves[0] + condition_channels, 2 * self.halves[1])
        start = math.log(math.exp(_SOFTNESS * 10.0) - 1) / _SOFTNESS  # a tenth of the softplus of it is 1
        self.scale = nn.Parameter(torch.full((channels,), start))
        self.offset = nn.Parameter(torch.zeros(channels))
        generator = torch.Generator().manual_seed(seed)
        if soft:
            drawn = torch.randn(channels, channels, generator=generator, dtype=torch.float64, device="cpu")
            found = torch.linalg.qr(drawn).Q.float()
        else:
            found = torch.randperm(channels, generator=generator, device="cpu")
        self.register_buffer("permutation", found)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the step.

        Args:
            x: ``(B, C, *S)``, or ``(B, C)``.
            condition: ``(B, condition_channels, *S)``.

        Returns:
            The transformed tensor and the log determinant of the Jacobian at every place, ``(B, *S)``.
        """
        first, second = x.split(self.halves, dim=1)
        log_scale, shift = self._subnet(first, condition)
        factor = self._factor(x.ndim)
        joined = torch.cat([first, second * log_scale.exp() + shift], dim=1) * factor + self._lift(self.offset, x.ndim)
        return self._permute(joined), log_scale.sum(dim=1) + factor.log().sum()

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """What :meth:`forward` maps to ``z``."""
        if self.permutation.ndim == 2:
            joined = torch.einsum("oi,bo...->bi...", self.permutation, z)
        else:
            joined = z.index_select(1, self.permutation.argsort())
        joined = (joined - self._lift(self.offset, z.ndim)) / self._factor(z.ndim)
        first, second = joined.split(self.halves, dim=1)
        log_scale, shift = self._subnet(first, condition)
        return torch.cat([first, (second - shift) * (-log_scale).exp()], dim=1)

    def _subnet(self, first: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        given = first if condition is None else torch.cat([first, condition], dim=1)
        scale, shift = (_DAMPING * self.subnet(given)).chunk(2, dim=1)
        return self.clamp * scale.tanh(), shift

    def _factor(self, ndim: int) -> Tensor:
        return self._lift(0.1 * F.softplus(self.scale, beta=_SOFTNESS), ndim)

    def _permute(self, x: Tensor) -> Tensor:
        if self.permutation.ndim == 2:
            return torch.einsum("oi,bi...->bo...", self.permutation, x)
        return x.index_select(1, self.permutation)

    @staticmethod
    def _lift(values: Tensor, ndim: int) -> Tensor:
        return values.view(1, -1, *(1,) * (ndim - 2))


class Flow(nn.Module):
    """Couplings one after the other; arguments as of :class:`Coupling`, the seeds are the steps' numbers.

    Args:
        channels: see there.
        subnets: one a step.
        clamp: see there.
        condition_channels: see there.
        soft: see there.
    """

    def __init__(
        self, channels: int, subnets: list[Subnet], *, clamp: float, condition_channels: int = 0, soft: bool = False
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            Coupling(channels, subnet, clamp=clamp, seed=number, condition_channels=condition_channels, soft=soft)
            for number, subnet in enumerate(subnets)
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, C, *S)`` -> the latent of the same shape and the log determinant at every place ``(B, *S)``."""
        determinant = x.new_zeros(x.shape[0], *x.shape[2:])
        for step in self.steps:
            x, added = step(x, condition)
            determinant = determinant + added
        return x, determinant

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """What :meth:`forward` maps to ``z``."""
        for step in reversed(self.steps):
            assert isinstance(step, Coupling)
            z = step.inverse(z, condition)
        return z
