"""Pictures of findings: the image in its own greys, colour where the map is unusual, one scale for all of a model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from zoo.decision.findings import ANCHORS, display_level

Array = NDArray[Any]
OPACITY = 0.6
OUTLINE = (0, 255, 255)  # cyan: in no map's colours
_SMALLEST = 360  # px: smaller pictures are enlarged by a whole factor, so that the caption can be read
_LINE, _BAR = 16, 8  # px
RESEARCH = "research, not for diagnosis"


def blend(picture: Array, anomaly_map: Array, quantiles: Sequence[float], labels: Array | None = None) -> Array:
    """Lay a map over a picture, at the picture's resolution.

    Args:
        picture: ``(H, W)`` or ``(H, W, C)`` in [0, 1]; shown as it is.
        anomaly_map: ``(h, w)`` of the same field of view, -inf outside of the foreground.
        quantiles: of healthy pixels, see :class:`~zoo.decision.findings.MapReference`.
        labels: ``(h, w)`` findings, 0 = none; outlined in cyan.

    Returns:
        Array: ``(H, W, 3)`` uint8.
    """
    grey = picture[..., None] if picture.ndim == 2 else picture
    shown = np.repeat(grey, 3, -1) if grey.shape[-1] == 1 else grey[..., :3]
    size = shown.shape[:2]
    level = resized(display_level(anomaly_map, quantiles), size)
    alpha = OPACITY * np.clip(2 * level, 0, 1)[..., None]
    mixed = (1 - alpha) * np.clip(shown, 0, 1) * 255 + alpha * colours(level)
    pixels: Array = np.rint(mixed).astype(np.uint8)
    if labels is not None and labels.any():
        inside = resized((labels > 0).astype(np.float32), size) >= 0.5
        pixels[inside & ~binary_erosion(inside)] = OUTLINE
    return pixels


def colours(level: Array) -> Array:
    """Colours of levels in [0, 1]: ``(*S, 3)`` in 0 to 255, from magma's purple to its yellow."""
    found: Array = _magma()[np.rint(np.clip(level, 0, 1) * 255).astype(np.uint8)]
    return found


@cache
def _magma() -> Array:
    import matplotlib

    table: Array = matplotlib.colormaps["magma"](np.linspace(0.25, 1, 256))[:, :3] * 255
    return table


def resized(values: Array, size: tuple[int, int]) -> Array:
    """Values ``(h, w)`` interpolated linearly onto ``size``, centres of pixels aligned; float32."""
    from PIL import Image

    if values.shape == tuple(size):
        return values.astype(np.float32)
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def with_caption(pixels: Array, lines: Sequence[str], scale: str) -> Array:
    """Add the colour bar and a caption below a picture.

    Args:
        pixels: ``(H, W, 3)`` uint8; enlarged by a whole factor where it is small.
        lines: of the caption; long ones are wrapped.
        scale: what the colours stand for.

    Returns:
        Array: ``(H', W', 3)`` uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, -(-_SMALLEST // pixels.shape[1]))
    large = pixels.repeat(factor, 0).repeat(factor, 1)
    font: Any = ImageFont.load_default(12)
    width = large.shape[1]
    wrapped = [piece for line in lines for piece in _wrap(line, font, width - 12)]
    footer = Image.new("RGB", (width, 2 * _LINE + _BAR + 10 + _LINE * len(wrapped)), (18, 18, 18))
    draw = ImageDraw.Draw(footer)
    bar = colours(np.linspace(0, 1, width - 12))[None].repeat(_BAR, 0).astype(np.uint8)
    footer.paste(Image.fromarray(bar), (6, 6))
    for place, anchor in enumerate(ANCHORS):
        x = 6 + (width - 12) * place / (len(ANCHORS) - 1)
        text = "max" if anchor == 100 else f"{anchor:g}"
        draw.text(
            (x, 6 + _BAR), text, (200, 200, 200), font, anchor="la" if place == 0 else "ra" if text == "max" else "ma"
        )
    for number, line in enumerate([scale, *wrapped]):
        draw.text((6, 6 + _BAR + _LINE * (number + 1)), line, (150, 150, 150) if number == 0 else (240, 240, 240), font)
    return np.concatenate([large, np.asarray(footer)])


def _wrap(line: str, font: Any, width: int) -> list[str]:
    """Pieces of a line that fit; names may have no blank to break at."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in line)
    pieces, current = [], ""
    for word in printable.split(" "):
        if current and font.getlength(f"{current} {word}") <= width:
            current = f"{current} {word}"
            continue
        if current:
            pieces.append(current)
        current = word
        while font.getlength(current) > width and len(current) > 1:
            fitting = next(k for k in range(len(current) - 1, 0, -1) if k == 1 or font.getlength(current[:k]) <= width)
            pieces.append(current[:fitting])
            current = current[fitting:]
    return [*pieces, current]


def caption(case: str, percentile: float, p_value: float, decision: str, rule: str, phantom: bool) -> list[str]:
    """Lines below an overlay."""
    figures = (
        "no calibration"
        if np.isnan(p_value)
        else f"more unusual than {percentile:.4g} % of healthy cases, p = {p_value:.3g}"
    )
    return [f"{'PHANTOM DATA  ' if phantom else ''}{case}", figures, f"{decision} ({rule})", RESEARCH]
