"""``zoo data list | phantom | check``."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datamodules.catalogue import CATALOGUE, PHANTOM_PRESETS
from zoo.errors import UserError

if TYPE_CHECKING:
    from datamodules.base import AnomalyDataModule


class Report(NamedTuple):
    """What ``check`` found.

    Attributes:
        counts: number of images by part.
        errors: what must be mended.
        warnings: what makes figures incomparable or doubtful.
    """

    counts: dict[str, int]
    errors: list[str]
    warnings: list[str]


def main(argv: list[str]) -> int:
    """Run one of the commands.

    Args:
        argv: arguments after ``zoo data``.

    Returns:
        int: 0 all well, 1 the check found errors.

    Raises:
        UserError: unknown name or unusable folder.
        SystemExit: usage, code 2.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        return _list(arguments.names)
    _known(arguments.name)
    if arguments.command == "phantom":
        options = {"preset": arguments.preset, "seed": arguments.seed, "workers": arguments.workers}
        return _phantom(arguments.name, Path(arguments.root), {**options, "jpeg2000": arguments.jpeg2000})
    return _check(arguments.name, Path(arguments.root), arguments.json, arguments.cache_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo data", description="Data sets: list, generate phantoms, check files.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="names, access and expected folders of all data sets")
    listing.add_argument("--names", action="store_true", help="names only")
    phantom = commands.add_parser("phantom", help="write a synthetic stand-in in the official layout")
    phantom.add_argument("name", metavar="NAME")
    phantom.add_argument("--root", required=True, help="new folder")
    phantom.add_argument("--preset", choices=PHANTOM_PRESETS, default="smoke")
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--jpeg2000", action="store_true", help="vindr_cxr: compress all films without loss")
    phantom.add_argument("--workers", type=int, default=1, help="processes")
    check = commands.add_parser("check", help="count, decode and compare all files; changes nothing")
    check.add_argument("name", metavar="NAME")
    check.add_argument("--root", required=True, help="folder of the data")
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.add_argument("--cache_dir", help="where decoded images are kept")
    return parser


def _known(name: str) -> None:
    if name not in CATALOGUE:
        from difflib import get_close_matches

        nearest = get_close_matches(name, CATALOGUE, 3) or list(CATALOGUE)
        raise UserError(f"unknown data set '{name}'; nearest: {', '.join(nearest)}")


def _list(names_only: bool) -> int:
    for name, entry in CATALOGUE.items():
        if names_only:
            print(name)
        else:
            config = f"--config {entry.config}" if entry.config else "auxiliary"
            print(f"{name:<15} {entry.title:<58} {config}\n{'':<15} root: {entry.layout}   from: {entry.access}")
    return 0


def _phantom(name: str, root: Path, options: dict[str, Any]) -> int:
    if name in ("folder", "medmnist"):
        from datamodules.shapes import write_folder, write_medmnist

        if root.exists() and any(root.iterdir()):
            raise UserError(f"{root}: not empty; give a new folder")
        if name == "folder":
            write_folder(root, options["seed"])
        else:
            write_medmnist(root, "pneumoniamnist", options["seed"])
    else:
        from datamodules import phantoms

        try:
            phantoms.write(name, root, **options)
        except (FileExistsError, ValueError) as error:
            raise UserError(str(error)) from error
    print(f"wrote the phantom of {name} to {root}\ncheck it: zoo data check {name} --root {root}{_use(name, root)}")
    return 0


def _use(name: str, root: Path) -> str:
    config = CATALOGUE[name].config
    if not config:
        return ""
    start = f"\nuse it:   lightning fit --config models/autoencoder --config {config}"
    if name not in _VOLUMES:
        return f"{start} --data.root {root}"
    part, other = ("test", "train") if name.startswith(("brats", "isles")) else ("train", "test")
    strip = " --data.unstripped strip" if name in ("camcan", "ixi") else ""
    return f"{start} --data.{part} {name} --data.{part}_root {root} --data.{other}_root FOLDER{strip}"


def _check(name: str, root: Path, as_json: bool, cache_dir: str | None) -> int:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    try:
        report = examine(name, root, cache_dir)
    except UserError as error:
        report = Report({}, str(error).splitlines(), [])
    phantom = (root / "PHANTOM_DATA.json").is_file()
    if not phantom:
        report.warnings.extend(_against_official(name, report.counts))
    if as_json:
        print(json.dumps({"name": name, "root": str(root), "phantom": phantom, **report._asdict()}, indent=1))
    else:
        _print(name, root, report, phantom)
    return 1 if report.errors else 0


def _print(name: str, root: Path, report: Report, phantom: bool) -> None:
    print(f"{name} in {root}" + (" (phantom)" if phantom else ""))
    for part, count in report.counts.items():
        print(f"  {part:<24}{count:>8}")
    for kind, lines in (("error", report.errors), ("warning", report.warnings)):
        for line in lines[:5]:
            print(f"  {kind}: {line}")
        if len(lines) > 5:
            print(f"  ... and {len(lines) - 5} more {kind}s (--json lists all)")
    print(f"  {len(report.errors)} errors, {len(report.warnings)} warnings")


def _against_official(name: str, counts: dict[str, int]) -> list[str]:
    return [
        f"{part}: found {counts[part]:,} of {expected:,}; partial download? figures are not comparable"
        for part, expected in CATALOGUE[name].official.items()
        if part in counts and counts[part] != expected
    ]


def examine(name: str, root: Path, cache_dir: str | None = None) -> Report:
    """Check one data set.

    Args:
        name: a name of the catalogue.
        root: its folder; nothing in it is changed.
        cache_dir: where decoded images are kept; None: the default.

    Raises:
        UserError: the layout is not the expected one.
    """
    if name in _VOLUMES:
        return _examine_brains(name, root)
    if name in ("mood_abdomen", "natural_images"):
        return _examine_files(name, root)
    return _examine_images(name, root, cache_dir)


def _examine_images(name: str, root: Path, cache_dir: str | None) -> Report:
    import warnings

    from datamodules.checks import find_leaks, near_copy_notes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # reported below
        data = _data_module(name, root, cache_dir)
        data.setup()
    assert data.store is not None
    counts: dict[str, int] = {}
    for split in ("train", "val", "test"):
        images = data.dataset(split) if split != "val" else None
        labels = (
            [record.label for record in data.manifest if record.split == split] if images is None else images.labels
        )
        counts[f"{split} normal"] = sum(1 for label in labels if not label)
        if split == "test":
            counts["test anomalous"] = sum(1 for label in labels if label)
    counts.update(_parts(name, root, data))
    leaks = find_leaks(data.store, data.records)
    copies = [line for line in leaks if line.startswith("same pixels")]
    notes = [line for line in leaks if line not in copies]  # official lists share patients
    notes += near_copy_notes(data.near_copies(), len(data.dataset("test")))
    if name == "covidx":
        notes += _covidx_notes(root)
    if name == "hyper_kvasir" and any(record.mask for record in data.manifest):
        from datamodules.hyper_kvasir import box_notes

        notes += box_notes(root)
    if name == "vindr_cxr" and (labels_file := next(root.rglob("image_labels_train.csv"), None)) is not None:
        from datamodules.vindr_cxr import overhang_notes, reader_notes

        notes += reader_notes(labels_file) + overhang_notes(data.manifest)
    return Report(counts, [*data.rejected, *copies], notes)


def _data_module(name: str, root: Path, cache_dir: str | None) -> "AnomalyDataModule":
    import datamodules

    common: dict[str, Any] = {"root": str(root), "cache_dir": cache_dir, "bad_files": "lenient"}
    if name == "folder":
        return datamodules.Folder(**common)
    if name == "medmnist":
        files = sorted(root.glob("*.npz"))
        if not files:
            raise UserError(f"{root}: no .npz file of MedMNIST there")
        return datamodules.MedMNIST(subset=files[0].stem, **common)
    if name == "hyper_kvasir":
        return datamodules.HyperKvasir(**common)
    return datamodules.CovidX(**common) if name == "covidx" else datamodules.VinDrCXR(**common)


def _parts(name: str, root: Path, data: "AnomalyDataModule") -> dict[str, int]:
    if name == "hyper_kvasir":
        ill = sum(record.label for record in data.manifest)
        return {"healthy": len(data.manifest) - ill, "anomalous": ill}
    if name != "vindr_cxr":
        return {}
    folders = {Path(record.image).parent.parent for record in data.manifest}
    base = min(folders) if folders else root
    return {f"{part} films": len(list((base / part).glob("*.dic*m"))) for part in ("train", "test")}


def _covidx_notes(root: Path) -> list[str]:
    from datamodules.covidx import parse_list, version
    from datamodules.layout import locate

    base = locate(root, "train.txt", "COVIDx")
    parts = [part for part in ("train", "val", "test") if (base / f"{part}.txt").is_file()]
    rows = {part: parse_list(base / f"{part}.txt")[0] for part in parts}
    listed = {part: {row.file for row in rows[part]} for part in parts}
    unlisted = sum(1 for part in parts for file in (base / part).glob("*.*") if file.name not in listed[part])
    repeated = sum(len(rows[part]) - len(listed[part]) for part in parts)
    notes = [f"{unlisted} files are in no list"] if unlisted else []
    notes += [f"{repeated} lines name a file a second time"] if repeated else []
    if version(rows["train"], rows["test"]).startswith("unknown") and not (root / "PHANTOM_DATA.json").is_file():
        notes.append(f"no official version has {len(rows['train'])} + {len(rows['test'])} lines")
    return notes


_VOLUMES = ("hcp", "camcan", "ixi", "mood_brain", "brats17", "brats20", "brats21", "brats23", "isles15")


def _examine_brains(name: str, root: Path) -> Report:
    from datamodules.brain_mri import find_healthy, find_patients, read_volume
    from datamodules.reading import BadFile
    from datamodules.records import Record

    patients = name.startswith(("brats", "isles"))
    find: Callable[..., Any] = find_patients if patients else find_healthy
    problems: dict[str, None] = {}
    heads = 0
    counts: dict[str, int] = {}
    for sequence in ("t1", "t2", "flair") if patients else ("t1", "t2"):
        found: list[BadFile] = []
        records: list[Record] = list(find(root, name, sequence, found))
        counts[sequence] = len(records)
        if records or patients:
            problems.update(dict.fromkeys(str(one) for one in found))
        for record in records:
            try:
                read_volume(record)
            except BadFile as problem:
                if "unstripped" in problem.found and name in ("camcan", "ixi"):  # as published
                    heads += 1
                else:
                    problems[str(problem)] = None
        if name == "mood_brain":
            break
    counts = {part: count for part, count in counts.items() if count}
    if not counts:
        problems.setdefault(f"{root}: no volume of {name} below it", None)
    notes = [f"{heads} volumes have a skull: strip them, or set data.unstripped strip"] if heads else []
    return Report({"volumes": max(counts.values(), default=0), **counts}, list(problems), notes)


def _examine_files(name: str, root: Path) -> Report:
    from datamodules.reading import NIFTI, RASTER, BadFile, list_files, read_nifti, read_raster

    files = list_files(root, NIFTI if name == "mood_abdomen" else RASTER)
    errors = [] if files else [f"{root}: no {CATALOGUE[name].layout} below it"]
    for file in files:
        try:
            if name == "mood_abdomen":
                read_nifti(file, canonical=True)
            else:
                read_raster(file)
        except BadFile as problem:
            errors.append(str(problem))
    return Report({"volumes" if name == "mood_abdomen" else "images": len(files)}, errors, [])
