"""Names of a BIDS derivative: masks and percentile maps of images that lie in a BIDS data set."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from zoo.files import write_text

FOLDER = "derivatives/uad-zoo"
_DESCRIPTION = "dataset_description.json"
_NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z0-9]+-[A-Za-z0-9+]+)*)_([A-Za-z0-9]+)\.nii(?:\.gz)?")


class Source(NamedTuple):
    """An image of a BIDS data set.

    Attributes:
        root: of the data set.
        relative: path of the image below it.
        entities: of its name, such as ``sub-01_ses-1``.
        suffix: such as ``T1w``.
    """

    root: Path
    relative: Path
    entities: str
    suffix: str

    @property
    def bases(self) -> dict[str, tuple[str, str]]:
        """Path of mask and percentile map below the predictions' folder, and a fuller one where that is taken."""
        start = f"{FOLDER}/{(self.relative.parent / self.entities).as_posix()}"
        return {
            "mask": (f"{start}_desc-anomaly_mask", f"{start}_desc-anomaly{self.suffix}_mask"),
            "percentile": (f"{start}_desc-anomalypercentile_{self.suffix}",) * 2,
        }


def source_of(path: str) -> Source | None:
    """The image's place in its BIDS data set; None where there is no such set or the name is not one of BIDS."""
    file = Path(path)
    named = _NAME.fullmatch(file.name)
    root = next((folder for folder in file.parents if (folder / _DESCRIPTION).is_file()), None)
    if named is None or root is None:
        return None
    return Source(root, file.relative_to(root), named[1], named[2])


def write_about(folder: Path, source: Source, mask: Path, version: str) -> None:
    """Write the derivative's description and the mask's sidecar.

    Args:
        folder: of the predictions.
        source: image that the mask is of.
        mask: path of the mask below the folder.
        version: of this package.
    """
    about = {
        "Name": "uad-zoo: anomalies (research, not for diagnosis)",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "uad-zoo", "Version": version}],
        "DatasetLinks": {"raw": source.root.absolute().as_uri()},
    }
    write_text(folder / FOLDER / _DESCRIPTION, json.dumps(about, indent=2) + "\n")
    write_text(folder / FOLDER / ".bidsignore", "*_desc-anomalypercentile_*\n")  # a percentile is no probability
    sidecar = {"Type": "Lesion", "Sources": [f"bids:raw:{source.relative.as_posix()}"]}
    name = mask.name.removesuffix(".nii.gz") + ".json"
    write_text(folder / mask.with_name(name), json.dumps(sidecar, indent=2) + "\n")
