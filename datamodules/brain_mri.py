"""Brain MRI of two sources in ``datamodules/brain``: trained on healthy volunteers, tested on tumours or strokes."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datamodules.base import AnomalyDataModule
from datamodules.brain import default_source, find_volumes, sources, what_is_there
from datamodules.brain.preparing import (
    MODEL_GRID,
    SLAB,
    Unstripped,
    in_cradl_region,
    prepare_slab,
    prepare_slices,
    prepare_volume,
    read_volume,
)
from datamodules.brain.stripping import need_program
from datamodules.cache import Prepared
from datamodules.checks import Report
from datamodules.listing import VOLUMES, list_files
from datamodules.overview import A_ROW, Tile, facts_of_files, write_tiles
from datamodules.preprocessing import plain
from datamodules.reading import Array, BadFile, read_nifti, read_volume_file
from datamodules.records import Record, held_out
from datamodules.registry import DataSet
from zoo.errors import UserError
from zoo.registry import nearest

Sequence = Literal["t1", "t2", "flair"]
_HEALTHY, _ILL = default_source("healthy"), default_source("ill")
if TYPE_CHECKING:
    Healthy = str
    Ill = str
else:  # help and messages of the command line list the names
    Healthy = Literal[tuple(sources("healthy"))]
    Ill = Literal[tuple(sources("ill"))]


class BrainMRI(AnomalyDataModule):
    """Brain MRI as slices or volumes.

    ``mode: slices`` is the preprocessing of the feature autoencoder: the central 80 mm of the SRI24 grid, squared,
    resized, equalised inside the brain; [0, 1]. ``mode: volumes`` is that of the multi-task paper: 1 mm, z-scores over
    the brain, cropped, halved, padded to 80 x 112 x 80 (z, y, x with x to the left); about [-5, 5], background 0.
    ``mode: slab`` is the feature autoencoder's 80 slices as one volume, for statistics that know heights.

    Axes and spacing come from the headers. Volumes should be skull-stripped (``unstripped``); nothing is registered:
    volumes that are not on the SRI24 grid are placed by the middle of the brain.

    ``root`` holds the data sets anywhere below it, in their official trees; ``train_root`` and ``test_root`` name other
    places. Without any of them, phantoms of both are generated.
    """

    card = {
        "title": "brains of two sources: healthy volunteers to train on, patients to find lesions in",
        "access": "that of the sources",
        "licence": "that of the sources",
        "layout": "the trees of both sources anywhere below the root",
        "sources": "brain",
        "config": "data/brain_mri",
        "images": "slices or volumes",
        "channels": (1,),
        "value_range": (0.0, 1.0),
        "foreground": "above_minimum",
        "subject": "the volunteer or patient",
        "protocol": "mode slices or slab: feature autoencoder; mode volumes: multi-task paper",
        "leaks": "volunteers and patients come from different scanners, ages and processing",
    }

    def __init__(
        self,
        *,
        root: str | None = None,
        train: Healthy = _HEALTHY,
        test: Ill = _ILL,
        sequence: Sequence = "t1",
        mode: Literal["slices", "volumes", "slab"] = "slices",
        unstripped: Unstripped = "refuse",
        train_root: str | None = None,
        test_root: str | None = None,
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder above both data sets.
            train: the source of healthy volunteers (``zoo data list`` describes all).
            test: the source of patients.
            sequence: ``t1``, ``t2`` or ``flair``.
            mode: ``slices`` (2-D, 128 x 128 by default), ``volumes`` (3-D, 80 x 112 x 80 by default) or ``slab`` (3-D,
                80 x 128 x 128 by default; one number in ``image_size`` is the side of a slice).
            unstripped: ``refuse`` heads with skull, ``strip`` them with a rough mask, or by the program ``hd-bet``,
                if it is installed.
            train_root: folder of the healthy volunteers, if not below ``root``.
            test_root: folder of the patients, if not below ``root``.
            **common: see :class:`AnomalyDataModule`.
        """
        places = [place for place in (root, train_root, test_root) if place is not None]
        super().__init__(root=places[0] if places else None, **common)
        _refuse_unknown("train", "healthy", train, sequence)
        _refuse_unknown("test", "ill", test, sequence)
        if root is None and (train_root is None) != (test_root is None):
            raise UserError("data.train_root and data.test_root belong together; give both, or data.root")
        self.train, self.test, self.sequence, self.mode = train, test, sequence, mode
        self.unstripped: Unstripped = unstripped
        if unstripped == "hd-bet":
            need_program()
        self.train_root = None if train_root is None else Path(train_root).expanduser()
        self.test_root = None if test_root is None else Path(test_root).expanduser()
        if mode == "volumes":
            self.value_range, self.stored_range, self.foreground_rule = (-5.0, 5.0), None, "nonzero"

    @property
    def name(self) -> str:  # type: ignore[override]
        """Test set, sequence and mode, for example ``<source>_t1``."""
        return f"{self.test}_{self.sequence}" + {"slices": "", "volumes": "_3d", "slab": "_slab"}[self.mode]

    @property
    def spatial_size(self) -> tuple[int, ...]:
        """``(H, W)`` or ``(D, H, W)``."""
        if self.image_size is None:
            return {"slices": (128, 128), "volumes": MODEL_GRID, "slab": (SLAB, 128, 128)}[self.mode]
        size = self.image_size
        dims = 2 if self.mode == "slices" else 3
        if self.mode == "slab" and isinstance(size, int):
            return (SLAB, size, size)
        size = (size,) * dims if isinstance(size, int) else tuple(size)
        if len(size) != dims:
            raise UserError(f"data.image_size {size} has {len(size)} sides, mode {self.mode} needs {dims}")
        if self.mode == "slab" and size[0] != SLAB:
            raise UserError(f"data.image_size {size}: a slab has {SLAB} slices; give the side of a slice alone")
        return size

    def write_phantom(self, root: Path) -> None:
        """Both data sets, each in a folder of its own."""
        from datamodules import phantoms

        root.mkdir(parents=True, exist_ok=True)
        for name in (self.train, self.test):
            phantoms.write(name, root / name, preset=self.phantom_preset, seed=self.seed)
        (root / "PHANTOM_DATA.json").write_bytes((root / self.test / "PHANTOM_DATA.json").read_bytes())

    @property
    def phantom_key(self) -> str:
        """Both data sets and the preset."""
        return f"{self.train}-{self.test}-{self.phantom_preset}"

    def index(self, root: Path) -> list[Record]:
        """All healthy volunteers to train (a share held out), all patients to test."""
        train_root, test_root = self.train_root or root, self.test_root or root
        problems: list[BadFile] = []
        healthy = list(find_volumes(train_root, self.train, self.sequence, problems))
        if not healthy and not problems:
            raise UserError(_nothing(train_root, self.train, self.sequence))
        missing = len(problems)
        patients = list(find_volumes(test_root, self.test, self.sequence, problems))
        self.report(problems)
        if not patients:
            raise UserError(_nothing(test_root, self.test, self.sequence, problems[missing:]))
        val = held_out([record.subject for record in healthy], self.val_fraction, self.seed)
        divided = [
            Record(**{**vars(record), "split": "val" if record.subject in val else "train"}) for record in healthy
        ]
        return divided + patients

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Of the feature autoencoder or of the multi-task paper."""
        if self.mode == "slices":
            return partial(prepare_slices, size=self.spatial_size, unstripped=self.unstripped)
        prepare = prepare_volume if self.mode == "volumes" else prepare_slab
        return partial(prepare, size=self.spatial_size, unstripped=self.unstripped)

    @property
    def has_cradl_region(self) -> bool:
        """Whether :meth:`in_cradl_region` works: volumes of a collection on which CRADL was evaluated."""
        return self.mode == "volumes" and "cradl" in sources("ill")[self.test].more

    def in_cradl_region(self, name: str, anomaly_map: Array) -> tuple[Array, Array]:
        """A map of a tested volume, and the ground truth, in CRADL's slices.

        Args:
            name: ``id`` of the volume.
            anomaly_map: ``(D, H, W)``.

        Returns:
            tuple: ``(n, 128, 128)`` float and bool.
        """
        self.setup()
        record = next(one for one in self.records if one.id == name)
        return in_cradl_region(record, anomaly_map, self.unstripped)

    @property
    def channels(self) -> int:
        """One sequence."""
        return 1

    @property
    def parameters(self) -> dict[str, Any]:
        """Mode, size and stripping."""
        return plain({"mode": self.mode, "size": self.spatial_size, "unstripped": self.unstripped})


def _refuse_unknown(key: str, role: str, name: str, sequence: str) -> None:
    known = sources(role)
    if name not in known:
        raise UserError(f"data.{key}: no source '{name}'; nearest: {', '.join(nearest(name, known) or known)}")
    own = known[name].more["sequences"]
    if own and sequence not in own:
        others = [other for other, entry in known.items() if sequence in (entry.more["sequences"] or (sequence,))]
        remedy = f"use sequence {' or '.join(own)}" + (f", or {key} {', '.join(others)}" if others else "")
        raise UserError(f"data.{key} {name} has no {sequence.upper()}; {remedy}")


def _nothing(root: Path, name: str, sequence: str, problems: list[BadFile] | None = None) -> str:
    if problems:
        return f"{root}: no usable {sequence} volume of {name} below it; first: {problems[0]}"
    told = what_is_there(root, name)
    return f"{root}: no {sequence} volume of {name} below it, {told}; `zoo data list` shows the official trees"


# ---- one source alone, for the commands -----------------------------------------------------------------------------


def data_module(source: DataSet, **options: Any) -> BrainMRI:
    """The source with a partner that has one of its sequences, heads stripped where they are published with a skull.

    Args:
        source: one of ``datamodules/brain``.
        **options: of :class:`BrainMRI`.
    """
    healthy = source.more["role"] == "healthy"
    for other in sources("ill" if healthy else "healthy").values():
        common = [one for one in ("t1", "t2", "flair") if _has(source, one) and _has(other, one)]
        if common and not other.more.get("skull", False):
            train, test = (source, other) if healthy else (other, source)
            strip: Unstripped = "strip" if source.more.get("skull", False) else "refuse"
            chosen = {"train": train.name, "test": test.name, "sequence": common[0], "unstripped": strip}
            return BrainMRI(**{**chosen, **options})
    raise UserError(f"{source.name} has no sequence in common with any other source")


def _has(source: DataSet, sequence: str) -> bool:
    return not source.more["sequences"] or sequence in source.more["sequences"]


def usage(source: DataSet, root: Path) -> str:
    """Options that fit a method with the source below ``root``."""
    part, other = ("test", "train") if source.more["role"] == "ill" else ("train", "test")
    strip = " --data.unstripped strip" if source.more.get("skull", False) else ""
    return f"--data.{part} {source.name} --data.{part}_root {root} --data.{other}_root FOLDER{strip}"


def examine(source: DataSet, root: Path, options: Mapping[str, Any] | None = None, sheet: Path | None = None) -> Report:
    """Read all volumes of the source, in each of its sequences or in that of ``options``.

    Args:
        source: one of ``datamodules/brain``.
        root: any folder above its tree.
        options: of :class:`BrainMRI`; with ``mode`` every volume is prepared as ``fit`` does.
        sheet: where a picture with slices of up to twelve volumes of each sequence is written; None: nowhere.
    """
    given = {key: value for key, value in (options or {}).items() if key not in ("root", "cache_dir")}
    sequence, unstripped = given.pop("sequence", None), given.setdefault("unstripped", "refuse")
    own = source.more["sequences"] or ("t1",)
    if sequence is not None and sequence not in own:
        raise UserError(f"--data.sequence: {source.name} has no {sequence}; it has {', '.join(own)}")
    prepare = data_module(source, **given).preprocessing() if "mode" in given else None
    problems: dict[str, None] = {}
    heads = 0
    opened: set[str] = set()
    subjects: set[str] = set()
    images: list[str] = []
    counts: dict[str, int] = {}
    rows: list[list[Tile]] = []
    for one in own if sequence is None else (sequence,):
        found: list[BadFile] = []
        records = list(find_volumes(root, source.name, one, found))
        counts[one] = len(records)
        if records or source.more["role"] == "ill":
            problems.update(dict.fromkeys(str(each) for each in found))
        rows.append([])
        for record in records:
            opened.update(record.files)
            subjects.add(record.subject)
            images.append(record.image)
            try:
                volume, _, truth = read_volume(record, unstripped)
                if prepare is not None:
                    prepare(record)
                if sheet is not None and len(rows[-1]) < A_ROW:
                    rows[-1].append(_tile_of(volume, truth))
            except BadFile as problem:
                if "unstripped" in problem.found and source.more.get("skull", False):  # as published
                    heads += 1
                    if sheet is not None and len(rows[-1]) < A_ROW:
                        rows[-1].append(_tile_of(read_nifti(record.image, canonical=True)[0], None))
                else:
                    problems[str(problem)] = None
    counts = {part: count for part, count in counts.items() if count}
    for file in list_files(root, VOLUMES):  # those that no configuration reads, too
        if str(file) not in opened:
            try:
                read_volume_file(file, canonical=False)
            except BadFile as problem:
                problems[str(problem)] = None
    if not counts:
        told = what_is_there(root, source.name)
        problems.setdefault(f"{root}: no volume of {source.name} below it, {told}", None)
    if sheet is not None and any(rows):
        write_tiles([row for row in rows if row], sheet)
    notes = [f"{heads} volumes have a skull: strip them, or set data.unstripped strip"] if heads else []
    facts = facts_of_files(images) | ({"subjects": str(len(subjects))} if subjects else {})
    return Report({"volumes": max(counts.values(), default=0), **counts}, list(problems), notes, facts)


def _tile_of(volume: Array, truth: Array | None) -> Tile:
    """The axial slice with the largest outline, else the middle one, with the forehead up and the left on the left."""
    marked = None if truth is None or not truth.any() else truth != 0
    plane = volume.shape[2] // 2 if marked is None else int(marked.sum((0, 1)).argmax())
    mask = np.zeros(volume.shape[:2], bool) if marked is None else marked[..., plane]
    high = float(np.percentile(volume[volume != 0], 99.5)) if volume.any() else 1.0
    return Tile(np.rot90(volume[..., plane])[None], np.rot90(mask), (0.0, max(high, 1e-6)))
