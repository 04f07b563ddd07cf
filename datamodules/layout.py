"""Find the expected folders below a root and say where they are if not there."""

from collections.abc import Sequence
from pathlib import Path

from zoo.errors import UserError


def locate(root: Path, wanted: str, title: str, levels: Sequence[str] = ("",)) -> Path:
    """The folder that contains ``wanted``: ``root`` itself or one of the documented ``levels`` below it.

    Args:
        root: what the user gave.
        wanted: name of a file or folder that must be there.
        title: the data set, for the message.
        levels: relative folders to look into.

    Raises:
        UserError: not found; the message names the place where it is, if it is up to three levels away.
    """
    for level in levels:
        if (root / level / wanted).exists():
            return root / level
    for pattern in (f"*/{wanted}", f"*/*/{wanted}", f"*/*/*/{wanted}"):
        for found in sorted(root.glob(pattern)):
            if "_phantom_truth" not in found.parts:
                raise UserError(f"{root}: no {wanted} of {title} there; found {found}: pass {found.parent}")
    for parent in list(root.parents)[:2]:
        if (parent / wanted).exists():
            raise UserError(f"{root}: no {wanted} of {title} there; found {parent / wanted}: pass {parent}")
    content = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
    raise UserError(f"{root}: no {wanted} of {title} there (found {content}); give the folder that holds {wanted}")


def set_folder(root: Path, subset: str | None, marker: str) -> Path:
    """The folder of one set of a collection.

    Args:
        root: folder of the set, or the folder above several sets.
        subset: folder of the set below ``root``; None: ``root`` itself.
        marker: relative path of the file or folder by which a set is known.

    Raises:
        UserError: not there; the message lists the sets below ``root``.
    """
    chosen = root if subset is None else root / subset
    if (chosen / marker).exists():
        return chosen
    depth = marker.count("/")
    inner = sorted(path.parents[depth].name for path in root.glob(f"*/{marker}") if "_phantom_truth" not in path.parts)
    if inner:
        raise UserError(f"{chosen}: no {marker}; set data.subset to one of {', '.join(inner[:12])}")
    found = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
    raise UserError(f"{chosen}: no {marker} (found {found}); give the folder that holds {marker}")
