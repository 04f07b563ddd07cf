"""The layout of :class:`~datamodules.folder.Folder`: how masks are found, and what other layouts have to be renamed."""

from pathlib import Path

from datamodules.listing import list_files, stem
from datamodules.reading import BadFile
from zoo.errors import UserError

LAYOUT = "train/normal, test/normal, test/anomalous and optionally masks and train/unlabeled"
MASK_ENDINGS = ("", "_mask", "-mask", "_seg", "-seg", "_gt", "-gt", "_segmentation", "_label", "_labels")
_MASK_FOLDERS = ("mask", "ground_truth", "ground-truth", "groundtruth", "gt", "segmentations", "labels", "annotations")
_NORMAL = ("normal", "good", "healthy", "ok", "no", "negative", "no_finding")


def match_masks(root: Path, anomalous: list[Path]) -> tuple[dict[Path, Path | None], list[BadFile]]:
    """The mask of every anomalous image.

    Args:
        root: folder of the data.
        anomalous: files below ``test/anomalous``.

    Returns:
        tuple: mask by image, None for all where there are no masks; and what does not match.

    Raises:
        UserError: the masks are in a folder of another name.
    """
    folder, images = root / "masks", root / "test" / "anomalous"
    if not folder.is_dir():
        other = next((root / name for name in _MASK_FOLDERS if (root / name).is_dir()), None)
        if other is not None and anomalous:
            raise UserError(f"{other}: masks are expected in {folder}; rename the folder: mv {other} {folder}")
        return dict.fromkeys(anomalous), []
    found: dict[str, Path] = {}
    problems: list[BadFile] = []
    for file in list_files(folder):
        name = plain_ending(stem(file.relative_to(folder).as_posix()))
        if found.setdefault(name, file) != file:
            problems.append(BadFile(file, f"a second mask {name}, the first is {found[name].name}", "keep one"))
    if not found and any(folder.iterdir()) and anomalous:
        problems.append(BadFile(folder, "no mask in it can be read", "save masks as png, or as nii.gz for volumes"))
    masks: dict[Path, Path | None] = {}
    for image in anomalous:
        name = stem(image.relative_to(images).as_posix())
        names = (plain_ending(name + end) for end in MASK_ENDINGS)
        mask = next((found[one] for one in names if one in found), None)
        if mask is not None or not found:
            masks[image] = mask
        else:
            remedy = f"add it, or remove the folder {folder}"
            problems.append(BadFile(image, f"no mask {folder / name}.*", remedy))
    orphans = sorted(set(found.values()) - set(masks.values()))
    problems += [BadFile(mask, f"no image of that name in {images}", "rename or remove it") for mask in orphans]
    return masks, problems


def plain_ending(name: str) -> str:
    """A mask's name with its ending in small letters: ``a_GT`` is ``a_gt``."""
    end = next((end for end in MASK_ENDINGS if end and name.lower().endswith(end)), "")
    return name[: len(name) - len(end)] + end


def missing_group(root: Path, name: str) -> str:
    """What to say where a folder of the layout is missing: at most six lines with the renaming that mends it."""
    found = ", ".join(sorted(entry.name for entry in root.iterdir())[:6]) or "nothing"
    start = f"{root}: no folder {name} (found {found}); "
    deeper = sorted(str(inner.parents[len(Path(name).parts) - 1]) for inner in root.glob(f"*/{name}"))
    if deeper:
        return f"{start}pass {deeper[0]} instead"
    moves = _renaming(root)
    if moves:
        return f"{start}rename: cd {root}\n" + "\n".join(moves[:5])
    return f"{start}the folders {LAYOUT} are expected, or a table (data.table)"


def _renaming(root: Path) -> list[str]:
    """Commands that make the layout of MVTec (train/good) or Kaggle (train/NORMAL, train/PNEUMONIA) this one."""
    parts = {path.name.lower(): path.name for path in root.iterdir() if path.is_dir()}
    moves: list[str] = []
    for part in ("train", "test"):
        if part not in parts:
            continue
        inside = sorted(path.name for path in (root / parts[part]).iterdir() if path.is_dir())
        normal = next((one for word in _NORMAL for one in inside if one.lower() == word), None)
        if normal is None:
            continue
        if f"{parts[part]}/{normal}" != f"{part}/normal":
            moves.append(f"mkdir -p {part} && mv {parts[part]}/{normal} {part}/normal")
        others = [one for one in inside if one not in (normal, "normal", "anomalous", "unlabeled")]
        if part == "test" and others:
            places = " ".join(f"{parts[part]}/{one}" for one in others[:4])
            moves.append(f"mkdir -p test/anomalous && mv {places} test/anomalous/")
    for name in _MASK_FOLDERS:
        if moves and name in parts:
            moves.append(f"mv {parts[name]} masks")
    return moves
