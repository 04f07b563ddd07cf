"""nnU-Net's raw folders (Isensee et al., Nature Methods 2021): any set of volumes with label volumes."""

import json
from pathlib import Path
from typing import Any

from datamodules.listing import VOLUMES, list_files, shown
from datamodules.reading import BadFile
from datamodules.records import Record
from datamodules.scans import Scans
from zoo.errors import UserError


class NnUNet(Scans):
    """``imagesTr`` and ``labelsTr`` with ``dataset.json``; a label above 0 is an anomaly.

    Cases are tested, validated or trained on by a hash of the patient; ``imagesTs`` with ``labelsTs`` are the test set
    where they are there. Training and validation use the slices without label alone (``mode: volumes``: the volumes
    without). Values are in [0, 1], see :class:`~datamodules.scans.Scans`.
    """

    card = {
        "title": "volumes with labels in nnU-Net's raw folders",
        "access": "-",
        "licence": "that of the set",
        "layout": "dataset.json imagesTr labelsTr [imagesTs labelsTs]",
        "phantom": "nnunet",
        "config": "data/nnunet",
        "images": "slices or volumes",
        "channels": (1,),
        "value_range": (0.0, 1.0),
        "foreground": "above_minimum",
        "subject": "the case, or what case_pattern finds",
        "leaks": "healthy slices of ill cases show what surrounds a lesion",
    }
    marker = "imagesTr"

    def __init__(self, *, root: str | None = None, subset: str | None = None, channel: int = 0, **options: Any) -> None:
        """Remember the arguments.

        Args:
            root: folder that holds ``dataset.json``, or the folder above several such sets.
            subset: folder of one of them, for example ``Dataset003_Liver``.
            channel: which of a case's volumes is read (``CASE_0000`` is 0).
            **options: see :class:`~datamodules.scans.Scans`.
        """
        super().__init__(root=root, subset=subset, **options)
        if channel < 0:
            raise UserError(f"data.channel must be at least 0, found {channel}")
        self.channel = channel

    def index(self, root: Path) -> list[Record]:
        """Cases with their labels."""
        folder = self.set_folder()
        ending = _ending(folder, read_about(folder / "dataset.json"))
        problems: list[BadFile] = []
        records = self._cases(root, folder, "Tr", ending, problems)
        tested = self._cases(root, folder, "Ts", ending, problems) if (folder / "labelsTs").is_dir() else []
        self.report(problems)
        return self.divided(records, test=not tested) + tested

    def _cases(self, root: Path, folder: Path, part: str, ending: str, problems: list[BadFile]) -> list[Record]:
        end = f"_{self.channel:04d}{ending}"
        found = [path for path in list_files(folder / f"images{part}", VOLUMES) if path.name.endswith(end)]
        if not found and part == "Tr":
            others = ", ".join(path.name for path in list_files(folder / "imagesTr", VOLUMES)[:3]) or "nothing"
            raise UserError(f"{folder / 'imagesTr'}: no file *{end} (found {others}); set data.channel")
        records = []
        for image in found:
            case = image.name.removesuffix(end)
            label = folder / f"labels{part}" / f"{case}{ending}"
            if label.is_file():
                name = shown(image.relative_to(root).as_posix())
                subject = self.case_of(name) or case
                records.append(Record(name, str(image), "test", 0, subject, str(label)))
            else:
                problems.append(BadFile(image, f"no label {label}", "add it, or remove the image"))
        return records

    def notes(self) -> list[str]:
        """Fewer cases than ``dataset.json`` says."""
        folder = self.set_folder()
        about = read_about(folder / "dataset.json")
        stated, ending = about.get("numTraining"), _ending(folder, about)
        found = len(list_files(folder / "labelsTr", (ending,)))
        wrong = isinstance(stated, int) and stated != found
        return [f"dataset.json says {stated} training cases, found {found}; partial download?"] if wrong else []


def read_about(path: Path) -> dict[str, Any]:
    """``dataset.json``.

    Raises:
        UserError: not there, or no JSON object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; nnU-Net's raw folders have one (file_ending, channel_names, labels)")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}); fetch it again") from error
    if not isinstance(about, dict):
        raise UserError(f"{path}: a JSON object is expected, with file_ending, channel_names and labels")
    return about


def _ending(folder: Path, about: dict[str, Any]) -> str:
    ending = about.get("file_ending", ".nii.gz")
    if ending not in VOLUMES:
        raise UserError(f"{folder / 'dataset.json'}: file_ending {ending!r} is not read; {', '.join(VOLUMES)} are")
    return str(ending)
