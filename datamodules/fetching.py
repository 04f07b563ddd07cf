"""``zoo data get``: what may be downloaded freely, and the steps to everything else.

Addresses, checksums and terms are the files of ``datamodules/downloads``, one a data set. None of the addresses could
be reached when the lists were made: each list says where it was read.
"""

import contextlib
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlparse

from datamodules.integrity import told
from datamodules.registry import DataSet, cards
from zoo.errors import UserError
from zoo.files import whole, write_text
from zoo.registry import nearest

PLACE = ".downloads"  # below the root; hidden, so that no data set reads it
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
_BLOCK = 1 << 20
_PIECE = 1 << 14  # of a transfer; what was begun of one is lost when it breaks off
_ATTEMPTS = 4
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class RemoteFile:
    """One file of a download.

    Attributes:
        url: its address.
        name: its name on disk.
        checksum: ``md5:...`` or ``sha256:...``; empty where none is known.
        size: bytes, about; 0 where unknown.
        into: folder below the root that it is put or unpacked to; empty: the root itself.
    """

    url: str
    name: str
    checksum: str
    size: int
    into: str


@dataclass(frozen=True)
class Download:
    """What one command fetches: a data set, or one set of a collection.

    Attributes:
        name: for the command.
        entry: the card of the data set that reads it.
        licence: its terms.
        read_in: where addresses and checksums were read.
        collection: name of the collection it belongs to, or empty.
        files: to fetch.
        subsets: values of ``data.subset`` that are checked afterwards; empty: the option is not given.
    """

    name: str
    entry: DataSet
    licence: str
    read_in: str
    collection: str
    files: tuple[RemoteFile, ...]
    subsets: tuple[str, ...]


@cache
def downloads() -> dict[str, Download]:
    """All downloads by name."""
    import yaml

    found: dict[str, Download] = {}
    for path in sorted((Path(__file__).parent / "downloads").glob("*.yaml")):
        entry, content = cards()[path.stem], yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, part in content["parts"].items():
            files = tuple(_remote({"into": part.get("into", ""), **one}) for one in part["files"])
            subsets = tuple(part.get("subsets", [name]))
            licence, collection = part.get("licence", entry.licence), part.get("collection", "")
            found[name] = Download(name, entry, licence, content["read_in"], collection, files, subsets)
    return found


def _remote(one: dict[str, Any]) -> RemoteFile:
    checksum = next((f"{kind}:{one[kind]}" for kind in ("md5", "sha256") if kind in one), "")
    name = one.get("name", PurePosixPath(urlparse(one["url"]).path).name)
    return RemoteFile(one["url"], name, checksum, one.get("megabytes", 0) * 10**6, one.get("into", ""))


def chosen(name: str) -> list[Download]:
    """The downloads that a name stands for: one of them, all of a collection, or those of a data set that has one.

    Raises:
        UserError: no such name, or a data set of several downloads; the message lists names.
    """
    known = downloads()
    exact = {one.lower(): found for one, found in known.items()}.get(name.lower())
    if exact is not None:
        return [exact]
    together = [one for one in known.values() if one.collection == name]
    if together:
        return together
    of_set = [one for one in known.values() if one.entry.name == name]
    if len(of_set) > 1:
        names = [one.name for one in of_set]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        raise UserError(f"zoo data get {name}: name one of {', '.join(names[:12])}{more}")
    if not of_set and name not in cards():
        collections = {one.collection for one in known.values()} - {""}
        names = [*known, *cards(), *collections]
        raise UserError(
            f"zoo data get: nothing is called '{name}'; nearest: {', '.join(nearest(name, names)) or names[0]}"
        )
    return of_set


def steps(entry: DataSet, root: Path) -> str:
    """What a person has to do to get a set that may not be fetched by a program."""
    own = entry.steps or (f"open {entry.access} and follow its terms ({entry.licence})",)
    lines = [*own, f"unpack it so that {root} holds: {entry.layout}", f"zoo data check {entry.name} --root {root}"]
    head = f"{entry.name} ({entry.title}) is not fetched by this program: {entry.licence}"
    return "\n".join([head, *(f"  {number}. {line}" for number, line in enumerate(lines, 1))])


def terms(wanted: list[Download]) -> str:
    """What would be fetched, from where and on which terms."""
    lines = []
    for one in wanted:
        size = sum(file.size for file in one.files)
        lines.append(f"{one.name}: {one.entry.title}; read by {one.entry.name}")
        lines.append(f"  licence: {one.licence}")
        for file in one.files:
            lines.append(f"  from {file.url} ({file.checksum or 'no checksum is known'})")
        lines.append(f"  size: {told(size) if size else 'unknown'}; addresses as read in {one.read_in}, not tried")
    return "\n".join(lines)


def get(wanted: list[Download], root: Path, mirror: str | None = None, keep: bool = False) -> None:
    """Fetch and unpack; what is there already is not fetched again, what was begun is continued.

    Args:
        wanted: of :func:`chosen`.
        root: folder of the data.
        mirror: address of a folder that holds the same files, or of the one file; None: the official addresses.
        keep: leave the archives in ``root/.downloads``.

    Raises:
        UserError: nothing usable came, or an archive holds what it must not.
    """
    for one in wanted:
        for file in one.files:
            place = root / PLACE / file.name
            done = place.with_name(f"{file.name}.done")
            if done.is_file():
                print(f"{file.name}: fetched before; to fetch it again remove {done}")
                continue
            _fetch(file, place, _address(file, mirror))
            if file.name.endswith(_ARCHIVES):
                count = unpack(place, root / file.into if file.into else root)
                print(f"{file.name}: {count} files unpacked")
                if not keep:
                    place.unlink()
            else:
                (root / file.into).mkdir(parents=True, exist_ok=True)
                place.replace(root / file.into / file.name)
            write_text(done, f"{file.url}\n{file.checksum}\n")


def _address(file: RemoteFile, mirror: str | None) -> str:
    url = file.url
    if mirror is not None:
        url = mirror if mirror.rstrip("/").endswith(file.name) else f"{mirror.rstrip('/')}/{file.name}"
    parts = urlparse(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and (here or file.checksum)):
        wanted = "https://, or http:// where a checksum is known,"
        raise UserError(f"--url {url}: an address that begins with {wanted} is expected")
    return url


def _fetch(file: RemoteFile, place: Path, url: str) -> None:
    import pooch

    place.parent.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    reader = partial(_continued, part=place.with_name(f"{place.name}.part"))
    try:
        pooch.retrieve(url, file.checksum or None, place.name, place.parent, downloader=reader)
    except UserError:
        raise
    except ValueError as error:  # the checksum
        got = str(error).rpartition("but got ")[2].split(".")[0]
        raise UserError(
            f"{url}: not the file that was published, expected {file.checksum}, found {got}\n"
            "what came was removed; try again, or another mirror with --url"
        ) from error
    if not file.checksum:
        page = _is_page(place)
        if page:
            place.unlink()
            raise UserError(f"{url}: a web page came, not {file.name} (a quota or a login); try again later, or --url")
        print(f"{file.name}: no checksum is known; sha256:{pooch.file_hash(str(place))}")


def _is_page(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html", b"<?xml"))


def _continued(url: str, target: str, owner: Any, *, part: Path) -> None:
    """A downloader for pooch that goes on where the last attempt, also of an earlier process, stopped.

    Raises:
        UserError: the server cannot be reached, refuses, or sends less than it said.
    """
    import requests

    for attempt in range(_ATTEMPTS):
        try:
            _transfer(url, part)
            part.replace(target)
            return
        except requests.HTTPError as error:
            code = 0 if error.response is None else error.response.status_code
            if 400 <= code < 500 and code != 429:
                raise UserError(f"{url}: HTTP {code}; look for another address (--url)") from error
            reason = f"HTTP {code}"
        except (requests.RequestException, _CutOff) as error:
            reason = "the connection broke off" if "IncompleteRead" in str(error) else str(error)[:160]
        if attempt + 1 < _ATTEMPTS:
            time.sleep(2**attempt / 2)
    have = part.stat().st_size if part.is_file() else 0
    again = f"; {told(have)} are kept, the same command goes on from there" if have else ""
    raise UserError(f"{url}: cannot be fetched ({reason}){again}")


class _CutOff(Exception):
    """The server sent less than it said."""


def _transfer(url: str, part: Path) -> None:
    import requests
    from tqdm import tqdm

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    headers["Accept-Encoding"] = "identity"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416:  # nothing after what is there: all of it, or of another file
            if response.headers.get("Content-Range", "").rpartition("/")[2] != str(have):
                part.unlink()
                raise _CutOff("what was there before was another file")
            return
        response.raise_for_status()
        if response.status_code != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server begins anew
        length = int(response.headers.get("Content-Length", 0))
        free = shutil.disk_usage(part.parent).free
        if length > free:
            raise UserError(f"{part.parent}: {told(length)} more are needed, {told(free)} are free; make room")
        options: dict[str, Any] = {"unit": "B", "unit_scale": True, "desc": part.stem, "delay": 1}
        bar = tqdm(initial=have, total=have + length or None, **options)
        with bar, part.open("ab" if have else "wb") as stream:
            got = 0
            for block in response.iter_content(_PIECE):
                stream.write(block)
                got += len(block)
                bar.update(len(block))
        if length and got < length:
            raise _CutOff(f"{got} of {length} bytes came")


# ---- archives -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    problem: str
    source: Any


def unpack(archive: Path, root: Path) -> int:
    """Unpack a tar or zip archive; nothing is overwritten, and nothing is written outside of ``root``.

    Files are unpacked into a hidden folder first and moved when all are there. Files that systems leave behind are
    skipped.

    Args:
        archive: the file.
        root: folder; made if missing.

    Returns:
        int: number of files.

    Raises:
        UserError: no such archive, damaged, larger than the free space, or with names outside of the folder, links,
            devices, or files that are already there with another content.
    """
    with _opened(archive) as (members, read):
        if not members:
            raise UserError(f"{archive}: no file in it; fetch it again")
        _refuse(archive, members, root)
        with whole(root / PLACE / f"unpacked-{archive.name}") as place:
            for member in members:
                target = place / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with read(member.source) as source, target.open("wb") as stream:
                        shutil.copyfileobj(source, stream, _BLOCK)
                except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError) as error:
                    raise UserError(
                        f"{archive}: damaged at {member.name} ({error}); remove it and fetch it again"
                    ) from error
        place = root / PLACE / f"unpacked-{archive.name}"
        for member in members:
            target = root / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            (place / member.name).replace(target)
        shutil.rmtree(place)
    return len(members)


def _refuse(archive: Path, members: list[_Member], root: Path) -> None:
    for member in members:
        parts = PurePosixPath(member.name).parts
        outside = member.name.startswith(("/", "\\")) or ".." in parts or ":" in member.name[:2] or "\\" in member.name
        problem = "a path outside of the folder" if outside else member.problem
        if problem:
            raise UserError(f"{archive}: {member.name} is {problem}; nothing was unpacked, do not trust this archive")
    if len({member.name for member in members}) < len(members):
        raise UserError(f"{archive}: two files of one name; nothing was unpacked")
    size, free = sum(member.size for member in members), shutil.disk_usage(archive.parent).free
    if size > free:
        raise UserError(f"{archive}: {told(size)} when unpacked, {told(free)} are free; make room")
    for member in members:
        target = root / member.name
        if target.exists() and (not target.is_file() or target.stat().st_size != member.size):
            raise UserError(f"{target}: is there already and differs from {archive.name}; move it away")


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[_Member], Any]]:
    """Files of an archive, and a function that opens one."""
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as zipped:
                infos = [one for one in zipped.infolist() if not one.is_dir() and not _litter(one.filename)]
                yield [_Member(one.filename, one.file_size, _zip_problem(one), one) for one in infos], zipped.open
        else:
            with tarfile.open(archive) as tar:
                found = [one for one in tar.getmembers() if not one.isdir() and not _litter(one.name)]
                problem = "a link or a device"
                members = [_Member(_plain(one.name), one.size, "" if one.isreg() else problem, one) for one in found]
                yield members, lambda one: _file_of(tar, one)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        page = ", but a web page" if _is_page(archive) else ""
        raise UserError(
            f"{archive}: no readable archive{page} ({str(error).splitlines()[0]}); remove it and fetch it again"
        ) from error


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _file_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    assert stream is not None  # regular files only
    return stream


def _zip_problem(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 1:
        return "encrypted"
    return "" if kind in (0, stat.S_IFREG) else "a link or a device"


def _litter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part == "__MACOSX" or part[0] == "." for part in parts if part not in (".", ".."))
