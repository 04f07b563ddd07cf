"""Where the files of a run go: what the command line asks of a callback that writes some."""

from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class PlacesOutputs(Protocol):
    """A callback that writes files. In Python the user gives it a path; the command line gives it a run's folder."""

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """Take the places of the outputs, unless the user has set others.

        Args:
            run: the run's folder.
            results: folder of what this call finds out: the run's, or a new one in it.
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        ...
