"""Sources of brains, one file each: healthy volunteers to train on, patients to test on.

A file holds a ``card`` (see :mod:`datamodules.registry`) and ``find(root, sequence, problems)``, which yields the
records of its official tree, their subjects without the source's name. Entries of the card for this folder alone:

* ``role``: ``healthy`` or ``ill``;
* ``sequences``: those that the source has; empty where the files do not say what they are;
* ``labels``: label values of the ground truth;
* ``skull``: the volumes are published with their skull;
* ``case``: format of the names of cases, for the phantom: ``even`` numbers, numbers with ``gaps``, or ``site``;
* ``resampled``: the ground truth is on the grid of another sequence and is brought to the image's by the headers;
* ``lesion_free``: patients without a lesion are among the cases, their ground truth is empty.

:class:`~datamodules.brain_mri.BrainMRI` composes two of them.
"""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.reading import BadFile
from datamodules.records import Record
from datamodules.registry import DataSet, cards


def sources(role: str = "") -> dict[str, DataSet]:
    """The sources of this folder by name, all or those of one role."""
    return {
        name: entry for name, entry in cards().items() if entry.group == "brain" and role in ("", entry.more["role"])
    }


def find_volumes(root: Path, name: str, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """Volumes of the source called ``name`` in their official tree; what is wrong is added to ``problems``.

    Subjects get the source's name in front: ``hcp:100206``.
    """
    source = importlib.import_module(cards()[name].module)
    for record in source.find(root, sequence, problems):
        yield replace(record, subject=f"{name}:{record.subject}")
