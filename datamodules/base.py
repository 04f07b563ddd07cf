"""What all data sets share: :class:`Sample`, the batch, and :class:`AnomalyDataModule`."""

import glob
import hashlib
import inspect
import json
import os
import re
import shutil
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.cache import Prepared, Store, content_digests, exclusive, list_problems, open_store
from datamodules.checks import NearCopy, find_leaks, full_masks, near_copies, refuse_destroyed_greys
from datamodules.device import DeviceImages, random_resized_crop
from datamodules.integrity import checksums_of, damage, default_cache, seal
from datamodules.listing import companions, shown, walk
from datamodules.loading import Batch, CachedImages, EpochOrder, ResumableLoader, keep_batch
from datamodules.reading import Array, BadFile
from datamodules.records import Record, hash_order, manifest_hash, write_csv
from datamodules.registry import cards
from datamodules.validation import WithSyntheticAnomalies, unseen_kinds
from zoo.errors import UserError
from zoo.sample import Sample

__all__ = ["PHANTOM_MARKER", "AnomalyDataModule", "Sample", "default_cache"]

PHANTOM_MARKER = "PHANTOM_DATA.json"
READABLE = "readable are pictures (png, jpg, tif, ...), DICOM, NIfTI and other volumes, npy"


class AnomalyDataModule(LightningDataModule):
    """Base of all data sets: phantom, cache, splits, checks and loaders.

    A subclass writes :meth:`index`, which lists the files, and :meth:`preprocessing`, which reads one; and says its
    :attr:`channels`. Training sees healthy images only. Validation shows held-out healthy images, once as they are and
    once with a synthetic anomaly. Without ``root`` a phantom of the same layout is generated once and read.

    Attributes:
        card: what the data set is, see :class:`datamodules.registry.DataSet`.
        value_range: the range of ``image``, by the card or by options.
        foreground_rule: how the foreground follows from an image alone, by the card or by options, see
            :mod:`zoo.foreground`.
        stored_range: bounds for 16-bit storage, None for unbounded values, stored as float32.
        predict_input: when set, a file, folder or pattern of names (``*``), or several of them, that ``predict`` serves
            instead of the test set.
        predict_split: when set, the part of :meth:`dataset` that ``predict`` serves.
        records: all records, in the order of the store, after :meth:`setup`.
        manifest: the records that could be read, after :meth:`setup`.
        rejected: what lenient reading left out, after :meth:`setup`.
        store: the cache entry, after :meth:`setup`.
    """

    card: ClassVar[dict[str, Any]] = {}
    value_range: tuple[float, float] = (0.0, 1.0)
    foreground_rule: str = "all"
    stored_range: tuple[float, float] | None = (0.0, 1.0)
    phantom_name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        """Take name, range and rule of the foreground from the class's card, if it has one."""
        super().__init_subclass__(**options)
        if "card" in vars(cls):
            cls.phantom_name = cls.__module__.rpartition(".")[2]
            cls.value_range = cls.card.get("value_range", cls.value_range)
            cls.foreground_rule = cls.card.get("foreground", cls.foreground_rule)

    def __init__(
        self,
        *,
        root: str | None = None,
        image_size: int | tuple[int, ...] | None = None,
        batch_size: int | Literal["auto"] = 32,
        num_workers: int | Literal["auto"] = 0,
        cache_dir: str | None = None,
        seed: int = 0,
        bad_files: Literal["strict", "lenient"] = "strict",
        val_fraction: float = 0.1,
        max_val_images: int = 256,
        phantom_preset: str = "smoke",
        device_store: Literal["off", "uint8", "float16"] = "off",
        random_crop: tuple[float, float] | None = None,
        unlabeled: bool = False,
    ) -> None:
        """Remember the arguments; files are first touched by :meth:`setup`.

        Args:
            root: folder of the data; None generates a phantom.
            image_size: side or sides in pixels.
            batch_size: images per batch; ``auto``: in ``fit`` the largest power of two up to 256 that takes half of the
                free memory, as measured with a few images; elsewhere 32.
            num_workers: loader processes; 0 is the fastest on a CPU, because a batch is one read from the cache;
                ``auto``: 0 there, and up to 4 beside a GPU.
            cache_dir: where prepared arrays and phantoms are kept; default ``$XDG_CACHE_HOME/uad-zoo``.
            seed: of splits by rule, of the training order, of synthetic anomalies and of the phantom.
            bad_files: ``strict`` stops at files that cannot be used, ``lenient`` leaves them out and lists them.
            val_fraction: share of the healthy training subjects held out where there is no official list.
            max_val_images: validation uses at most so many healthy images, spread evenly over the held-out ones.
            phantom_preset: ``smoke``, ``small``, ``demo`` or ``full-shape``.
            device_store: hold all training images on the accelerator in this precision; ``off`` reads the cache.
            random_crop: train on random resized crops of this share of the area, for example (0.2, 1), half of them
                mirrored; 2-D only.
            unlabeled: put images of unknown health beside each healthy training batch, for semi-supervised methods;
                only sets that have such a pool. Results are then marked as semi-supervised.
        """
        super().__init__()
        self.batch_auto = batch_size == "auto"
        batch_size = 32 if batch_size == "auto" else batch_size
        if batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, found {batch_size}")
        if num_workers == "auto":
            num_workers = workers_beside() if device_store == "off" else 0
        if not 0 <= val_fraction < 1:
            raise UserError(f"data.val_fraction must be in [0, 1), found {val_fraction}")
        self.root = None if root is None else Path(root).expanduser()
        self.image_size = image_size
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.cache_dir = default_cache() if cache_dir is None else Path(cache_dir).expanduser()
        self.bad_files, self.val_fraction, self.max_val_images = bad_files, val_fraction, max_val_images
        self.phantom_preset = phantom_preset
        self.device_store, self.random_crop = device_store, random_crop
        if device_store != "off" and num_workers:
            raise UserError("data.device_store needs data.num_workers 0: batches are made on the accelerator")
        if unlabeled and random_crop is not None:
            raise UserError("data.unlabeled and data.random_crop do not go together: the pool is not cropped")
        self.unlabeled = unlabeled
        self.predict_input: str | Sequence[str] | None = None
        self.manifest: list[Record] = []
        self.records: list[Record] = []
        self.rejected: list[str] = []
        self.store: Store | None = None
        self._folder: Path | None = None
        self._predict: CachedImages | None = None
        self._reserved = False
        self._sizing = False  # spatial_size is being found out
        self.predict_split: str | None = None
        self._assigned: dict[str, frozenset[str]] = {}

    # ---- what a data set writes -----------------------------------------------------------------------------------

    @abstractmethod
    def index(self, root: Path) -> list[Record]:
        """The records of ``root`` with their splits; labels in ``train`` and ``val`` are 0.

        Raises:
            UserError: the layout is not the expected one.
        """

    @abstractmethod
    def preprocessing(self) -> Callable[[Record], Prepared]:
        """A function that reads and preprocesses one record."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of ``image``."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """All options that decide the pixels."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of data set and variant, used for folders and tables."""
        return self.phantom_name

    @property
    def phantom_key(self) -> str:
        """Everything but the seed that decides the phantom."""
        return f"{self.phantom_name}-{self.phantom_preset}"

    def write_phantom(self, root: Path) -> None:
        """Write the phantom in the official layout to ``root``."""
        from datamodules import phantoms

        phantoms.write(self.phantom_name, root, preset=self.phantom_preset, seed=self.seed)

    @classmethod
    def open_for_check(cls, root: Path, **options: Any) -> "AnomalyDataModule":
        """The data set as ``zoo data check`` reads it, with its default options."""
        return cls(root=str(root), **options)

    def official_counts(self) -> dict[str, int]:
        """Counts of the parts that the card's official numbers name, after :meth:`setup`."""
        return {}

    def notes(self) -> list[str]:
        """What ``zoo data check`` should tell of this data set's own lists and tables, after :meth:`setup`."""
        return []

    # ---- what everybody reads -------------------------------------------------------------------------------------

    @property
    def spatial_size(self) -> tuple[int, ...]:
        """The spatial size of ``image``.

        Raises:
            UserError: ``image_size`` is not set and the files do not tell it.
        """
        if self.image_size is None:
            if self._sizing:
                raise UserError(
                    f"data.image_size: {type(self).__name__} needs it, its preprocessing asks for the size before a "
                    "file is read; give one, for example 128"
                )
            self._sizing = True
            try:
                self.setup()
            finally:
                self._sizing = False
            assert self.store is not None
            return self.store.shape[1:]
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(C, *S)``."""
        return (self.channels, *self.spatial_size)

    @property
    def standardised(self) -> bool:
        """The images are z-scores, without bounds."""
        return self.stored_range is None

    @property
    def phantom(self) -> bool:
        """True when the data are generated; everything derived from them must say so."""
        return self.root is None or (self.root / PHANTOM_MARKER).is_file()

    def fingerprint(self) -> str:
        """SHA-256 over the content of all files, the splits and the preprocessing; the same on every machine."""
        self.setup()
        digests = content_digests((file for record in self.manifest for file in record.files), self.cache_dir)
        content = [[record.id, [digests[file] for file in record.files]] for record in self.manifest]
        parts = [self.name, self.parameters, manifest_hash(self.manifest), sorted(content), self.phantom]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def folder(self) -> Path:
        """The folder that is read: ``root``, or the phantom, generated at the first call.

        Raises:
            UserError: ``root`` does not exist.
        """
        if self._folder is None:
            if self.root is not None:
                if not self.root.is_dir():
                    raise UserError(
                        f"data.root: no folder {self.root}; give the folder of the data, or none to run on a phantom"
                    )
                self._folder = self.root
            else:
                self._folder = self._generated()
        return self._folder

    def _generated(self) -> Path:
        from datamodules.phantoms import VERSION

        target = self.cache_dir / "phantoms" / f"{self.phantom_key}-v{VERSION}-{self.seed}"
        with exclusive(target.with_name(target.name + ".lock")):
            problem = damage(target) if (target / PHANTOM_MARKER).is_file() else "is missing"
            if target.is_dir() and problem is not None:
                warnings.warn(f"{target}: damaged ({problem}); made again")
                shutil.rmtree(target)
            if problem is not None:
                for stale in target.parent.glob(f"*{target.name}.part*"):  # of a killed process; the lock is ours
                    shutil.rmtree(stale, ignore_errors=True)
                part = target.with_name(f"{target.name}.part")
                try:
                    self.write_phantom(part)
                    seal(part, checksums_of(target))
                    part.replace(target)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
        return target

    # ---- Lightning ------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Generate the phantom and fill the cache; not needed to predict other files."""
        if self.predict_input is None:
            self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Index, split, open the cache and check for leaks; does nothing the second time.

        Raises:
            UserError: files or layout cannot be used.
        """
        if self.store is not None or (stage == "predict" and self.predict_input is not None):
            return
        records = sorted(self.index(self.folder()), key=lambda record: record.id)  # whatever the split
        _refuse_double_use(records)
        self.store = self._open(records)
        self.manifest = [record for position, record in enumerate(records) if position not in self.store.rejected]
        self.records = records
        self.rejected += self.store.rejected.values()
        if self.rejected:
            listing = self.cache_dir / f"{self.name}-rejected.csv"
            write_csv([{"problem": problem} for problem in self.rejected], listing, ("problem",))
            warnings.warn(f"{len(self.rejected)} files left out, listed in {listing}; first: {self.rejected[0]}")
        self._check_splits()
        refuse_destroyed_greys(self.store, str(self.folder()))
        for note in self.check_notes():
            warnings.warn(note)
        leaks = find_leaks(self.store, records)
        if leaks:
            warnings.warn(
                f"{len(leaks)} images are in more than one split, for example {leaks[0]}; see `zoo data check`"
            )

    def check_notes(self) -> list[str]:
        """What is doubtful about the images and masks of the store, one line each."""
        assert self.store is not None
        return full_masks(self.store, self.records)

    def report(self, problems: Sequence[BadFile]) -> None:
        """Stop at problems found while indexing (strict), or note what is left out (lenient).

        Raises:
            UserError: at most six lines that list the problems.
        """
        if problems and self.bad_files == "strict":
            raise UserError(list_problems([str(problem) for problem in problems]))
        self.rejected += [str(problem) for problem in problems]

    def _open(self, records: Sequence[Record]) -> Store:
        return open_store(
            self.name,
            records,
            self.preprocessing(),
            cache_dir=self.cache_dir,
            parameters=self.parameters,
            value_range=self.stored_range,
            bad_files=self.bad_files,
        )

    def _check_splits(self) -> None:
        counts = {split: len(self._positions(split)) for split in ("train", "val", "test")}
        if not counts["train"]:
            raise UserError(f"{self.folder()}: no healthy image to train on")
        if self.unlabeled and not len(self._positions("unlabeled")):
            raise UserError(
                f"data.unlabeled: {self.folder()} read as {self.name} has no unlabelled images; leave it out, or take "
                f"a set that has them: {', '.join(name for name, entry in cards().items() if entry.pool)}"
            )
        if not counts["val"]:
            reason = "val_fraction is 0" if self.val_fraction == 0 else "too few healthy images to hold some out"
            warnings.warn(f"{self.folder()}: {reason}, validation uses training images")

    def _positions(self, split: str) -> Array:
        """Positions in the store that belong to ``split``; anomalous slices never train or validate."""
        assert self.store is not None
        assigned = self._assigned.get(split)
        splits = (split,) if assigned is None else ("train", "val")
        wanted = np.array([record.split in splits for record in self.records], bool)[self.store.record]
        if split in ("train", "val"):
            wanted &= self.labels(np.arange(len(self.store))) == 0
        found = np.flatnonzero(wanted)
        if assigned is not None:
            found = found[[name in assigned for name in self._ids(self.store, self.records, found)]]
        return found

    @staticmethod
    def _ids(store: Store, records: Sequence[Record], positions: Array) -> list[str]:
        owners = [records[number].id for number in store.record[positions]]
        return [o if s < 0 else f"{o}#{s:03d}" for o, s in zip(owners, store.slices[positions], strict=True)]

    def healthy_groups(self) -> list[list[str]]:
        """Ids of all healthy images to train on and to validate with, grouped by subject, in the order of the ids."""
        self.setup()
        assert self.store is not None
        wanted = np.array([record.split in ("train", "val") for record in self.records], bool)[self.store.record]
        positions = np.flatnonzero(wanted & (self.labels(np.arange(len(self.store))) == 0))
        groups: dict[str, list[str]] = {}
        for position, name in zip(positions, self._ids(self.store, self.records, positions), strict=True):
            owner = self.records[self.store.record[position]]
            groups.setdefault(owner.subject or owner.id, []).append(name)
        return [sorted(group) for group in sorted(groups.values(), key=min)]

    def assign(self, train: Iterable[str] | None = None, val: Iterable[str] | None = None) -> None:
        """Train on and validate with these healthy images instead of the split's own, as cross-validation needs it.

        Args:
            train: ids of :meth:`healthy_groups`; None: the split's own again.
            val: the same for validation.
        """
        given = {"train": train, "val": val}
        self._assigned = {split: frozenset(ids) for split, ids in given.items() if ids is not None}

    def near_copies(self) -> list[NearCopy]:
        """Test images that look like a training image; none of volumes and slices, which are alike by nature."""
        self.setup()
        assert self.store is not None
        if len(self.store.shape) != 3 or (self.store.slices >= 0).any():
            return []
        return near_copies(self.store, self.records)

    def labels(self, positions: Array) -> Array:
        """Labels ``(n,)`` int64 of positions in the store, 1 = anomalous."""
        assert self.store is not None
        own = np.array([record.label for record in self.records], np.int64)[self.store.record[positions]]
        decided = self.store.labels[positions].astype(np.int64)
        labels: Array = np.where(decided >= 0, decided, own)
        return labels

    def _images(self, store: Store, records: Sequence[Record], positions: Array, labels: Array) -> CachedImages:
        owners = [records[number] for number in store.record[positions]]
        ids = self._ids(store, records, positions)
        known = bool((store.has_mask[positions] | (labels == 0)).all()) and bool(store.has_mask.any())
        sources = [owner.image for owner in owners]
        subjects, volumes = [owner.subject for owner in owners], [owner.id for owner in owners]
        more = {"sources": sources, "volumes": volumes, "groups": [self.group_of(owner) for owner in owners]}
        return CachedImages(store, positions, ids, subjects, labels, with_mask=known, **more)

    def original(self, source: str, number: int) -> Array | None:
        """The picture behind an image at its file's resolution, for overlays.

        Args:
            source: the file.
            number: slice of a volume, -1 for a picture.

        Returns:
            Array: ``(H, W)`` or ``(H, W, C)`` in [0, 1]; None where images are cropped or registered, so that a map
            does not lie on the file's pixels.
        """
        return None

    def members(self, source: str) -> list[str]:
        """All files of the volume that ``source`` is of."""
        return [source]

    def case_of(self, name: str) -> str:
        """The patient that a file belongs to, by its name below the root; empty where unknown."""
        return ""

    def group_of(self, record: Record) -> str:
        """Scanner, site or another group that is calibrated and told by itself; empty where unknown."""
        return ""

    def reserve_calibration(self) -> None:
        """Leave half of the held-out subjects to calibration alone: something will be chosen by validation."""
        self._reserved = True

    def _calibration_part(self, positions: Array, calibrating: bool) -> Array:
        """Of held-out ``positions`` those that calibrate, or those that validate; they overlap unless reserved."""
        assert self.store is not None
        cases = [self._case(position) for position in positions]
        chosen = sorted(set(cases))
        if self._reserved and len(chosen) > 1:
            first, second = np.array_split(hash_order(chosen, self.seed + 1), 2)
            chosen = sorted(second if calibrating else first)
        if calibrating and len(chosen) > self.max_val_images:  # whole cases: a case's score is that of all its images
            chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, self.max_val_images).round().astype(int)]
        kept = set(chosen)
        return positions[[case in kept for case in cases]] if len(positions) else positions

    def _case(self, position: int) -> str:
        assert self.store is not None
        owner = self.records[self.store.record[position]]
        name: str = owner.subject or owner.id
        return name

    def dataset(self, split: str) -> CachedImages:
        """Images of a split.

        Args:
            split: ``train``, ``val`` (healthy ones, without synthetic anomalies), ``calibration`` (held-out healthy
                ones that choose nothing, whole cases; empty where none are held out), ``test`` or ``unlabeled``.
        """
        self.setup()
        assert self.store is not None
        positions = self._positions("val" if split == "calibration" else split)
        if split in ("val", "calibration"):
            positions = self._calibration_part(positions, split == "calibration")
        if split == "val" and not len(positions):
            positions = self._positions("train")
        if split == "val" and len(positions) > self.max_val_images:
            positions = positions[np.linspace(0, len(positions) - 1, self.max_val_images).round().astype(int)]
        return self._images(self.store, self.records, positions, self.labels(positions))

    def train_dataloader(self) -> ResumableLoader:
        """Healthy images, shuffled by seed and epoch, resumable in the middle of an epoch."""
        dataset = self.dataset("train")
        dataset.with_mask, dataset.sources, dataset.groups = False, None, None
        if not (dataset.slices >= 0).any():
            dataset.volumes = None  # tasks that pair the slices of volumes want to know them; pictures have none
        if self.random_crop is not None and len(self.image_shape) != 3:
            raise UserError("data.random_crop works on 2-D images")
        if self.device_store != "off":
            device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
            dataset = DeviceImages(dataset, device, self.device_store)
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        loader = ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochOrder(len(dataset), self.seed, ranks, rank),
            num_workers=self.num_workers,
            collate_fn=keep_batch,
        )
        if self.random_crop is not None:
            loader.augment = partial(self._crop, area=self.random_crop, rank=rank)
        if self.unlabeled:
            pool = self.dataset("unlabeled")
            loader.augment = partial(self._add_unlabeled, pool=pool, ranks=ranks, rank=rank)
        return loader

    def _add_unlabeled(
        self, batch: Batch, epoch: int, number: int, *, pool: CachedImages, ranks: int, rank: int
    ) -> Batch:
        """As many images of the pool as the batch has, the pool in a new order each epoch and from its start again."""
        state = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 13, epoch])))
        order = state.permutation(len(pool))
        first = (number * ranks + rank) * self.batch_size
        chosen = order[np.arange(first, first + len(batch["image"])) % len(pool)]
        return {**batch, "unlabeled": torch.from_numpy(pool.store.image(pool.indices[chosen]))}

    def _crop(self, batch: Batch, epoch: int, number: int, *, area: tuple[float, float], rank: int) -> Batch:
        state = np.random.SeedSequence([self.seed, 11, epoch, number, rank]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        image, foreground = random_resized_crop(batch["image"], batch["foreground"], generator, area)
        return {**batch, "image": image, "foreground": foreground}

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out healthy images, as they are and with synthetic anomalies that the method did not train on."""
        module = None if self.trainer is None else self.trainer.lightning_module
        kinds = unseen_kinds(getattr(module, "trained_tasks", ()))
        scale = (-1.0, 1.0) if self.standardised else self.value_range
        return self._in_order(WithSyntheticAnomalies(self.dataset("val"), self.seed, self.value_range, scale, kinds))

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test set.

        Raises:
            UserError: there is none.
        """
        dataset = self.dataset("test")
        if not len(dataset):
            raise UserError(f"{self.folder()}: no test images")
        return self._in_order(dataset)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The files of ``predict_input``, the part ``predict_split``, or the test set."""
        if self.predict_split is not None:
            return self._in_order(self.dataset(self.predict_split))
        return self.test_dataloader() if self.predict_input is None else self._in_order(self._predict_images())

    def _predict_images(self) -> CachedImages:
        if self._predict is None:
            assert self.predict_input is not None
            if self.image_size is None:
                self.image_size = self.spatial_size  # new files get the size of the training images
            given = [self.predict_input] if isinstance(self.predict_input, str) else list(self.predict_input)
            records = self.predict_records([place for one in given for place in expand(one)])
            store = self._open(records)
            self.rejected += store.rejected.values()
            positions = np.arange(len(store))
            self._predict = self._images(store, records, positions, np.zeros(len(store), np.int64))
            self._predict.with_mask = False
        return self._predict

    def predict_records(self, places: Sequence[Path]) -> list[Record]:
        """Records for files and for all images below folders, named by their path below what was given.

        Several places keep as much of their own names as tells them apart.

        Raises:
            UserError: nothing there.
        """
        found: dict[Path, Path] = {}  # file, and the folder below which it is named
        for place in places:
            if place.is_file():
                found.setdefault(place, place.parent)
            elif not place.is_dir():
                raise UserError(f"{shown(place)}: no image found, no such file or folder; {READABLE}")
            else:
                listing = walk(place)
                if not listing.files:
                    raise UserError(f"{shown(place)}: no image found below it; {listing.note() or READABLE}")
                if listing.note():
                    warnings.warn(listing.note())
                found |= {file: place for file in listing.files if file not in found}
        names = {file: file.relative_to(folder).as_posix() for file, folder in found.items()}
        if len(set(names.values())) < len(names):  # the same name in two folders
            above = Path(os.path.commonpath([file.absolute() for file in found]))
            names = {file: file.absolute().relative_to(above).as_posix() for file in found}
        records = []
        for file, name in names.items():
            parts = tuple(str(part.absolute()) for part in companions(file))
            subject = self.case_of(shown(name))
            records.append(Record(shown(name), str(file.absolute()), subject=subject, companions=parts))
        return records

    # ---- what a checkpoint keeps --------------------------------------------------------------------------------

    def recipe(self) -> dict[str, Any]:
        """What a checkpoint has to know to read other files as the training images were read, in plain values."""
        lineage = [one for one in type(self).__mro__ if issubclass(one, AnomalyDataModule) and "__init__" in vars(one)]
        named = dict.fromkeys(key for one in lineage for key in inspect.signature(one.__init__).parameters)
        own = [key for key in named if hasattr(self, key)]
        own = [key for key in own if key not in _COMMON and key != "table" and not key.endswith("root")]
        known = {"image_size": list(self.spatial_size), "channels": self.channels}
        return {
            "class_path": f"datamodules.{type(self).__name__}",
            "init_args": {key: plain_value(getattr(self, key)) for key in own},
            "known": known,
        }

    def take_known(self, known: Mapping[str, Any]) -> None:
        """Take size and channels from a checkpoint: predicting other files needs no training data.

        Args:
            known: of :meth:`recipe`.
        """
        size = known.get("image_size")
        if self.image_size is None and size is not None:
            self.image_size = (size,) * 2 if isinstance(size, int) else tuple(int(side) for side in size)

    def _in_order(self, dataset: CachedImages | WithSyntheticAnomalies) -> DataLoader[Batch]:
        return DataLoader(
            dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=keep_batch, shuffle=False
        )


def workers_beside() -> int:
    """Loader processes that help: on a CPU they take cores from training, beside a GPU they hide the copying."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores - 1) if torch.cuda.is_available() else 0


def expand(place: str) -> list[Path]:
    """A file or folder, or what a pattern of names stands for (for shells that leave patterns alone), sorted.

    Raises:
        UserError: a pattern that nothing matches.
    """
    path = Path(place).expanduser()
    if path.exists() or not glob.has_magic(place):
        return [path]
    found = sorted(Path(one) for one in glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns
    if not found:
        raise UserError(f"{place}: nothing has such a name; {READABLE}")
    return found


def plain_value(value: Any) -> Any:
    """An argument as YAML and checkpoints keep it: tuples as lists, expressions as text."""
    return list(value) if isinstance(value, tuple) else value.pattern if isinstance(value, re.Pattern) else value


def _refuse_double_use(records: Sequence[Record]) -> None:
    splits: dict[tuple[str, str], str] = {}
    for record in records:
        part = "" if record.index is None else record.id
        first = splits.setdefault((record.image, part), record.split)
        if first != record.split:
            raise UserError(f"{record.image}: in {first} and in {record.split}; every file belongs to one split")


_COMMON = frozenset(inspect.signature(AnomalyDataModule.__init__).parameters)
