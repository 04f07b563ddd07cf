"""``zoo data get`` against a server on this machine: resume, checksums, hostile archives, terms and steps."""

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules import commands, fetching, phantoms
from datamodules.registry import cards
from zoo.errors import UserError


class Server:
    """Serves bytes by name; the first ``cuts`` answers end in the middle."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts = 0
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = owner.files.get(self.path.rpartition("/")[2])
                wanted = self.headers.get("Range", "")
                owner.asked.append(wanted)
                if content is None:
                    self.send_error(404)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                rest = content[start:]
                if owner.cuts:
                    owner.cuts -= 1
                    rest = rest[: len(rest) // 2]
                self.wfile.write(rest)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/files"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching.time, "sleep", lambda _: None)
    server = Server()
    yield server
    server.close()


def _tar(folder: Path, top: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(folder, top)
    return stream.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def rsna(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A phantom in the place of MedIAnomaly's RSNA, with its own checksum."""
    phantoms.write("data_json", tmp_path / "made")
    server.files["RSNA.tar.gz"] = _tar(tmp_path / "made", "RSNA")
    _publish(monkeypatch, "RSNA", md5=hashlib.md5(server.files["RSNA.tar.gz"]).hexdigest())
    return server.files["RSNA.tar.gz"]


def _publish(monkeypatch: pytest.MonkeyPatch, name: str, md5: str) -> None:
    known = dict(fetching.downloads())
    files = tuple(replace(one, checksum=f"md5:{md5}" if md5 else "") for one in known[name].files)
    known[name] = replace(known[name], files=files)
    monkeypatch.setattr(fetching, "downloads", lambda: known)


def _get(name: str, root: Path, url: str, *more: str) -> int:
    places = ["--root", str(root), "--url", url, "--cache_dir", str(root.parent / "c")]
    return commands.main(["get", name, *places, "--accept-licence", *more])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_set_is_fetched_unpacked_and_checked(
    server: Server, rsna: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    server.cuts = 2
    assert _get("rsna", root, server.url) == 0
    told = capsys.readouterr().out
    assert "licence: CC BY 4.0 of the record" in told
    assert "data_json in " in told
    assert "(phantom)" in told  # its mark travels with it
    assert re.search(r"train normal\s+29", told)
    assert "0 errors" in told
    assert f"--data.root {root}/RSNA" in told
    assert len(server.asked) == 3  # twice cut off, continued each time
    assert [bool(one) for one in server.asked] == [False, True, True]
    assert sorted(path.name for path in (root / ".downloads").iterdir()) == ["RSNA.tar.gz.done"]
    assert _get("RSNA", root, server.url, "--keep") == 0
    assert len(server.asked) == 3
    assert "fetched before; to fetch it again remove" in capsys.readouterr().out


def test_nothing_is_fetched_before_the_terms_are_accepted(
    server: Server, rsna: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="add --accept-licence if you agree"):
        commands.main(["get", "RSNA", "--root", str(tmp_path / "root"), "--url", server.url])
    assert not server.asked
    assert not (tmp_path / "root").exists()
    told = capsys.readouterr().out
    assert "568.0 MB" in told
    assert "not tried" in told


def test_a_later_command_goes_on(server: Server, rsna: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_ATTEMPTS", 1)
    server.cuts = 1
    wanted, root = fetching.chosen("RSNA"), tmp_path / "root"
    with pytest.raises(UserError, match=r"broke off\); .* are kept, the same command goes on from there"):
        fetching.get(wanted, root, server.url)
    kept = (root / ".downloads" / "RSNA.tar.gz.part").stat().st_size
    fetching.get(wanted, root, server.url)
    assert server.asked[-1] == f"bytes={kept}-"
    assert (root / "RSNA" / "data.json").is_file()


def test_other_bytes_are_refused_and_fetched_anew(server: Server, rsna: bytes, tmp_path: Path) -> None:
    wanted, root = fetching.chosen("RSNA"), tmp_path / "root"
    server.files["RSNA.tar.gz"] = rsna[:-1] + bytes([rsna[-1] ^ 1])
    with pytest.raises(UserError, match=r"not the file that was published, expected md5:\w{32}, found \w{32}"):
        fetching.get(wanted, root, server.url)
    assert not [path for path in root.rglob("*") if path.is_file()]
    (root / ".downloads" / "RSNA.tar.gz.part").write_bytes(bytes(len(rsna) + 5))  # of another file
    server.files["RSNA.tar.gz"] = rsna
    fetching.get(wanted, root, server.url)
    assert (root / "RSNA" / "data.json").is_file()


def test_a_page_instead_of_a_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(monkeypatch, "RSNA", md5="")
    server.files["RSNA.tar.gz"] = b"<!DOCTYPE html><html>quota exceeded</html>"
    with pytest.raises(UserError, match=r"a web page came, not RSNA\.tar\.gz"):
        fetching.get(fetching.chosen("RSNA"), tmp_path, server.url)
    server.files.clear()
    with pytest.raises(UserError, match="HTTP 404; look for another address"):
        fetching.get(fetching.chosen("RSNA"), tmp_path, server.url)
    with pytest.raises(UserError, match=r"ftp://x/RSNA.tar.gz: an address that begins with https://"):
        fetching.get(fetching.chosen("RSNA"), tmp_path, "ftp://x")
    with pytest.raises(UserError, match="cannot be fetched"):
        fetching.get(fetching.chosen("RSNA"), tmp_path, "http://127.0.0.1:9/RSNA.tar.gz")


# ---- archives -----------------------------------------------------------------------------------------------------


def _hostile_tar(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("fine.png"), io.BytesIO(b""))
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(b"evil"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar", _hostile_tar("../evil")),
        ("a.tar", _hostile_tar("/tmp/evil")),
        ("a.tar", _hostile_tar("x/../../evil")),
        ("a.tar", _hostile_tar("link", tarfile.SYMTYPE, "/etc")),
        ("a.tar", _hostile_tar("link", tarfile.LNKTYPE, "fine.png")),
        ("a.tar", _hostile_tar("pipe", tarfile.FIFOTYPE)),
        ("a.zip", _zip({"fine.png": b"", "../evil": b"x"})),
        ("a.zip", _zip({"fine.png": b"", "C:\\evil": b"x"})),
    ],
)
def test_hostile_archives_leave_nothing(name: str, content: bytes, tmp_path: Path) -> None:
    archive = tmp_path / name
    archive.write_bytes(content)
    with pytest.raises(UserError, match="nothing was unpacked, do not trust this archive"):
        fetching.unpack(archive, tmp_path / "root")
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "evil").exists()


def test_archives_that_are_none(tmp_path: Path) -> None:
    for name, content in (("a.zip", b"<html>quota"), ("b.tar.gz", b"<html>quota"), ("c.zip", b"PK\3\4 half")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"no readable archive.*fetch it again"):
            fetching.unpack(tmp_path / name, tmp_path / "root")
    damaged = _zip({"one.txt": b"0123456789"}).replace(b"0123456789", b"0123456780")
    (tmp_path / "d.zip").write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged at one\.txt"):
        fetching.unpack(tmp_path / "d.zip", tmp_path / "root")
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]


def test_folders_are_joined_and_nothing_is_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, members in {
        "a.zip": {"images/1.png": b"one", "__MACOSX/._1.png": b"litter", "images/.DS_Store": b""},
        "b.zip": {"images/2.png": b"two"},
        "c.zip": {"images/3.png": b"new", "images/1.png": b"another"},
    }.items():
        (tmp_path / name).write_bytes(_zip(members))
    assert [fetching.unpack(tmp_path / name, root) for name in ("a.zip", "b.zip", "a.zip")] == [1, 1, 1]
    with pytest.raises(UserError, match=r"images/1.png: is there already and differs from c.zip"):
        fetching.unpack(tmp_path / "c.zip", root)
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png")) == ["images/1.png", "images/2.png"]


# ---- lists --------------------------------------------------------------------------------------------------------


def test_the_lists_are_complete() -> None:
    for name, one in fetching.downloads().items():
        assert one.entry.phantom
        assert one.licence
        for file in one.files:
            assert file.url.startswith("https://"), name
            assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.checksum), name
    collection = {one.name for one in fetching.chosen("medianomaly")}
    assert collection >= {"RSNA", "VinCXR", "BrainTumor", "LAG", "Camelyon16"}
    assert [one.name for one in fetching.chosen("pneumoniamnist_224")] == ["pneumoniamnist_224"]
    with pytest.raises(UserError, match="zoo data get medmnist: name one of pathmnist"):
        fetching.chosen("medmnist")
    with pytest.raises(UserError, match="nothing is called 'RSNAA'; nearest: RSNA"):
        fetching.chosen("RSNAA")


@pytest.mark.parametrize("name", sorted({*cards()} - {one.entry.name for one in fetching.downloads().values()}))
def test_gated_sets_print_their_steps(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["get", name, "--root", str(tmp_path / "x")]) == 1
    told = capsys.readouterr().out
    assert cards()[name].layout in told
    assert f"zoo data check {name} --root" in told
    assert not (tmp_path / "x").exists()
