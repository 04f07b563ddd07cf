"""What adversarial trainings share: the two-player losses, one player's step, and DCGAN's convolutional stacks."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.nn.convolutional import check_divisible

_COARSEST = 8  # halving goes on while the smaller side is at least this


def player_step(module: LightningModule, number: int, loss: Callable[[], Tensor]) -> Tensor:
    """One step of one player; the parameters of all others are fixed while its loss is computed.

    Args:
        module: the method, with several optimisers and manual optimisation.
        number: of the player's optimiser.
        loss: computes the loss, a scalar.

    Returns:
        The loss, detached.
    """
    optimisers: Any = module.optimizers()
    optimiser = optimisers[number]
    module.toggle_optimizer(optimiser)
    value = loss()
    optimiser.zero_grad()
    module.manual_backward(value)
    optimiser.step()
    module.untoggle_optimizer(optimiser)
    return value.detach()


def realness_loss(logit: Tensor, real: bool) -> Tensor:
    """Mean binary cross-entropy of logits of any shape with "real" (1) or "fake" (0), in float32."""
    target = torch.full_like(logit, float(real), dtype=torch.float32)
    return F.binary_cross_entropy_with_logits(logit.float(), target)


def log_players(module: LightningModule, name: str, real: Tensor, fake: Tensor) -> None:
    """Log a discriminator's mean opinion of real and fake images as epoch means, ``train/NAME_real`` and ``_fake``.

    :class:`zoo.callbacks.collapse.TellCollapse` reads them.

    Args:
        module: the method.
        name: of the discriminator.
        real: logits of real images, any shape.
        fake: logits of generated ones.
    """
    means = {"real": real.detach().float().sigmoid().mean(), "fake": fake.detach().float().sigmoid().mean()}
    for kind, value in means.items():
        module.log(f"train/{name}_{kind}", value, on_step=False, on_epoch=True, batch_size=len(real))


def halvings(image_size: tuple[int, ...]) -> int:
    """How often sides are halved until the smaller one is below 8: 4 times at 64 pixels."""
    count, side = 0, min(image_size)
    while side >= _COARSEST:
        count, side = count + 1, side // 2
    return count


def stack_widths(image_size: tuple[int, ...], width: int, max_width: int) -> list[int]:
    """Channels after each halving: ``width``, doubling up to ``max_width``.

    Raises:
        UserError: sides that cannot be halved so often.
    """
    levels = halvings(image_size)
    check_divisible(image_size, 2**levels, f"a stack of {levels} halvings", minimum=_COARSEST)
    return [min(width * 2**level, max_width) for level in range(levels)]


def dcgan_encoder(
    in_channels: int,
    image_size: tuple[int, ...],
    out_channels: int,
    *,
    width: int,
    max_width: int,
    kernel: int = 4,
    bias: bool = True,
) -> nn.Sequential:
    """Strided convolutions with leaky ReLU (0.2), batch norm from the second on, then one over all places left.

    Args:
        in_channels: image channels.
        image_size: ``(H, W)``.
        out_channels: length of the output ``(B, out_channels, 1, 1)``, unbounded.
        width: channels after the first halving.
        max_width: largest number of channels.
        kernel: side of the strided convolutions, 4 or 5.
        bias: of the first and of the last convolution.

    Returns:
        Two parts: all blocks, and the last convolution.

    Raises:
        UserError: sides that cannot be halved until they are below 8 pixels.
    """
    widths = stack_widths(image_size, width, max_width)
    padding = (kernel - 1) // 2
    blocks: list[nn.Module] = []
    for number, (source, target) in enumerate(itertools.pairwise([in_channels, *widths])):
        blocks.append(nn.Conv2d(source, target, kernel, stride=2, padding=padding, bias=bias and number == 0))
        blocks += [nn.BatchNorm2d(target)] if number else []
        blocks.append(nn.LeakyReLU(0.2))
    grid = tuple(side // 2 ** len(widths) for side in image_size)
    return nn.Sequential(nn.Sequential(*blocks), nn.Conv2d(widths[-1], out_channels, grid, bias=bias))


def dcgan_decoder(
    latent_dim: int,
    image_size: tuple[int, ...],
    out_channels: int,
    *,
    width: int,
    max_width: int,
    kernel: int = 4,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Mirror of :func:`dcgan_encoder`: transposed convolutions with batch norm and ReLU, hyperbolic tangent at the end.

    Args:
        latent_dim: channels of the code ``(B, latent_dim, 1, 1)``.
        image_size: ``(H, W)`` of the output, in [-1, 1].
        out_channels: image channels.
        width: channels before the last doubling.
        max_width: largest number of channels.
        kernel: side of the transposed convolutions, 4 or 5.
        dropout: after the second block.
    """
    widths = stack_widths(image_size, width, max_width)[::-1]
    grid = tuple(side // 2 ** len(widths) for side in image_size)
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[0], grid, bias=False)]
    for number, (source, target) in enumerate(itertools.pairwise([*widths, out_channels])):
        layers += [nn.BatchNorm2d(source), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if number == 1 and dropout > 0 else []
        layers.append(
            nn.ConvTranspose2d(source, target, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2, bias=False)
        )
    return nn.Sequential(*layers, nn.Tanh())


def initialise_dcgan(module: nn.Module) -> None:
    """For ``apply``: convolutions from N(0, 0.02), norm factors from N(1, 0.02), biases 0 (Radford et al. 2016)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
