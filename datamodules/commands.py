"""``zoo data list | get | phantom | check | cache``: what there is, from the registry."""

import argparse
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules import integrity
from datamodules.integrity import default_cache
from datamodules.registry import PHANTOM_PRESETS, DataSet, cards, data_sets, find, home
from zoo.errors import UserError
from zoo.files import write_text
from zoo.registry import nearest

if TYPE_CHECKING:
    from datamodules.base import AnomalyDataModule
    from datamodules.checks import Report


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
    arguments, further = _parser().parse_known_args(argv)
    if further and arguments.command != "check":
        raise UserError(f"zoo data {arguments.command}: unknown option {further[0]}")
    if arguments.command == "list":
        if arguments.docs is not None:
            renew(Path(arguments.docs))
        elif arguments.markdown:
            print(markdown())
        elif arguments.name:
            describe(find(arguments.name))
        else:
            return _list(arguments.names)
        return 0
    if arguments.command == "cache":
        place = default_cache() if arguments.cache_dir is None else Path(arguments.cache_dir).expanduser()
        return integrity.run(place, arguments.action, arguments.older, arguments.to)
    if arguments.command == "get":
        return _get(arguments)
    entry = find(arguments.name)
    if arguments.command == "phantom":
        options = {"preset": arguments.preset, "seed": arguments.seed, "workers": arguments.workers}
        return _phantom(entry, Path(arguments.root), {**options, "jpeg2000": arguments.jpeg2000})
    options = data_options(entry, further)
    if arguments.cache_dir is not None:
        options["cache_dir"] = arguments.cache_dir
    root = arguments.root or options.get("root") or (options.get("table") and Path(options["table"]).parent)
    if not root:
        raise UserError("zoo data check needs --root DIR")
    sheet = None if arguments.sheet is None else Path(arguments.sheet)
    return _check(entry, Path(root), arguments.json, {**options, "root": str(root)}, sheet)


def data_options(entry: DataSet, words: list[str]) -> dict[str, Any]:
    """Options such as ``--data.image_size 64``, as ``fit`` takes them, also by ``--config FILE``.

    Args:
        entry: a data set; a source takes the options of the DataModule that composes it.
        words: of the command line.

    Raises:
        UserError: no such option of the data set, or a value that is none.
    """
    if not words:
        return {}
    import jsonargparse

    owner = entry if entry.class_name else next((one for one in cards().values() if one.sources == entry.group), None)
    fixed = () if owner is entry else ("train", "test", "train_root", "test_root")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    if owner is not None:
        parser.add_class_arguments(getattr(importlib.import_module(owner.module), owner.class_name), "data")
    known = [key.removeprefix("data.") for key in dict(parser.get_defaults(skip_validation=True).items()) if "." in key]
    known = sorted(key for key in known if key not in fixed)
    found: dict[str, Any] = {}
    rest = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while rest:
        word = rest.pop(0)
        key = word.removeprefix("--").removeprefix("data.")
        if not word.startswith("--") or key not in (*known, "config"):
            close = nearest(key, known) or known
            told = f"nearest: {', '.join('--data.' + one for one in close[:6])}" if known else "this source takes none"
            raise UserError(f"{word}: unknown option of {entry.name}; {told}")
        if not rest:
            raise UserError(f"{word}: a value is expected")
        text = rest.pop(0).strip()
        if key == "config":
            found = {**_of_configuration(text, known), **found}
            continue
        if text.startswith("(") or (text.replace(",", "").replace(".", "").replace("-", "").isdigit() and "," in text):
            text = f"[{text.strip('()')}]"
        try:
            found[key] = parser.parse_args([f"--data.{key}={text}"]).data[key]
        except jsonargparse.ArgumentError as error:
            of = getattr(owner, "class_name", "")
            raise UserError(f"--data.{key} {text}: no value for it; `lightning fit --data.help {of}` tells") from error
    return found


def _of_configuration(name: str, known: list[str]) -> dict[str, Any]:
    """Options in the data section of a configuration, as far as the data set knows them."""
    from zoo.configs import config_path, read_yaml

    content = read_yaml(config_path(name))
    section = content.get("data") if isinstance(content, dict) else None
    given = section.get("init_args") if isinstance(section, dict) else None
    if not isinstance(given, dict):
        raise UserError(f"--config {name}: no data.init_args there")
    plain = {key: value for key, value in given.items() if key in known}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo data", description="Data sets: list, generate phantoms, check files.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="names, access and expected folders of all data sets")
    listing.add_argument("name", nargs="?", metavar="NAME", help="describe one data set")
    listing.add_argument("--markdown", action="store_true", help="print the table of the documentation")
    listing.add_argument("--docs", metavar="FILE", help="renew the table in this file")
    listing.add_argument("--names", action="store_true", help="names only")
    phantom = commands.add_parser("phantom", help="write a synthetic stand-in in the official layout")
    phantom.add_argument("name", metavar="NAME")
    phantom.add_argument("--root", required=True, help="new folder")
    phantom.add_argument("--preset", choices=PHANTOM_PRESETS, default="smoke")
    phantom.add_argument("--seed", type=int, default=0)
    films = ", ".join(name for name, entry in data_sets().items() if "jpeg2000" in entry.phantom_options)
    phantom.add_argument("--jpeg2000", action="store_true", help=f"{films}: compress all films without loss")
    phantom.add_argument("--workers", type=int, default=1, help="processes")
    get = commands.add_parser("get", help="download what may be downloaded, or print the steps to it")
    get.add_argument("name", metavar="NAME", help="a data set, one set of a collection, or a collection")
    get.add_argument("--root", required=True, help="folder of the data")
    get.add_argument("--accept-licence", "--accept-license", action="store_true", help="you read the terms and agree")
    get.add_argument("--url", metavar="MIRROR", help="address of a folder with the same files, or of the one file")
    get.add_argument("--keep", action="store_true", help="keep the archives, in ROOT/.downloads")
    get.add_argument("--cache_dir", help="where decoded images are kept")
    cache = commands.add_parser("cache", help="what the cache of prepared images holds")
    cache.add_argument("action", nargs="?", default="list", choices=("list", "clean", "verify"))
    cache.add_argument("--older", type=float, metavar="DAYS", help="clean: what was not used for so long")
    cache.add_argument("--to", metavar="SIZE", help="clean: the longest unused, until 20GB, for example, are left")
    cache.add_argument("--cache_dir", help="default: $XDG_CACHE_HOME/uad-zoo")
    check = commands.add_parser("check", help="count, decode and compare all files; changes nothing")
    check.add_argument("name", metavar="NAME")
    check.add_argument("--root", help="folder of the data")
    check.add_argument("--sheet", metavar="FILE.png", help="write a picture of a few images of every part")
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.add_argument("--cache_dir", help="where decoded images are kept")
    check.epilog = "--data.KEY VALUE, --config FILE: options of the data set, as fit takes them"
    return parser


def _list(names_only: bool) -> int:
    for name, entry in data_sets().items():
        if names_only:
            print(name)
        else:
            config = f"--config {entry.config}" if entry.config else "auxiliary"
            print(f"{name:<15} {entry.title:<58} {config}\n{'':<15} root: {entry.layout}   from: {entry.access}")
    return 0


def describe(entry: DataSet) -> None:
    """Print everything that the card says."""
    rows = {
        "from": f"{entry.access} ({entry.licence})",
        "root": entry.layout,
        "images": f"{entry.images}, {' or '.join(map(str, entry.channels))} channel(s), {list(entry.value_range)}",
        "subject": entry.subject,
        "official": ", ".join(f"{count:,} {part}" for part, count in entry.official.items()),
        "protocol": entry.protocol,
        "leaks": entry.leaks,
        "config": f"--config {entry.config}" if entry.config else "",
        "code": str(Path(__file__).parent / entry.group / f"{entry.name}.py"),
    }
    print(f"{entry.name}: {entry.title}")
    for key, text in rows.items():
        if text:
            print(f"  {key:<10}{text}")


def markdown() -> str:
    """The documentation's table of all data sets."""
    from datamodules.fetching import downloads

    sizes: dict[str, int] = {}
    free = {one.entry.name for one in downloads().values()}
    for one in downloads().values():
        sizes[one.entry.name] = sizes.get(one.entry.name, 0) + sum(file.size for file in one.files)
    about = ("name", "what it is good for", "images", "from; licence", "size", "official counts", "to compare")
    header = (*about, "shortcuts and leaks")
    rows = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for entry in cards().values():
        official = ", ".join(f"{count:,} {part}" for part, count in entry.official.items())
        cells = (
            f"`{entry.name}`",
            entry.title,
            f"{entry.images}; subject: {entry.subject}",
            f"{entry.access}; {entry.licence}" + ("; `zoo data get`" if entry.name in free else ""),
            entry.size or (integrity.told(sizes[entry.name]) if sizes.get(entry.name) else ""),
            official,
            entry.protocol,
            entry.leaks,
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def renew(page: Path) -> None:
    """Replace the table between the two marks of a page."""
    before, start, rest = page.read_text(encoding="utf-8").partition("<!-- data sets -->")
    _, end, after = rest.partition("<!-- /data sets -->")
    if not start or not end:
        raise UserError(f"{page}: no marks <!-- data sets --> and <!-- /data sets --> to write between")
    write_text(page, f"{before}{start}\n{markdown()}\n{end}{after}")


def _get(arguments: argparse.Namespace) -> int:
    """Fetch, unpack and check.

    Raises:
        UserError: the terms are not accepted, or nothing usable came.
    """
    from datamodules import fetching

    root = Path(arguments.root).expanduser()
    wanted = fetching.chosen(arguments.name)
    if not wanted:
        print(fetching.steps(cards()[arguments.name], root))
        return 1
    print(fetching.terms(wanted))
    if not arguments.accept_licence:
        raise UserError("nothing was fetched; add --accept-licence if you agree to these terms")
    fetching.get(wanted, root, arguments.url, arguments.keep)
    options = {} if arguments.cache_dir is None else {"cache_dir": arguments.cache_dir}
    failed = 0
    for one in wanted:
        for subset in one.subsets or ("",):
            own = root / subset if subset and (root / subset).is_dir() else root
            named = {"subset": subset} if subset and own == root else {}
            failed |= _check(one.entry, own, False, {**options, **named})
            print(_usage(one.entry, own) + (f" --data.subset {subset}" if named else ""))
    return failed


def _phantom(entry: DataSet, root: Path, options: dict[str, Any]) -> int:
    from datamodules import phantoms

    try:
        phantoms.write(entry.name, root, **options)
    except (FileExistsError, ValueError) as error:
        raise UserError(str(error)) from error
    print(f"wrote the phantom of {entry.name} to {root}\ncheck it: zoo data check {entry.name} --root {root}")
    if entry.config:
        print(_usage(entry, root))
    return 0


def _usage(entry: DataSet, root: Path) -> str:
    use = home(entry).usage(entry, root) if entry.group else f"--data.root {root}"
    return f"use it:   lightning fit --config models/autoencoder --config {entry.config} {use}"


def _check(entry: DataSet, root: Path, as_json: bool, options: dict[str, Any], sheet: Path | None = None) -> int:
    from datamodules.checks import Report

    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    try:
        report = examine(entry, root, options, sheet)
    except UserError as error:
        report = Report({}, str(error).splitlines(), [])
    phantom = (root / "PHANTOM_DATA.json").is_file()
    if not phantom:
        report.warnings.extend(_against_official(entry, report.counts))
    if as_json:
        print(json.dumps({"name": entry.name, "root": str(root), "phantom": phantom, **report._asdict()}, indent=1))
    else:
        _print(entry.name, root, report, phantom)
    return 1 if report.errors else 0


def _print(name: str, root: Path, report: "Report", phantom: bool) -> None:
    print(f"{name} in {root}" + (" (phantom)" if phantom else ""))
    for part, count in report.counts.items():
        print(f"  {part:<24}{count:>8}")
    for about, text in report.facts.items():
        print(f"  {about:<24}{text}")
    for kind, lines in (("error", report.errors), ("warning", report.warnings)):
        for line in lines[:5]:
            print(f"  {kind}: {line}")
        if len(lines) > 5:
            print(f"  ... and {len(lines) - 5} more {kind}s (--json lists all)")
    print(f"  {len(report.errors)} errors, {len(report.warnings)} warnings")


def _against_official(entry: DataSet, counts: dict[str, int]) -> list[str]:
    return [
        f"{part}: found {counts[part]:,} of {expected:,}; partial download? figures are not comparable"
        for part, expected in entry.official.items()
        if part in counts and counts[part] != expected
    ]


def examine(entry: DataSet, root: Path, options: dict[str, Any] | None = None, sheet: Path | None = None) -> "Report":
    """Check one data set.

    Args:
        entry: its card.
        root: its folder; nothing in it is changed.
        options: of the data set, as ``fit`` takes them.
        sheet: where a picture of a few images is written; None: nowhere.

    Raises:
        UserError: the layout is not the expected one.
    """
    if entry.group:
        report: Report = home(entry).examine(entry, root, options, sheet)
        return report
    import warnings

    from datamodules.overview import write_sheet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # reported below
        data_module = getattr(importlib.import_module(entry.module), entry.class_name)
        given = {key: value for key, value in (options or {}).items() if key != "root"}
        data = data_module.open_for_check(root, **{"bad_files": "lenient", **given})
        data.setup()
        if sheet is not None:
            write_sheet(data, sheet)
    return _examine_images(data)


def _examine_images(data: "AnomalyDataModule") -> "Report":
    from datamodules.checks import Report, find_leaks, near_copy_notes
    from datamodules.overview import facts

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
    counts.update(data.official_counts())
    leaks = find_leaks(data.store, data.records)
    copies = [line for line in leaks if line.startswith("same pixels")]
    notes = [line for line in leaks if line not in copies]  # official lists share patients
    notes += near_copy_notes(data.near_copies(), len(data.dataset("test")))
    doubtful = [*data.check_notes(), *notes, *data.notes()]
    return Report(counts, [*data.rejected, *copies], doubtful, facts(data))
