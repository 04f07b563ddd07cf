"""A model's calibration: what healthy cases scored, in plain values that travel with its weights."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.decision.cases import RULES, CaseScore
from zoo.decision.conformal import needed
from zoo.decision.findings import POINTS, MapReference
from zoo.errors import UserError
from zoo.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_MAX_CASES = 100_000
_MAX_FOLDS = 100
_MAX_BYTES = 1 << 25


@dataclass(frozen=True)
class Calibration:
    """Scores of healthy cases and what they belong to. It names no case and no patient.

    Attributes:
        scores: ``n`` case scores, ascending; the lists of cases below are in the same order.
        images: ``n`` numbers of images.
        groups: ``n`` groups (scanner, site, ...), empty where none are told.
        statistics: ``n`` values by name of an image statistic, means over the case's images.
        maps: what maps are compared with; None for methods that do not localise.
        case_score: how a case's images become its score.
        source: where the cases are from: ``held out``, ``half of the held out``, or a folder.
        selected_by: what the other held-out cases chose, empty if nothing.
        held_out: number of held-out cases in all, 0 for a folder.
        method: name.
        weights: SHA-256 of the weights.
        data: fingerprint of the training data, empty if unknown.
        image_size: of the model's input.
        in_channels: of the model's input.
        value_range: of the images.
        precision: of the trainer.
        device: type of the device.
        phantom: the healthy cases are generated images.
        date: ISO 8601.
        version: of this package.
        folds: cross-conformal: ``n`` fold of each case, which the fold's own model has scored; else empty.
        members: SHA-256 of the weights of each fold's model; else empty.
    """

    scores: list[float]
    images: list[int]
    groups: list[str]
    statistics: dict[str, list[float]]
    maps: MapReference | None
    case_score: CaseScore
    source: str
    method: str
    weights: str
    image_size: list[int]
    in_channels: int
    value_range: list[float]
    selected_by: str = ""
    held_out: int = 0
    data: str = ""
    precision: str = "32-true"
    device: str = "cpu"
    phantom: bool = False
    date: str = ""
    version: str = ""
    format: int = field(default=FORMAT)
    folds: list[int] = field(default_factory=list)
    members: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that a new case can have."""
        return 1 / (len(self) + 1)

    def plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only."""
        content = asdict(self)
        content["maps"] = None if self.maps is None else self.maps._asdict()
        return {key: value for key, value in content.items() if value or key not in _OF_FOLDS}

    def by_fold(self, judges: "np.ndarray[Any, Any]") -> list["np.ndarray[Any, Any]"]:
        """Scores of each fold's cases.

        Args:
            judges: ``(n,)`` bool, the cases that count.
        """
        scores, folds = np.asarray(self.scores), np.asarray(self.folds)
        return [scores[judges & (folds == number)] for number in range(len(self.members))]

    def digest(self) -> str:
        """The first 16 digits of the SHA-256 of the content."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, json.dumps(self.plain()) + "\n")

    def told(self) -> str:
        """One line for the user."""
        n = len(self)
        part = f" of {self.held_out} held-out cases: the others chose {self.selected_by}" if self.selected_by else ""
        cases = f"{n} healthy cases ({self.source})" if not part else f"{n}{part}"
        if self.members:
            cases += f", cross-conformal with {len(self.members)} models: guaranteed at twice the level"
        limit = "" if n >= needed(0.05) else f"; no decision below level {self.smallest_p:.3g}, 19 are needed for 5 %"
        phantom = "; PHANTOM data: no statement on real images" if self.phantom else ""
        return f"calibrated on {cases}: p-values from {self.smallest_p:.3g}{limit}{phantom}"


_OF_FOLDS = ("folds", "members")


def from_plain(content: Any, source: str) -> Calibration:
    """A calibration from what a file holds; nothing is trusted.

    Args:
        content: see :meth:`Calibration.plain`.
        source: named in errors.

    Raises:
        UserError: any value that is not what it should be.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"{source}: damaged calibration: {what}; make it again with `zoo calibrate`")

    if not isinstance(content, Mapping):
        raise refuse("no mapping")
    if type(content.get("format")) is not int or content["format"] > FORMAT or content["format"] < 1:
        raise refuse(f"format {str(content.get('format'))[:20]}, this version reads {FORMAT}")
    known = {one.name for one in fields(Calibration)}
    odd = (set(content) ^ known) - set(_OF_FOLDS)
    if odd:
        raise refuse(f"keys {', '.join(sorted(map(str, odd))[:4])[:120]} are missing or unknown")
    scores = content["scores"]
    if not isinstance(scores, list) or not 0 < len(scores) <= _MAX_CASES:
        raise refuse(f"scores should be a list of 1 to {_MAX_CASES} numbers")
    n = len(scores)
    if not _numbers(scores, n) or scores != sorted(scores):
        raise refuse("scores should be finite numbers in ascending order")
    if not _numbers(content["images"], n) or not all(type(one) is int and one > 0 for one in content["images"]):
        raise refuse(f"images should be {n} positive whole numbers")
    if not (isinstance(content["groups"], list) and len(content["groups"]) == n and _strings(content["groups"])):
        raise refuse(f"groups should be {n} words")
    statistics = content["statistics"]
    if not isinstance(statistics, dict) or len(statistics) > 20 or not _strings(list(statistics)):
        raise refuse("statistics should be lists of numbers by name")
    if not all(_numbers(values, n) for values in statistics.values()):
        raise refuse(f"statistics should be {n} finite numbers each")
    if content["case_score"] not in list(RULES):
        raise refuse(f"case_score should be one of {', '.join(RULES)}")
    words = ("source", "method", "weights", "selected_by", "data", "precision", "device", "date", "version")
    if not _strings([content[name] for name in words]):
        raise refuse("words expected in " + ", ".join(words))
    if not _numbers(content["value_range"], 2) or type(content["phantom"]) is not bool:
        raise refuse("value_range should be two numbers, phantom true or false")
    size = content["image_size"]
    whole = [*size, content["in_channels"], content["held_out"]] if isinstance(size, list | tuple) else [None]
    if len(whole) > 5 or not all(type(one) is int and 0 <= one < 1 << 20 for one in whole):
        raise refuse("image_size, in_channels and held_out should be whole numbers")
    folds, members = content.get("folds", []), content.get("members", [])
    if not isinstance(members, list) or len(members) > _MAX_FOLDS or not _strings(members):
        raise refuse(f"members should be at most {_MAX_FOLDS} words")
    if not isinstance(folds, list) or len(folds) != (n if members else 0):
        raise refuse("folds should be a number for each case, where there are members")
    if not all(type(one) is int and 0 <= one < len(members) for one in folds):
        raise refuse("folds should be numbers of members")
    plain = dict(content) | {"image_size": list(size), "value_range": list(content["value_range"])}
    return Calibration(**plain | {"maps": _maps(content["maps"], n, refuse)})


def _maps(content: Any, n: int, refuse: Any) -> MapReference | None:
    if content is None:
        return None
    if not isinstance(content, Mapping) or set(content) != set(MapReference._fields):
        raise refuse("maps should hold " + ", ".join(MapReference._fields))
    lengths = {"maxima": n, "largest": n, "quantiles": POINTS}
    if not all(_numbers(content[name], length) for name, length in lengths.items()):
        raise refuse(f"maps should hold {n} maxima, {n} largest and {POINTS} quantiles")
    if not _numbers([content["primary"]], 1) or content["quantiles"] != sorted(content["quantiles"]):
        raise refuse("maps: primary should be a number, quantiles ascending")
    return MapReference(**content)


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(one) in (int, float) and abs(one) < 1e300 and math.isfinite(one) for one in values)
    )


def _strings(values: list[Any]) -> bool:
    return all(isinstance(one, str) and len(one) <= 1000 for one in values)


def load(path: Path) -> Calibration:
    """Read a file of :meth:`Calibration.save`.

    Raises:
        UserError: not one of ours, damaged, or larger than any that we write.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such calibration")
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: larger than {_MAX_BYTES} bytes; no calibration of this package is")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged calibration: no text") from error
    return parsed(text, str(path))


def parsed(text: str, source: str) -> Calibration:
    """A calibration from JSON; see :func:`from_plain`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: damaged calibration: no JSON ({str(error)[:80]})") from error
    return from_plain(content, source)


# ---- what it belongs to ---------------------------------------------------------------------------------------------


def weights_digest(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 over names, types, shapes and values of tensors, whatever their order and device."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check(calibration: Calibration, digest: str, image_size: Sequence[int] | None, source: str) -> None:
    """Refuse a calibration of other weights or of another input.

    Args:
        calibration: to be used.
        digest: of the checkpoint's weights, see :func:`weights_digest`.
        image_size: of the model, None where unknown.
        source: of the calibration, named in the error.

    Raises:
        UserError: it does not belong to the model.
    """
    if calibration.weights != digest:
        raise UserError(
            f"{source} belongs to other weights ({calibration.weights[:4]}..., this checkpoint {digest[:4]}...): run "
            "zoo calibrate again"
        )
    if image_size is not None and list(image_size) != calibration.image_size:
        raise UserError(
            f"{source}: calibrated at image size {calibration.image_size}, the model takes {list(image_size)}"
        )


def newest(folder: Path) -> Path | None:
    """The newest calibration of a run's folder, or None."""
    return max((folder / "calibrations").glob("[0-9]*.json"), default=None)


def sorted_by_score(scores: np.ndarray[Any, Any], **lists: list[Any]) -> dict[str, list[Any]]:
    """Lists of cases in the order of their scores, which hides the order of the files."""
    order = np.argsort(scores, kind="stable")
    return {name: [values[place] for place in order] for name, values in {"scores": scores.tolist(), **lists}.items()}
