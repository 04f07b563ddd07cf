"""One small matrix per axis, applied to boxes."""

from collections.abc import Sequence
from typing import Any


def along_axes(values: Any, matrices: Sequence[Any]) -> Any:
    """Multiply the last axes by a matrix each.

    Args:
        values: ``(..., *n)``; numpy or torch.
        matrices: per axis ``(m, n)``, or ``(B, m, n)`` for a matrix per entry of the first axis of ``values``.

    Returns:
        ``(..., *m)``.
    """
    dims = len(matrices)
    for axis, matrix in enumerate(matrices):
        place = values.ndim - dims + axis
        ahead, behind = values.shape[:place], values.shape[place + 1 :]
        if matrix.ndim == 3:
            between = 1 if axis == dims - 1 else 0
            matrix = matrix.reshape(len(matrix), *[1] * (place - 1 - between), *matrix.shape[1:])
        if axis == dims - 1:
            values = values @ matrix.swapaxes(-1, -2)
        else:
            values = (matrix @ values.reshape(*ahead, values.shape[place], -1)).reshape(*ahead, -1, *behind)
    return values
