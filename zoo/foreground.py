"""The foreground of an image that comes without one, by a rule of the data in plain words.

Batches of a DataModule carry their foreground. A single image at prediction, an exported graph or a plain DataLoader
has none; there the data's rule says it, which checkpoints keep:

- ``all``: every pixel;
- ``above X``: pixels where any channel is above the number X, in the data's units;
- ``above_minimum``: above the lower end of the data's range (settled as ``above X``);
- ``nonzero``: pixels where any channel differs from 0 (z-scored volumes, whose background is 0).
"""

import torch
from torch import Tensor

from zoo.errors import UserError

RULES = ("all", "nonzero", "above_minimum", "above X")


def settle_rule(rule: str, value_range: tuple[float, float]) -> str:
    """The rule in a form that no longer needs the data.

    Args:
        rule: see the module.
        value_range: of the data.

    Raises:
        UserError: unknown rule.
    """
    if rule == "above_minimum":
        return f"above {float(value_range[0])!r}"
    word, _, number = rule.partition(" ")
    try:
        known = rule in ("all", "nonzero") or (word == "above" and number != "" and float(number) == float(number))
    except ValueError:
        known = False
    if not known:
        raise UserError(f"foreground_rule '{rule}' is unknown; known: {', '.join(RULES)}")
    return rule


def foreground_of(image: Tensor, rule: str) -> Tensor:
    """Foreground by a settled rule.

    Args:
        image: ``(B, C, *S)`` in the data's range.
        rule: of :func:`settle_rule`.

    Returns:
        bool ``(B, 1, *S)``.
    """
    if rule == "all":
        return torch.ones_like(image[:, :1], dtype=torch.bool)
    inside = image != 0 if rule == "nonzero" else image > float(rule.partition(" ")[2])
    return inside.any(dim=1, keepdim=True)
