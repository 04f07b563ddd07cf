"""The manifest: which file belongs to which split, with which label; and the rules that divide files."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.files import write_rows

SPLITS = ("train", "val", "test", "predict", "unlabeled")
UNLABELED_ILL = 0.6  # share of ill images in the pools of Cai et al. 2023


@dataclass(frozen=True)
class Record:
    """One source image or volume.

    Attributes:
        id: path relative to the root; with ``#012`` appended for a part of a container file.
        image: absolute path.
        split: ``train``, ``val``, ``test``, ``predict`` or ``unlabeled`` (healthy and ill, the label never handed out).
        label: 1 = anomalous. Preprocessing may decide anew, for example per slice.
        subject: patient or volunteer, empty when unknown; no subject may be in two splits.
        mask: absolute path of the ground truth, None when there is none.
        index: position inside a container file.
        boxes: ground truth as ``(x0, y0, x1, y1)`` in pixels of the file.
        companions: absolute paths of further files that preprocessing reads.
        source: the collection that the image comes from, empty when there is but one.
        columns: what else a table says, as ``(column, cell)``: age, sex, scanner, ...
    """

    id: str
    image: str
    split: str = "predict"
    label: int = 0
    subject: str = ""
    mask: str | None = None
    index: int | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    companions: tuple[str, ...] = ()
    source: str = ""
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files that the record is made from."""
        return (self.image, *([self.mask] if self.mask else []), *self.companions)


def hash_order(ids: Iterable[str], seed: int) -> list[str]:
    """Ids in an order that depends on nothing but the ids and the seed: sorted by SHA-256 of ``seed:id``."""
    return sorted(ids, key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).hexdigest())


def held_out(ids: Sequence[str], fraction: float, seed: int) -> set[str]:
    """The part of ``ids`` kept for validation and calibration.

    ``fraction`` of them, at least one if there are two or more; of 60 or more at least 20, since below 19 no decision
    at 5 % is possible.
    """
    unique = sorted(set(ids))
    fewest = 20 if len(unique) >= 60 else 1
    count = max(fewest, round(fraction * len(unique))) if len(unique) > 1 and fraction > 0 else 0
    return set(hash_order(unique, seed)[:count])


def unlabeled_pool(healthy: Iterable[str], ill: Iterable[str], seed: int) -> set[str]:
    """Images to learn from without their labels, where no official list names them.

    A fifth of the healthy ones, which then leave the training set, and as many ill ones as make 60 % of the pool, or
    all; by hash.

    Args:
        healthy: ids of the healthy training images.
        ill: ids of ill images that are not tested.
        seed: of the order.
    """
    own = hash_order(set(healthy), seed)
    own = own[: round(len(own) / 5)]
    count = round(len(own) * UNLABELED_ILL / (1 - UNLABELED_ILL))
    return {*own, *hash_order(set(ill), seed)[:count]}


def manifest_rows(records: Iterable[Record]) -> list[dict[str, str]]:
    """Rows of the manifest, sorted by split and id."""
    ordered = sorted(records, key=lambda record: (SPLITS.index(record.split), record.id))
    return [
        {
            "sample_id": record.id,
            "split": record.split,
            "label": str(record.label),
            "group_id": record.subject,
            "source": record.source,
            "mask": "" if record.mask is None else Path(record.mask).name,
        }
        for record in ordered
    ]


def manifest_hash(records: Iterable[Record]) -> str:
    """SHA-256 over split, id and label of all records: two runs with the same value used the same split."""
    lines = [f"{row['split']},{row['sample_id']},{row['label']}" for row in manifest_rows(records)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_csv(rows: Sequence[dict[str, str]], path: Path, columns: Sequence[str]) -> None:
    """Write ``rows`` to ``path``, whole or not at all."""
    write_rows(path, columns, rows, shared=True)
