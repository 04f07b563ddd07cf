"""Where checkpoints come from: local paths, https:// with resumed downloads, Hugging Face and Weights & Biases."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from zoo.errors import UserError
from zoo.files import write_text

_CHUNK = 1 << 20
_TRIES = 4
_TIMEOUT = 30.0
_LOCAL = ("localhost", "127.0.0.1", "::1")
_MAX_BYTES = 16 << 30
_sealed: ContextVar[bool] = ContextVar("sealed", default=False)


@contextlib.contextmanager
def sealing() -> Iterator[None]:
    """While a model is built from an untrusted file, nothing else is fetched or read."""
    token = _sealed.set(True)
    try:
        yield
    finally:
        _sealed.reset(token)


def cache_folder() -> Path:
    """The package's cache: ``$XDG_CACHE_HOME`` or ``~/.cache``, ``uad-zoo``."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "uad-zoo"


def max_bytes() -> int:
    """Largest file of weights that is fetched or read: 16 GiB, or ``$UAD_ZOO_MAX_BYTES``.

    Raises:
        UserError: the variable is no whole number.
    """
    found = os.environ.get("UAD_ZOO_MAX_BYTES", str(_MAX_BYTES))
    if not found.isdecimal():
        raise UserError(f"UAD_ZOO_MAX_BYTES is '{found}'; expected a number of bytes")
    return int(found)


def fetch(source: str | Path, *, exact: bool = False) -> Path:
    """Local path of a source, downloaded once into the cache.

    Args:
        source: a local file or folder; ``https://...[#sha256=HEX]``; ``hf://owner/repository[/file][@revision]``; or
            ``wandb://entity/project/artifact[:version]``.
        exact: the source must be a file: a folder or a whole repository is an error.

    Raises:
        UserError: not found, not reachable, too large or not what its checksum says.
    """
    if _sealed.get():
        raise UserError(f"asks for another file, {source}; refused")
    text = str(source)
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme in ("http", "https"):
        return download(text)
    if scheme == "hf":
        return _from_hub(text, exact)
    if scheme == "wandb":
        return _from_wandb(text)
    if scheme:
        raise UserError(f"{text}: unknown source {scheme}://; known: a local path, https://, hf://, wandb://")
    path = Path(source).expanduser()
    if path.is_dir() and not exact:
        return in_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a checkpoint")
    return path


def in_folder(folder: Path) -> Path:
    """The checkpoint of a run's folder, or of a folder in Hugging Face layout.

    Raises:
        UserError: none there, or several.
    """
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.ckpt"))
    if len(found) == 1:
        return found[0]
    raise UserError(f"{folder}: no checkpoint there (looked for checkpoints/last.ckpt, model.safetensors, one .ckpt)")


def reachable(endpoint: str) -> bool:
    """Whether a server answers at all: one short try, where the hub's client makes five slow ones for every file."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=5)
    except Exception:  # the client of the day has types of its own for a closed or forbidden network
        return False
    return True


# ---- https ---------------------------------------------------------------------------------------------------------


def download(url: str) -> Path:
    """Fetch a URL once into the cache; an interrupted download goes on where it stopped, in the same or a later call.

    Args:
        url: ``https://`` (``http://`` for this machine only), if wanted with ``#sha256=HEX``: the checksum or its first
            8 or more digits. Without it, the server's ``Content-Length`` must fit.

    Raises:
        UserError: not reachable, too large, cut off or not what the checksum says.
    """
    address, wanted = _checked(url)
    name = re.sub(r"[^\w.-]", "_", Path(urllib.parse.urlparse(address).path).name) or "checkpoint.ckpt"
    target = cache_folder() / "checkpoints" / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(f"{target}.lock"):
        if target.is_file() and _told(target).get("sha256", "").startswith(wanted):
            return target
        partial = target.with_name(target.name + ".part")
        told = _transfer(address, partial)
        digest = file_digest(partial)
        if not digest.startswith(wanted):
            partial.unlink()
            raise UserError(f"{address}: its SHA-256 is {digest}, expected {wanted}; it was not kept")
        _tell(target, {**told, "url": address, "sha256": digest})
        partial.replace(target)
        _notes(partial).unlink(missing_ok=True)
    return target


def _checked(url: str) -> tuple[str, str]:
    """Address and expected checksum ("" without one)."""
    address, _, fragment = url.partition("#")
    parts = urllib.parse.urlparse(address)
    if parts.scheme != "https" and parts.hostname not in _LOCAL:
        raise UserError(f"{address}: unencrypted; give the https:// address")
    wanted = fragment.removeprefix("sha256=").lower()
    if fragment and not (fragment.startswith("sha256=") and re.fullmatch(r"[0-9a-f]{8,64}", wanted)):
        raise UserError(f"{url}: expected #sha256= and 8 to 64 hexadecimal digits after the address")
    return address, wanted


def _transfer(address: str, partial: Path) -> dict[str, Any]:
    """Bring the partial file to its full length; what the server told of it (etag, size)."""
    for attempt in range(_TRIES):
        before = partial.stat().st_size if partial.is_file() else 0
        try:
            told = _request(address, partial)
        except UserError:
            raise
        except (OSError, http.client.HTTPException) as error:
            after = partial.stat().st_size if partial.is_file() else 0
            _give_up(address, error, after, retry=after > before and attempt < _TRIES - 1)
        else:
            size = partial.stat().st_size
            if told["size"] is None or size == told["size"]:
                return told
            if size > told["size"] or attempt == _TRIES - 1:
                partial.unlink() if size > told["size"] else None
                raise UserError(f"{address}: {size} of {told['size']} bytes arrived; run it again to go on from there")
        time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def _give_up(address: str, error: Exception, arrived: int, *, retry: bool) -> None:
    """Raise, unless the connection broke after some progress and another try is left."""
    if retry:
        return
    hint = "download it yourself and give the file's path"
    if arrived:
        hint = f"{arrived} bytes are kept, run it again to go on from there; or {hint}"
    raise UserError(f"{address}: could not be fetched ({_reason(error)}); {hint}") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
    return status + " ".join(str(reason or error or type(error).__name__).split())


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Never from https:// to anything unencrypted."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _checked(newurl.partition("#")[0])
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(address: str, partial: Path) -> dict[str, Any]:
    """One request; what arrives is appended to the partial file if the server agrees that it is the same file."""
    notes = _told(partial)
    have = partial.stat().st_size if partial.is_file() and notes.get("validator") else 0
    headers = {"User-Agent": "uad-zoo", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["validator"]}
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        response = opener.open(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the range starts at the end: nothing is left to fetch, or the file has changed
            raise
        if notes.get("size") == have:
            return notes
        partial.unlink()
        return _request(address, partial)
    with response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise http.client.HTTPException("the server sent another part than was asked for")
        if response.status != 206:
            have = 0
        size = _full_size(response.headers, have)
        _check_room(address, size, partial)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        told = {"size": size, "validator": "" if validator.startswith("W/") else validator}
        _tell(partial, told)
        _append(address, response, partial, have, size)
    return told


def _full_size(headers: Any, have: int) -> int | None:
    length = headers.get("Content-Length")
    return have + int(length) if length is not None and length.isdigit() else None


def _check_room(address: str, size: int | None, partial: Path) -> None:
    if size is not None and size > max_bytes():
        _too_large(address, size)
    free = shutil.disk_usage(partial.parent).free
    if size is not None and size - (partial.stat().st_size if partial.is_file() else 0) > free:
        raise UserError(f"{address}: needs {size} bytes, {free} are free in {partial.parent}; set XDG_CACHE_HOME")


def _too_large(source: str, size: int) -> NoReturn:
    raise UserError(
        f"{source}: {size} bytes, more than the {max_bytes()} that are taken; set UAD_ZOO_MAX_BYTES to allow it"
    )


def _append(address: str, response: Any, partial: Path, have: int, size: int | None) -> None:
    from tqdm import tqdm

    bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=partial.name[17:-5], disable=None, leave=False)
    with bar, partial.open("ab" if have else "wb") as file:
        while chunk := response.read(_CHUNK):
            have += len(chunk)
            if have > max_bytes():
                file.close()
                partial.unlink()
                _too_large(address, have)
            file.write(chunk)
            bar.update(len(chunk))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _notes(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _told(path: Path) -> dict[str, Any]:
    """What is known of a cached or partial file; empty when its notes are missing or broken."""
    try:
        found = json.loads(_notes(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _tell(path: Path, content: dict[str, Any]) -> None:
    write_text(_notes(path), json.dumps(content))


# ---- hubs ----------------------------------------------------------------------------------------------------------


def _from_hub(source: str, exact: bool) -> Path:
    """A file of a repository (for safetensors with the ``config.yaml`` beside it), or its ``model.safetensors``."""
    address, _, revision = source.removeprefix("hf://").partition("@")
    parts = [part for part in address.split("/") if part]
    if len(parts) < 2 or ".." in parts or (exact and len(parts) < 3):
        form = "hf://owner/repository/file" if exact else "hf://owner/repository[/file][@revision]"
        raise UserError(f"{source}: expected {form}")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:]) or "model.safetensors"
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    online = reachable(constants.ENDPOINT)
    options: dict[str, Any] = {"revision": revision or None, "local_files_only": not online}
    try:
        if online:
            size = get_hf_file_metadata(hf_hub_url(repository, file, revision=revision or None)).size or 0
            if size > max_bytes():
                _too_large(source, size)
        if file.endswith(".safetensors") and not exact:
            hf_hub_download(repository, str(Path(file).with_name("config.yaml")), **options)
        return Path(hf_hub_download(repository, file, **options))
    except UserError:
        raise
    except Exception as error:  # the client raises many types
        if not online:
            where = f"{constants.ENDPOINT} does not answer and {file} is not in its cache"
        else:
            where = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(
            f"{source}: could not be fetched ({where}); give owner/repository/file@revision as the hub lists them, or "
            "a local file"
        ) from error


def _from_wandb(source: str) -> Path:
    name = source.removeprefix("wandb://")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+/[\w.-]+(:[\w.-]+)?", name) or ".." in name:
        raise UserError(f"{source}: expected wandb://entity/project/artifact[:version]")
    folder = cache_folder() / "checkpoints" / "wandb" / name.replace(":", "@")
    if re.search(r":v\d+$", name) and (folder / ".complete").is_file():  # numbered versions never change
        return _one_checkpoint(folder, source)
    import wandb

    try:
        artifact = wandb.Api(timeout=15).artifact(name if ":" in name else f"{name}:latest")
        if artifact.size > max_bytes():
            _too_large(source, artifact.size)
        artifact.download(str(folder))
    except UserError:
        raise
    except Exception as error:  # the client raises many types
        raise UserError(
            f"{source}: could not be fetched ({type(error).__name__}: {' '.join(str(error).split())[:120]}); artifacts "
            "need the network and `wandb login`, runs logged offline `wandb sync` first; or give a local file"
        ) from error
    (folder / ".complete").touch()
    return _one_checkpoint(folder, source)


def _one_checkpoint(folder: Path, source: str) -> Path:
    found = sorted(path for suffix in ("*.ckpt", "*.safetensors") for path in folder.rglob(suffix))
    if len(found) != 1:
        raise UserError(f"{source}: expected one .ckpt or .safetensors in the artifact, found {len(found)}")
    return found[0]
