"""Lists of volumes in CSV: IXI against BraTS21, MSLUB, ATLAS and WMH (Behrendt et al., MIDL 2023; pDDPM, cDDPM)."""

import csv
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.listing import shown
from datamodules.reading import BadFile
from datamodules.records import Record
from datamodules.scans import Scans
from zoo.errors import UserError

_GRID = (192, 192, 100)


class VolumeLists(Scans):
    """Lists ``IXI_{train,val}_fold*.csv`` and ``IXI_test.csv`` of healthy brains, ``NAME_test.csv`` of ill ones.

    Columns ``img_name``, ``img_path``, ``mask_path`` (the brain), ``seg_path`` (empty: healthy); paths begin below the
    root and are written for T1. Preprocessing is the authors': cut or padded to 192 x 192 x 100, scaled by the 1st and
    99th percentile of the brain, halved; 50 slices of 96 x 96. Values are in [0, 1].

    The published lists name scans twice, and nine scans of the test list also train or validate: lines of one name are
    read once and told, and those nine are left out of training (``drop_leaks``), by which figures differ from the
    published ones.
    """

    card = {
        "title": "healthy IXI brains against tumours, strokes, multiple sclerosis, by lists",
        "access": "github.com/FinnBehrendt/Conditioned-Diffusion-Models-UAD",
        "licence": "IXI CC BY-SA 3.0, MSLUB CC BY-NC-SA; BraTS and ATLAS by agreement",
        "layout": "splits/*.csv Train Test",
        "size": "about 37 GB",
        "steps": (
            "open github.com/FinnBehrendt/Conditioned-Diffusion-Models-UAD: its README names the archive",
            "sign the agreements of BraTS and ATLAS first",
        ),
        "official": {"training rows": 387, "validation rows": 44, "healthy test rows": 160},
        "phantom": "volume_lists",
        "config": "data/volume_lists",
        "images": "slices or volumes",
        "channels": (1,),
        "value_range": (0.0, 1.0),
        "foreground": "above_minimum",
        "subject": "img_name",
        "protocol": "Behrendt: T2, five folds, 96 x 96 x 50, median filter of 5, threshold on ill validation brains",
        "leaks": "nine test scans also train or validate; healthy and ill brains come from different scanners",
    }
    marker = "splits"

    def __init__(
        self,
        *,
        root: str | None = None,
        subset: str | None = None,
        test: str = "Brats21",
        fold: int = 0,
        sequence: str = "t2",
        drop_leaks: bool = True,
        image_size: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder that holds ``splits``, ``Train`` and ``Test``, or the folder above.
            subset: folder of the lists below it.
            test: list of ill brains: ``Brats21``, ``MSLUB``, ``ATLAS_v2`` or ``WMH``.
            fold: of the training list, 0 to 4.
            sequence: ``t1``, ``t2``, ...: the lists' paths are written for ``t1``.
            drop_leaks: leave scans of the test list out of training and validation.
            image_size: side or sides; None: 96 x 96, or 50 x 96 x 96.
            **options: see :class:`~datamodules.scans.Scans`.
        """
        size = image_size or ((50, 96, 96) if options.get("mode") == "volumes" else 96)
        super().__init__(root=root, subset=subset, image_size=size, **options)
        self.test, self.fold, self.sequence, self.drop_leaks = test, fold, sequence, drop_leaks
        self._rows: dict[str, int] = {}
        self._defects: list[str] = []

    @property
    def name(self) -> str:  # type: ignore[override]
        """Test list and sequence."""
        return f"ixi_{self.test.lower()}_{self.sequence}"

    def working_grid(self) -> tuple[int, int, int]:
        """The authors'."""
        return _GRID

    def index(self, root: Path) -> list[Record]:
        """Records by the lists, their defects mended and told."""
        folder = self.set_folder()
        self._defects, problems = [], list[BadFile]()
        lists = {
            "training rows": ("train", 0, f"IXI_train_fold{self.fold}"),
            "validation rows": ("val", 0, f"IXI_val_fold{self.fold}"),
            "healthy test rows": ("test", 0, "IXI_test"),
            f"{self.test} test rows": ("test", 1, f"{self.test}_test"),
        }
        available = self._available(folder)
        rows: dict[str, list[dict[str, str]]] = {}
        for part, (_, _, file) in lists.items():
            found = self._list(folder / "splits" / f"{file}.csv")
            self._rows[part] = len(found)
            names = list(dict.fromkeys(row["img_name"] for row in found))
            if len(names) < len(found):
                self._defects.append(f"{file}.csv: {len(names)} names in {len(found)} rows; each is read once")
            once = {row["img_name"]: row for row in reversed(found)}
            rows[part] = [once[name] for name in names if available is None or name in available]
        tested = {row["img_name"] for row in rows["healthy test rows"]}
        leaks = [row["img_name"] for part in ("training rows", "validation rows") for row in rows[part]]
        leaks = [name for name in leaks if name in tested]
        if leaks:
            done = "left out of training and validation, published figures were made with them"
            told = done if self.drop_leaks else "kept there and not tested (data.drop_leaks is false)"
            self._defects.append(f"{len(leaks)} scans of IXI_test.csv also train or validate, first {leaks[0]}; {told}")
        records: dict[str, Record] = {}
        for part, (split, label, _) in lists.items():
            for row in rows[part]:
                if self.drop_leaks and split in ("train", "val") and row["img_name"] in tested:
                    continue
                record = self._record(root, folder, row, split, label, problems)
                if record is not None:  # a leaked scan that is kept trains; it cannot be tested too
                    records.setdefault(record.image, record)
        self.report(problems)
        return list(records.values())

    def _list(self, path: Path) -> list[dict[str, str]]:
        if not path.is_file():
            others = ", ".join(sorted(one.stem for one in path.parent.glob("*.csv"))[:8]) or "none"
            raise UserError(f"{path}: no such list (there are {others}); set data.test or data.fold")
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream, restval=""))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: no CSV in UTF-8 ({error}); fetch it again") from error
        missing = next((one for one in ("img_name", "img_path") if not rows or one not in rows[0]), None)
        if missing is not None:
            found = ", ".join(list(rows[0])[:8]) if rows else "no line"
            raise UserError(
                f"{path}: no column {missing} (found {found}); expected img_name, img_path, mask_path, seg_path"
            )
        return rows

    def _available(self, folder: Path) -> set[str] | None:
        """Scans that have the sequence, where a list says so."""
        path = folder / "splits" / f"avail_{self.sequence}.csv"
        return {row["img_name"] for row in self._list(path)} if path.is_file() else None

    def _record(
        self, root: Path, folder: Path, row: dict[str, str], split: str, label: int, problems: list[BadFile]
    ) -> Record | None:
        places: dict[str, Path | None] = {}
        for key in ("img_path", "mask_path", "seg_path"):
            text = row.get(key, "").strip().replace("\\", "/").lstrip("/")
            if ".." in PurePosixPath(text).parts or ":" in text[:2]:
                problems.append(BadFile(folder / "splits", f"{text} leads outside of {folder}", "correct the list"))
                return None
            if text and key == "img_path":
                text = text.replace("/t1/", f"/{self.sequence}/").replace("_t1.", f"_{self.sequence}.")
            places[key] = folder / text if text else None
        image, brain, outline = places["img_path"], places["mask_path"], places["seg_path"]
        for place in (image, brain, outline if label else None):
            if place is not None and not place.is_file():
                problems.append(BadFile(place, f"listed but absent ({row['img_name']})", "unpack the archive again"))
                return None
        if image is None or (label and outline is None):
            problems.append(BadFile(folder / "splits", f"{row['img_name']} has no path", "correct the list"))
            return None
        known = tuple((key.lower(), cell) for key, cell in row.items() if key and not key.endswith("_path"))
        name = shown(image.relative_to(root).as_posix())
        companions = () if brain is None else (str(brain),)
        mask = str(outline) if outline is not None and label else None
        return Record(name, str(image), split, label, row["img_name"], mask, companions=companions, columns=known)

    def official_counts(self) -> dict[str, int]:
        """Rows of the lists."""
        return dict(self._rows)

    def notes(self) -> list[str]:
        """Defects of the lists."""
        return self._defects

    def check_notes(self) -> list[str]:
        """Defects of the lists, told in training too."""
        return [*(self._defects if self.trainer is not None else []), *super().check_notes()]
