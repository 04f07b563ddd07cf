"""What is known of a model's weights besides how to use them: it travels with every file that holds them."""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from zoo.errors import UserError
from zoo.metrics.functional import auroc, average_precision
from zoo.metrics.statistics import bootstrap_interval

if TYPE_CHECKING:
    from zoo.sample import DataSource

# what the original authors publish under; none of them gives the weights a licence apart from the code's
LICENCES = {
    "mae": ("cc-by-nc-4.0", "github.com/facebookresearch/mae: code and weights CC BY-NC 4.0"),
    "fae": ("mit", "github.com/FeliMe/feature-autoencoder: code MIT"),
    "many_tasks": ("mit", "github.com/matt-baugh/many-tasks-make-light-work: code MIT"),
}
_BOOTSTRAPPED = {"image_auroc": auroc, "image_ap": average_precision}
_MOST = 16  # test results, and models that it started from
_ODD = r"\x00-\x1f\x7f`|<>\[\]"  # would end a word of a card
_WORD = re.compile(f"[^{_ODD}]{{0,200}}")
_IDENTIFIER = re.compile(r"[a-z0-9.+-]{0,40}")


@dataclass(frozen=True)
class Marks:
    """Where weights come from and what they achieved, in plain values.

    Attributes:
        dataset: name of the training data, empty if the weights were not trained here.
        phantom: the training data were generated.
        semi_supervised: unlabelled images were used.
        data_fingerprint: SHA-256 of the training data.
        data_licence: as the data set's card states it.
        licence: of the weights, an identifier of the hub (``cc-by-4.0``), empty if nobody said.
        origin: ``format`` and ``file`` of the original authors' file that the weights were imported from.
        started_from: marks of the models that training started from, the nearest first, without their results.
        results: of each test ``dataset``, ``phantom``, ``seed``, ``data_fingerprint``, ``metrics`` and ``intervals``.
    """

    dataset: str = ""
    phantom: bool = False
    semi_supervised: bool = False
    data_fingerprint: str = ""
    data_licence: str = ""
    licence: str = ""
    origin: Mapping[str, str] | None = None
    started_from: tuple[Mapping[str, Any], ...] = ()
    results: tuple[Mapping[str, Any], ...] = ()

    def plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only; what is unknown is left out."""
        content = asdict(self)
        known = {key: value for key, value in content.items() if value not in ("", False, None, ())}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}

    def trained_on(self, data: "DataSource | None") -> Self:
        """Marks of weights that training on these data makes; what they started from stays."""
        if data is None:
            return replace(self, **_UNTRAINED)
        fingerprint = data.fingerprint() if hasattr(data, "fingerprint") else ""
        card = getattr(data, "card", None) or {}
        return replace(
            self,
            **_UNTRAINED
            | {
                "dataset": _cleaned(str(getattr(data, "name", type(data).__name__))),
                "phantom": bool(getattr(data, "phantom", False)),
                "semi_supervised": bool(getattr(data, "unlabeled", False)),
                "data_fingerprint": fingerprint,
                "data_licence": "" if getattr(data, "phantom", False) else _cleaned(str(card.get("licence", ""))),
            },
        )

    def as_start(self, file: str = "") -> Self:
        """Marks of a new fit that starts from weights with these marks.

        Args:
            file: name of the file that they are read from.
        """
        own = self.plain()
        earlier = own.pop("started_from", [])
        own.pop("results", None)
        if file:
            own["file"] = _cleaned(file)
        return type(self)(started_from=tuple([*([own] if own else []), *earlier][:_MOST]))

    def tested(self, result: Mapping[str, Any]) -> Self:
        """With a test's result in the place of an earlier one on the same data."""
        same = ("dataset", "data_fingerprint")
        others = [one for one in self.results if any(one.get(key) != result.get(key) for key in same)]
        return replace(self, results=tuple([*others, result][-_MOST:]))


_UNTRAINED: dict[str, Any] = {one.name: one.default for one in fields(Marks) if one.name != "started_from"}


def of_import(format: str, file: str) -> Marks:
    """Marks of weights from the original authors' file."""
    return Marks(licence=LICENCES.get(format, ("",))[0], origin={"format": format, "file": _cleaned(file)})


def read_marks(header: Mapping[str, Any], source: str) -> Marks:
    """Marks of a checkpoint's header; nothing in it is trusted.

    Args:
        header: the entry ``uad_zoo``.
        source: named in errors.

    Raises:
        UserError: any value that is not what it should be.
    """
    content = header.get("marks", {})
    if "marks" not in header and isinstance(header.get("origin"), Mapping):  # files from before
        known = header["origin"]
        return of_import(_cleaned(str(known.get("format", ""))), str(known.get("file", "")))
    try:
        return _checked(content)
    except _WrongError as wrong:
        raise UserError(f"{source}: damaged: its marks {wrong}; write the file again from its run") from wrong


class _WrongError(Exception):
    """What is wrong with marks, as the end of a sentence."""


def _checked(content: Any, inner: bool = False) -> Marks:
    names = {one.name for one in fields(Marks)} | ({"file"} if inner else set())
    if not isinstance(content, Mapping) or not set(content) <= names:
        raise _WrongError("should hold " + ", ".join(sorted(names)))
    texts = ("dataset", "data_fingerprint", "data_licence", "file")
    if not all(_is_word(content.get(key, "")) for key in texts):
        raise _WrongError(f"should have words in {', '.join(texts)}")
    if not isinstance(content.get("licence", ""), str) or not _IDENTIFIER.fullmatch(content.get("licence", "")):
        raise _WrongError("should name a licence such as cc-by-4.0")
    if not all(isinstance(content.get(key, False), bool) for key in ("phantom", "semi_supervised")):
        raise _WrongError("should have true or false in phantom, semi_supervised")
    origin = content.get("origin")
    if origin is not None and not (isinstance(origin, Mapping) and all(map(_is_word, [*origin, *origin.values()]))):
        raise _WrongError("should have words in origin")
    for key in ("started_from", "results"):
        entries = content.get(key, ())
        if not isinstance(entries, list | tuple) or len(entries) > _MOST or (inner and entries):
            raise _WrongError(f"should have at most {_MOST} entries in {key}")
    for entry in content.get("started_from", ()):
        _checked(entry, inner=True)
    results = tuple(_checked_result(entry) for entry in content.get("results", ()))
    plain = {key: value for key, value in content.items() if key != "file"}
    return Marks(**plain | {"started_from": tuple(content.get("started_from", ())), "results": results})


def _checked_result(entry: Any) -> dict[str, Any]:
    known = {"dataset", "phantom", "seed", "data_fingerprint", "metrics", "intervals"}
    if not isinstance(entry, Mapping) or not set(entry) <= known:
        raise _WrongError("should have results of " + ", ".join(sorted(known)))
    if not all(_is_word(entry.get(key) or "") for key in ("dataset", "data_fingerprint")):
        raise _WrongError("should have words in results")
    if type(entry.get("phantom", False)) is not bool or type(entry.get("seed")) not in (int, type(None)):
        raise _WrongError("should have plain values in results")
    metrics, intervals = entry.get("metrics", {}), entry.get("intervals", {})
    for part in (metrics, intervals):
        if not isinstance(part, Mapping) or len(part) > 200 or not all(map(_is_word, part)):
            raise _WrongError("should have figures by name in results")
    pairs = [list(value) if isinstance(value, list | tuple) else [None] for value in intervals.values()]
    if not all(_is_figure(value) for value in metrics.values()) or not all(
        len(pair) == 2 and all(map(_is_figure, pair)) for pair in pairs
    ):
        raise _WrongError("should have numbers in results")
    return dict(entry)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and bool(np.isfinite(value))


def _cleaned(text: str) -> str:
    return re.sub(f"[{_ODD}]", "_", text)[:200]


# ---- results of a test ----------------------------------------------------------------------------------------------


def result_of(folder: Path) -> dict[str, Any] | None:
    """The test result in a folder, with 95 % intervals of the image metrics; None where nothing was tested.

    Args:
        folder: with ``metrics.json`` and ``scores.csv``.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    intervals = content.get("certified_intervals", {}) | _intervals(folder)
    return {
        "dataset": _cleaned(str(content.get("dataset"))),
        "phantom": bool(content.get("phantom")),
        "seed": content.get("seed"),
        "data_fingerprint": content.get("data_fingerprint") or "",
        "metrics": {name: value for name, value in content["metrics"].items() if _is_figure(value)},
        "intervals": {
            name: [float(low), float(high)]
            for name, (low, high) in intervals.items()
            if _is_figure(low) and _is_figure(high)
        },
    }


def _intervals(folder: Path) -> dict[str, tuple[float, float]]:
    """Stratified bootstrap of the metrics that follow from the scores of the images alone, over cases."""
    path = folder / "scores.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scores = np.array([float(row["score"]) for row in rows])
    labels = np.array([int(float(row["label"])) for row in rows])
    cases = [row.get("case") or row.get("subject") or row["id"] for row in rows]  # older files have no cases
    found = {name: bootstrap_interval(scores, labels, metric, groups=cases) for name, metric in _BOOTSTRAPPED.items()}
    return {name: (one.low, one.high) for name, one in found.items() if not np.isnan(one.low)}
