"""Sources of brains, one file each: healthy volunteers to train on, patients to test on.

A file holds a ``card`` (see :mod:`datamodules.registry`) and ``find(root, sequence, problems)``, which yields the
records of its official tree, their subjects without the source's name. Entries of the card for this folder alone:

* ``role``: ``healthy`` or ``ill``;
* ``default``: taken for the role where none is named;
* ``sequences``: those that the source has; empty where the files do not say what they are;
* ``labels``: label values of the ground truth;
* ``skull``: the volumes are published with their skull;
* ``case``: format of the names of cases, for the phantom: ``even`` numbers, numbers with ``gaps``, or ``site``;
* ``resampled``: the ground truth is on the grid of another sequence and is brought to the image's by the headers;
* ``cradl``: how CRADL cuts its volumes to slices, ``padded`` or ``turned`` (:mod:`zoo.metrics.cradl`);
* ``lesion_free``: patients without a lesion are among the cases, their ground truth is empty.

:class:`~datamodules.brain_mri.BrainMRI` composes two of them.
"""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.listing import VOLUMES, list_files, shown
from datamodules.reading import BadFile
from datamodules.records import Record
from datamodules.registry import DataSet, cards


def sources(role: str = "") -> dict[str, DataSet]:
    """The sources of this folder by name, all or those of one role."""
    return {
        name: entry for name, entry in cards().items() if entry.group == "brain" and role in ("", entry.more["role"])
    }


def default_source(role: str) -> str:
    """Name of the source that is taken for a role where none is named."""
    return next(name for name, entry in sources(role).items() if entry.more.get("default"))


def find_volumes(root: Path, name: str, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """Volumes of the source called ``name`` in their official tree; what is wrong is added to ``problems``.

    Subjects get the source's name in front: ``hcp:100206``.
    """
    source = importlib.import_module(cards()[name].module)
    for record in source.find(root, sequence, problems):
        yield replace(record, subject=f"{name}:{record.subject}")


def what_is_there(root: Path, name: str) -> str:
    """What a folder holds in which the source called ``name`` finds nothing: some volumes, and who would read them."""
    found = list_files(root, VOLUMES)
    if not found:
        return "there are no volumes"
    seen = f"{len(found)} other volumes are there, such as {shown(found[0].relative_to(root))}"
    others = [other for other in sources() if other != name and _reads(root, other)]
    return f"{seen}; they look like {' or '.join(others)}" if others else f"{seen}; of no known source"


def _reads(root: Path, name: str) -> bool:
    wanted = sources()[name].more["sequences"] or ("t1",)
    return any(next(find_volumes(root, name, sequence, []), None) is not None for sequence in wanted)
