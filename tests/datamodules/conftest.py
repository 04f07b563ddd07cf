"""What the tests of data sets share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.base import PHANTOM_MARKER
from datamodules.phantoms import folder
from datamodules.phantoms.storage import Settings


@pytest.fixture(scope="session")
def write_folder() -> Callable[[Path, int, tuple[int, int, int]], None]:
    """Writes the phantom of the user's folders with another side and other counts, marked as a phantom."""

    def write(root: Path, side: int, counts: tuple[int, int, int]) -> None:
        settings = Settings("folder", "smoke", 0, 1.0, False, "official")
        places = [place for place, count in zip(folder.FOLDERS, counts, strict=True) for _ in range(count)]
        for number, place in enumerate(places):
            folder.render(root, settings, folder.Job(number, place, side))
        (root / PHANTOM_MARKER).write_text("{}")

    return write
