"""``predictions.html``: one self-contained page, the most unusual case first."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_THUMBNAIL = 160  # px
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 1200px; padding: 0 12px 40px; overflow-wrap: anywhere; }
h1 { font-size: 22px; margin: 14px 0 6px; }
.banner { background: #b30000; color: #fff; padding: 8px 12px; font-weight: 700; }
.note { border-left: 4px solid #b36b00; padding: 2px 10px; margin: 6px 0; white-space: pre-line; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0; } dd { margin: 0; }
dt { font-weight: 600; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 8px; border-bottom: 1px solid #8886; text-align: left; vertical-align: top; }
td.case { min-width: 130px; font-weight: 600; } img { width: 160px; height: auto; display: block; background: #111; }
.flagged { font-weight: 700; } .flagged::before { content: "\\25CF\\00A0"; color: #d55e00; }
.not-flagged::before { content: "\\25CB\\00A0"; } .not-decided::before { content: "\\2013\\00A0"; }
details table { font-size: 13px; } summary { cursor: pointer; }
a:focus-visible, summary:focus-visible { outline: 3px solid #0072b2; outline-offset: 1px; }
@media (max-width: 760px) {
  dl { grid-template-columns: 1fr; } dt { margin-top: 4px; }
  .list > thead { display: none; }
  .list > tbody > tr { display: grid; grid-template-columns: 172px 1fr; padding: 8px 0; }
  .list > tbody > tr { border-bottom: 1px solid #8886; }
  .list > tbody > tr > td { border: 0; padding: 1px 4px; grid-column: 2; }
  .list > tbody > tr > td.case { grid-column: 1 / 3; }
  .list > tbody > tr > td.picture { grid-column: 1; grid-row: 2 / 12; }
  .list > tbody > tr > td[data-name]::before { content: attr(data-name) " "; opacity: 0.7; }
  .list > tbody > tr > td.wide { grid-column: 1 / 3; }
  .list > tbody > tr > td:empty { display: none; } img { width: 150px; }
}
@media print { details { display: none; } tr { break-inside: avoid; } }
"""


class Entry(NamedTuple):
    """A case of the list.

    Attributes:
        case: name.
        score: raw.
        percentile: share of healthy cases below, in per cent; nan without a calibration, like p and q.
        p_value: conformal.
        q_value: of the list.
        decision: *flagged*, *not flagged* or *not decided*.
        note: empty, or why.
        images: number of them.
        thumbnail: ``(H, W, 3)`` uint8, or None.
        overlay: path of the full picture beside the page, or empty.
        components: rows of ``components.csv``.
    """

    case: str
    score: float
    percentile: float
    p_value: float
    q_value: float
    decision: str
    note: str
    images: int
    thumbnail: Array | None
    overlay: str
    components: Sequence[dict[str, Any]]


def page(
    title: str, facts: Sequence[tuple[str, str]], warnings: Sequence[str], entries: Sequence[Entry], phantom: bool
) -> str:
    """The page as text.

    Args:
        title: of the page.
        facts: name and value of the lines at its head.
        warnings: shown below them.
        entries: in any order.
        phantom: the images or the calibration are generated.
    """
    ordered = sorted(entries, key=lambda one: (np.nan_to_num(one.p_value, nan=2.0), -one.score, one.case))
    counts = {word: sum(one.decision == word for one in entries) for word in ("flagged", "not flagged", "not decided")}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    head = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in [("cases", told), *facts])
    banner = '<p class="banner">PHANTOM DATA: no statement on real images.</p>' if phantom else ""
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in warnings)
    columns = ("case", "picture", "decision", "percentile", "p", "q", "score", "findings", "note")
    heads = "".join(f'<th scope="col">{name}</th>' for name in columns)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><link rel=icon href='data:,'><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{banner}<dl>{head}</dl>{notes}"
        f'<table class="list"><thead><tr>{heads}</tr></thead><tbody>{"".join(map(_row, ordered))}</tbody></table>'
        "<p>p: share of healthy cases, this one included, that score at least as high. q: the false discovery rate at "
        "which the case would head a worklist. Neither is a chance of disease. Research, not for diagnosis.</p>"
        "</body></html>\n"
    )


def _row(one: Entry) -> str:
    picture = ""
    if one.thumbnail is not None:
        picture = f'<img alt="overlay of {escape(one.case)}" loading="lazy" src="{_jpeg(one.thumbnail)}">'
        if one.overlay:
            picture = f'<a href="{quote(one.overlay)}">{picture}</a>'
    cells = [
        f'<td class="case">{escape(one.case)}{f" ({one.images} images)" if one.images > 1 else ""}</td>',
        f'<td class="picture">{picture}</td>',
        f'<td><span class="{one.decision.replace(" ", "-")}">{escape(one.decision)}</span></td>',
        _cell("percentile", one.percentile, ".4g"),
        _cell("p", one.p_value, ".3g"),
        _cell("q", one.q_value, ".3g"),
        _cell("score", one.score, ".4g"),
        f'<td class="wide">{_components(one.components)}</td>',
        f'<td class="wide">{escape(one.note)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(name: str, value: float, form: str) -> str:
    return "<td></td>" if np.isnan(value) else f'<td data-name="{name}">{value:{form}}</td>'


def _components(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    shown = ("component", "p_value", "size", "size_unit", "x", "y", "z", "space")
    head = "".join(f"<th>{name}</th>" for name in shown)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(row[name]))}</td>" for name in shown) + "</tr>" for row in rows[:20]
    )
    more = f"<p>and {len(rows) - 20} more in components.csv</p>" if len(rows) > 20 else ""
    return f"<details><summary>{len(rows)}</summary><table><tr>{head}</tr>{body}</table>{more}</details>"


def _jpeg(pixels: Array) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
