"""What the sets of collections share: a folder a set, official counts, patients in names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import PHANTOM_MARKER
from datamodules.folder import Folder
from datamodules.layout import set_folder
from zoo.errors import UserError

_OWN = ("train", "val", "test")


class Collection(Folder):
    """Sets in one layout, each in a folder of its own; their official lists or folders are not divided anew.

    Attributes:
        marker: relative path of the file or folder by which a set is known.
        official_sets: official counts by the set's folder (lower case), by the parts of :meth:`official_counts`.
    """

    marker: ClassVar[str]
    official_sets: ClassVar[Mapping[str, Mapping[str, int]]] = {}

    def __init__(self, *, root: str | None = None, subset: str | None = None, **options: Any) -> None:
        """Remember the arguments.

        Args:
            root: folder of one set, or the folder above several.
            subset: folder of one of them.
            **options: see :class:`~datamodules.folder.Folder`, but for the table.
        """
        super().__init__(root=root, **options)
        if self.table is not None:
            raise UserError("data.table: this layout has lists of its own; use datamodules.Folder for a table")
        self.subset = subset

    @property
    def name(self) -> str:  # type: ignore[override]
        """The subset, if there is one."""
        return self.subset or self.phantom_name

    @property
    def phantom(self) -> bool:
        """Also where one set of a folder is generated."""
        inner = (
            self.root is not None and self.subset is not None and (self.root / self.subset / PHANTOM_MARKER).is_file()
        )
        return inner or super().phantom

    def set_folder(self) -> Path:
        """The folder of the set.

        Raises:
            UserError: it is not there; the message lists the subsets.
        """
        return set_folder(self.folder(), None if self.root is None else self.subset, self.marker)

    @property
    def set_name(self) -> str:
        """The set's folder in lower case, without the ``_ad`` of some copies."""
        return self.set_folder().name.lower().removesuffix("_ad")

    def official_counts(self) -> dict[str, int]:
        """Healthy training images, held-out ones among them, and test images."""
        parts = [("test" if one.split == "test" else "train", one.label) for one in self.manifest if one.split in _OWN]
        names = {("train", 0): "training images", ("test", 0): "test normal", ("test", 1): "test anomalous"}
        return {name: parts.count(part) for part, name in names.items()}

    def check_notes(self) -> list[str]:
        """As of folders, and what is missing of an official set."""
        found = self.official_counts()
        wanted = {} if self.phantom else self.official_sets.get(self.set_name, {})
        incomparable = "figures are not comparable with published ones"
        return [
            f"{part}: found {found[part]:,} of {count:,}; {incomparable}"
            for part, count in wanted.items()
            if found.get(part, count) != count
        ] + super().check_notes()


def first_group(pattern: str, name: str) -> str:
    """What the one group of a pattern finds in a name; empty where it finds nothing."""
    found = re.search(pattern, name)
    return "" if found is None else found[1]
