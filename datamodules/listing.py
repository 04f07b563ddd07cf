"""The one walker: which files lie below a folder, which of them are read, and what the others are.

Links are followed, every folder is listed once. Hidden files and the folders that notebooks, network storage and
operating systems leave behind are skipped. DICOM files are known by their content where their name does not tell.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from zoo.errors import UserError
from zoo.files import suffix

RASTER = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp"),
    *(".jp2", ".j2k", ".jpx", ".pgm", ".ppm", ".pbm", ".pnm"),
)
DICOM = (".dcm", ".dicom", ".ima")
NIFTI = (".nii", ".nii.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")  # SimpleITK reads these
VOLUMES = (*NIFTI, ".img", ".mgh", ".mgz", *ITK)
NUMPY = (".npy", ".npz")
SUFFIXES = RASTER + DICOM + VOLUMES + NUMPY

_TIFF = (".ome.tif", ".ome.tiff")
_SKIPPED_FOLDERS = (
    *("__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "$recycle.bin", "lost+found"),
    *("system volume information", "__pycache__", "_phantom_truth"),
)
_SKIPPED_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db", "phantom_data.json")
# What lies beside images and is none: counted, but nobody needs a warning.
_TEXTS = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".bib", ".xml", ".pdf", ".html", ".yaml", ".yml"),
    *(".log", ".ini", ".xls", ".xlsx", ".doc", ".docx", ".py", ".ipynb", ".sh", ".md5", ".sha256", ".bval", ".bvec"),
)
_PARTS_OF = {".hdr": (".img",), ".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",)}  # data or header of another file
# First elements (group 8) of DICOM files without the 128 bytes in front
_BARE_DICOM = tuple(b"\x08\x00" + element + b"\x00" for element in (b"\x00", b"\x01", b"\x05", b"\x08", b"\x16"))


class Listing(NamedTuple):
    """What lies below a folder.

    Attributes:
        files: those that are read, sorted.
        unread: those that are not: number by suffix, ``""`` for none.
        example: one file of each of these kinds.
    """

    files: list[Path]
    unread: Counter[str]
    example: dict[str, Path]

    def note(self, *, texts: bool = False) -> str:
        """One sentence on what was seen and is not read; empty if there is nothing.

        Args:
            texts: count lists, reports and programs too.
        """
        kinds = {kind: count for kind, count in self.unread.most_common() if texts or kind not in _TEXTS}
        if not kinds:
            return ""
        counts = [f"{count} {kind or 'of no known kind'}" for kind, count in list(kinds.items())[:6]]
        more = [f"and {len(kinds) - 6} more kinds"] if len(kinds) > 6 else []
        remedy = "pip install SimpleITK" if set(kinds) & set(ITK) else "convert those that are images"
        remedy = "mend the links" if set(kinds) == {"broken link"} else remedy
        found = ", ".join([*counts, *more])
        return f"not read: {found} (for example {shown(self.example[next(iter(kinds))])}); {remedy}"


def shown(path: str | Path) -> str:
    """A path as text that can be printed and stored: names are bytes, and not all of them are valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def kind(path: str | Path) -> str:
    """The extension that says how a file is read: its own, ``.tif`` for ``.ome.tif``, ``.dcm`` by the content."""
    own = suffix(path)
    if own in _TIFF:
        return ".tif"
    if own in SUFFIXES:
        return own
    return ".dcm" if own not in _TEXTS and own not in _PARTS_OF and is_dicom(path) else own


def stem(name: str) -> str:
    """A name or relative path without its extension, if it has a known one: ``a/x.nii.gz`` and ``a/x.png`` are a/x."""
    end = suffix(name)
    return name[: -len(end)] if end in SUFFIXES or end in _TIFF else name


def is_dicom(path: str | Path) -> bool:
    """Whether a file begins as DICOM files do, with or without their 128 free bytes; ``DICOMDIR`` is an index."""
    if Path(path).name.upper() == "DICOMDIR":
        return False
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or head[:4] in _BARE_DICOM


def is_hidden(path: str | Path) -> bool:
    """Files and folders that systems leave behind: ``._x``, ``.DS_Store``, ``Thumbs.db``, ``@eaDir``."""
    name = Path(path).name
    return name.startswith(".") or name.lower() in (*_SKIPPED_FILES, *_SKIPPED_FOLDERS)


def entries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Files (False) and folders (True) below ``folder``; real folders before linked ones, each once.

    Raises:
        UserError: a folder cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    waiting: list[Path] = [folder]
    links: list[Path] = []
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            found = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{shown(place)}: the folder cannot be listed ({error.strerror}); mend its rights"
            ) from error
        if place != folder:
            yield place, True
        for entry in found:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else waiting).append(Path(entry.path))
            else:
                yield Path(entry.path), False


def walk(folder: Path, suffixes: Collection[str] = SUFFIXES) -> Listing:
    """All files below ``folder``: those of ``suffixes``, and what the others are.

    Raises:
        UserError: a folder cannot be listed.
    """
    everything = [path for path, is_folder in entries(folder) if not is_folder]
    siblings = {(path.parent, path.name[: -len(suffix(path))], suffix(path)) for path in everything if suffix(path)}
    files: list[Path] = []
    unread: Counter[str] = Counter()
    example: dict[str, Path] = {}
    without_itk, sniffing = not has_simple_itk(), ".dcm" in suffixes
    for path in sorted(everything):
        how = kind(path) if sniffing else suffix(path)
        missing = without_itk and how in ITK
        if how in suffixes and not missing and path.is_file():
            files.append(path)
            continue
        if any((path.parent, path.name[: -len(how)], owner) in siblings for owner in _PARTS_OF.get(how, ())):
            continue
        broken = not path.exists()
        if how not in SUFFIXES or missing or broken:
            label = "broken link" if broken else how
            unread[label] += 1
            example.setdefault(label, path)
    return Listing(files, unread, example)


def companions(path: Path) -> tuple[Path, ...]:
    """Files that belong to a volume: the header of ``.img``, the data of ``.mhd`` and ``.nhdr``."""
    owner = suffix(path)
    ends = [part for part, owners in _PARTS_OF.items() if owner in owners]
    found = (path.with_name(path.name[: -len(owner)] + end) for end in ends)
    return tuple(one for one in found if one.is_file())


def has_simple_itk() -> bool:
    """Whether SimpleITK is installed."""
    from importlib.util import find_spec

    return find_spec("SimpleITK") is not None


def list_files(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """All files below ``folder`` with one of ``suffixes``, sorted; see :func:`walk`."""
    return walk(folder, suffixes).files


def list_folders(folder: Path) -> list[Path]:
    """All folders below ``folder``, sorted."""
    return sorted(path for path, is_folder in entries(folder) if is_folder)
