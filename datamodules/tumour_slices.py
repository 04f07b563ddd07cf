"""MedIAnomaly's BraTS2021 (Cai et al., Medical Image Analysis 2025): FLAIR slices with outlines, as pictures."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cache import Prepared
from datamodules.collection import Collection, first_group
from datamodules.good_folders import prepare_picture
from datamodules.listing import list_files, shown
from datamodules.reading import BadFile
from datamodules.records import Record, held_out

_PATIENT = r"BraTS2021_(\d+)_"


class TumourSlices(Collection):
    """``train``, and to test ``test/normal`` and ``test/tumor`` with outlines in ``test/annotation``.

    The outline of ``BraTS2021_ID_flair_SLICE.png`` is ``BraTS2021_ID_seg_SLICE.png``. The patient is the number in the
    name; a share of the training patients validates. The brain is what is above 0. Values are in [0, 1].
    """

    card = {
        "title": "BraTS 2021 of MedIAnomaly: slices with outlines, as pictures",
        "access": "zenodo.org 12677223",
        "licence": "CC BY 4.0 of the record; BraTS: research only",
        "layout": "train test/normal test/tumor test/annotation",
        "phantom": "tumour_slices",
        "config": "data/tumour_slices",
        "images": "pictures",
        "channels": (1,),
        "value_range": (0.0, 1.0),
        "foreground": "above_minimum",
        "subject": "the number in the name",
        "protocol": "MedIAnomaly: 64 x 64, grey, 250 epochs, five seeds; pixels at 64 x 64",
        "leaks": "normal slices are those of tumour patients: they show the tumour's mass effect",
    }
    marker = "test/annotation"
    official_sets = {"brats2021": {"training images": 4211, "test normal": 828, "test anomalous": 1948}}

    def index(self, root: Path) -> list[Record]:
        """Records by folder."""
        tree = self.set_folder()
        train = [self._record(root, file, "train") for file in list_files(tree / "train")]
        val = held_out([record.subject or record.id for record in train], self.val_fraction, self.seed)
        records = [replace(one, split="val") if (one.subject or one.id) in val else one for one in train]
        records += [self._record(root, file, "test") for file in list_files(tree / "test" / "normal")]
        problems: list[BadFile] = []
        for file in list_files(tree / "test" / "tumor"):
            outline = tree / "test" / "annotation" / file.name.replace("flair", "seg")
            if outline.is_file():
                records.append(replace(self._record(root, file, "test"), label=1, mask=str(outline)))
            else:
                problems.append(BadFile(file, f"no outline {outline}", "unpack the archive again"))
        self.report(problems)
        return records

    def _record(self, root: Path, file: Path, split: str) -> Record:
        name = shown(file.relative_to(root).as_posix())
        subject = self.case_of(name) or first_group(_PATIENT, name)
        return Record(name, str(file), split, subject=subject)

    def _training_files(self) -> list[Path]:
        return list_files(self.set_folder() / "train")

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Read, scale, resize; the foreground is the brain."""
        scale: dict[str, Any] = {"bounds": self.intensity_range, "otherwise": self.grey_scale()}
        return partial(prepare_slice, size=self._target(), channels=self.channels, **scale)


def prepare_slice(record: Record, **options: Any) -> Prepared:
    """One slice as :func:`~datamodules.good_folders.prepare_picture` reads it, with the brain as foreground.

    Raises:
        BadFile: not decodable, or an outline that does not fit.
    """
    prepared = prepare_picture(record, **options)
    return prepared._replace(foreground=np.any(prepared.image > 0, axis=1))
