"""Downloads from real servers on this machine: resumed, checked, cached; hubs by their own clients."""

import concurrent.futures
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.checkpoints.saving import save_checkpoint, save_safetensors
from zoo.checkpoints.sources import download, fetch
from zoo.errors import UserError
from zoo.registry import methods

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(server, cache):
    server.files["/weights.pth"] = CONTENT
    return server.address + "/weights.pth"


def one_line(caught):
    return "\n" not in str(caught.value)


def test_fetched_once_and_checked(server, url, cache):
    path = download(f"{url}#sha256={SHA256}")
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-weights.pth")
    assert path.is_relative_to(cache)
    assert download(url) == download(f"{url}#sha256={SHA256[:8]}") == path
    assert [method for method, _, _ in server.requests] == ["GET"]
    assert not list(cache.rglob("*.part*"))


def test_broken_connections_are_resumed_in_one_call(server, url):
    server.cuts = [1_200_000, 700_000]
    assert download(url).read_bytes() == CONTENT
    assert [part for _, _, part in server.requests] == [None, "bytes=1200000-", "bytes=1900000-"]


def test_killed_download_is_resumed_by_the_next_process(server, url, cache):
    server.cuts = [1_500_000]
    code = (
        "import os, zoo.checkpoints.sources as sources\n"
        "sources.time.sleep = lambda seconds: os.kill(os.getpid(), 9)\n"
        f"sources.download('{url}')"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (partial,) = cache.rglob("*.part")
    assert partial.stat().st_size == 1_500_000
    assert download(url).read_bytes() == CONTENT
    assert server.requests[-1][2] == "bytes=1500000-"


def test_changed_file_is_not_patched_together(server, url, cache):
    server.cuts = [1_000_000, 0, 0, 0]
    with pytest.raises(UserError, match="1000000 of 3000000 bytes arrived; run it again to go on") as caught:
        download(url)
    assert one_line(caught)
    server.files["/weights.pth"] = CONTENT[::-1]
    assert download(url).read_bytes() == CONTENT[::-1]
    assert server.requests[-1][2] == "bytes=1000000-"


@pytest.mark.parametrize("missing", ["ranges", "etag", "length"])
def test_servers_that_can_less(server, url, missing):
    server.options[missing] = False
    if missing != "length":  # without a length nobody can tell that it was cut
        server.cuts = [1_000_000]
    assert download(f"{url}#sha256={SHA256}").read_bytes() == CONTENT


def test_wrong_checksum_keeps_nothing(url, cache):
    with pytest.raises(UserError, match=f"its SHA-256 is {SHA256}, expected 00000000; it was not kept") as caught:
        download(f"{url}#sha256=00000000")
    assert one_line(caught)
    assert not [
        path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock" and path.stat().st_size > 1000
    ]
    with pytest.raises(UserError, match="expected #sha256= and 8 to 64"):
        download(f"{url}#md5=12")


def test_checksum_of_a_cached_file_is_checked_too(server, url):
    download(url)
    with pytest.raises(UserError, match="expected 11111111"):
        download(f"{url}#sha256=11111111")
    server.files["/weights.pth"] = CONTENT[::-1]
    wanted = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert download(f"{url}#sha256={wanted}").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("told", [True, False])
def test_too_large(server, url, cache, monkeypatch, told):
    server.options["length"] = told
    monkeypatch.setenv("UAD_ZOO_MAX_BYTES", "2000000")
    with pytest.raises(UserError, match="more than the 2000000 that are taken; set UAD_ZOO_MAX_BYTES") as caught:
        download(url)
    assert one_line(caught)
    assert not list(cache.rglob("*.part"))


def test_limit_that_is_no_number(url, monkeypatch):
    monkeypatch.setenv("UAD_ZOO_MAX_BYTES", "2GB")
    with pytest.raises(UserError, match="UAD_ZOO_MAX_BYTES is '2GB'; expected a number of bytes"):
        download(url)


def test_workers_that_want_the_same_file_fetch_it_once(server, url):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(download, [url] * 4))
    assert len(paths) == len(server.requests) == 1
    assert paths.pop().read_bytes() == CONTENT


def test_full_disk_is_told_before_it_is_full(url, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"needs 3000000 bytes, 1 are free in .*; set XDG_CACHE_HOME"):
        download(url)


def test_nothing_there_and_no_network(server, cache):
    with pytest.raises(UserError, match=r"HTTP 404 Not Found.*download it yourself and give the file's path") as caught:
        download(server.address + "/other.pth")
    assert one_line(caught)
    start = time.monotonic()
    for address in ("http://127.0.0.1:9/a.pth", "https://nowhere.invalid/a.pth"):
        with pytest.raises(UserError, match=r"could not be fetched .*download it yourself") as caught:
            download(address)
        assert one_line(caught)
    assert time.monotonic() - start < 10


def test_unencrypted_addresses_are_refused(server, cache):
    with pytest.raises(UserError, match="unencrypted; give the https:// address"):
        fetch("http://example.org/weights.pth")
    server.options["redirect"]["/moved"] = "http://example.org/weights.pth"
    with pytest.raises(UserError, match=r"example\.org/weights\.pth: unencrypted"):
        download(server.address + "/moved")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https_with_a_certificate(server, url, tmp_path, monkeypatch):
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost"], cwd=tmp_path, check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.server.socket = context.wrap_socket(server.server.socket, server_side=True)
    server.scheme = "https"
    address = url.replace("http://", "https://")
    with pytest.raises(UserError, match=r"(?i)could not be fetched .*certificate") as caught:
        download(address)
    assert one_line(caught)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert download(f"{address}#sha256={SHA256}").read_bytes() == CONTENT


def test_progress_goes_to_a_terminal_only(url, capsys):
    download(url)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def tiny():
    return zoo.create_model("autoencoder", **methods()["autoencoder"].tiny).eval()


def test_our_checkpoint_from_the_web(server, cache, tmp_path):
    model = tiny()
    save_checkpoint(model, tmp_path / "model.ckpt")
    server.files["/a/model.ckpt"] = (tmp_path / "model.ckpt").read_bytes()
    image = torch.rand(2, 1, 32, 32)
    found = zoo.load_pretrained(server.address + "/a/model.ckpt")
    assert torch.equal(found(image).anomaly_score, model(image).anomaly_score)
    server.files["/page.ckpt"] = b"<!DOCTYPE html><html>log in</html>"
    with pytest.raises(UserError, match="a web page, not a checkpoint"):
        zoo.load_pretrained(server.address + "/page.ckpt")


# ---- Hugging Face, by huggingface_hub itself against a server on this machine ----


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """An endpoint with the repository ``me/model``: main and v1 differ."""
    from huggingface_hub import constants

    for revision in ("main", "v1"):
        torch.manual_seed(len(revision))
        model = tiny()
        save_safetensors(model, tmp_path / revision)
        save_checkpoint(model, tmp_path / revision / "model.ckpt")
        for name in ("config.yaml", "model.safetensors", "model.ckpt"):
            content = (tmp_path / revision / name).read_bytes()
            server.files[f"/me/model/resolve/{revision}/{name}"] = content
            server.files[f"/me/model/resolve/{revision}/sub/{name}"] = content
    server.files["/"] = b"hub"
    server.headers["X-Repo-Commit"] = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return server


def weights(source):
    return next(iter(zoo.load_pretrained(source).state_dict().values()))


def test_hub_repositories_files_and_revisions(hub, tmp_path):
    main = next(iter(zoo.load_pretrained(tmp_path / "main").state_dict().values()))
    other = next(iter(zoo.load_pretrained(tmp_path / "v1").state_dict().values()))
    assert not torch.equal(main, other)
    for source in ("hf://me/model", "hf://me/model/model.ckpt", "hf://me/model/sub/model.safetensors"):
        assert torch.equal(weights(source), main)
    hub.headers["X-Repo-Commit"] = "f" * 40
    for source in ("hf://me/model@v1", "hf://me/model/model.ckpt@v1"):
        assert torch.equal(weights(source), other)


def test_hub_mistakes(hub, monkeypatch):
    with pytest.raises(
        UserError, match=r"hf://me/model/none\.ckpt: could not be fetched .*as the hub lists them"
    ) as caught:
        fetch("hf://me/model/none.ckpt")
    assert one_line(caught)
    for source in ("hf://model", "hf://me/../file"):
        with pytest.raises(UserError, match=r"expected hf://owner/repository\[/file\]\[@revision\]"):
            fetch(source)
    monkeypatch.setenv("UAD_ZOO_MAX_BYTES", "100")
    with pytest.raises(UserError, match="more than the 100 that are taken"):
        fetch("hf://me/model")


def test_hub_without_network_uses_its_cache(hub, monkeypatch):
    first = weights("hf://me/model")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert torch.equal(weights("hf://me/model"), first)
    with pytest.raises(
        UserError, match=r"127\.0\.0\.1:9 does not answer and model\.ckpt is not in its cache"
    ) as caught:
        fetch("hf://me/model/model.ckpt")
    assert one_line(caught)
    assert time.monotonic() - start < 10


def test_backbone_from_the_hub(hub, tmp_path):
    import timm

    from zoo.nn.features import FeatureExtractor

    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    hub.files["/me/model/resolve/main/resnet.pth"] = (tmp_path / "resnet.pth").read_bytes()
    by_hub = FeatureExtractor(layers=("layer1",), weights="hf://me/model/resnet.pth")
    by_file = FeatureExtractor(layers=("layer1",), weights=str(tmp_path / "resnet.pth"))
    assert torch.equal(by_hub.backbone.conv1.weight, by_file.backbone.conv1.weight)
    with pytest.raises(UserError, match="expected hf://owner/repository/file"):
        FeatureExtractor(layers=("layer1",), weights="hf://me/model")


@pytest.mark.slow
def test_pushed_folder_to_the_real_client_by_environment(hub, tmp_path):
    """HF_ENDPOINT, as users of a mirror set it."""
    code = "import zoo; print(type(zoo.load_pretrained('hf://me/model@v1')).__name__)"
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert found.stdout.strip() == "Autoencoder", found.stderr


# ---- Weights & Biases: its client needs an account, so its answers stand in ----


class Artifact:
    """What of an artifact is used."""

    def __init__(self, folder, size=1000):
        self.folder, self.size, self.downloads = folder, size, 0

    def download(self, root):
        self.downloads += 1
        return shutil.copytree(self.folder, root, dirs_exist_ok=True)


@pytest.fixture
def wandb_artifact(tmp_path, monkeypatch, cache):
    save_checkpoint(tiny(), tmp_path / "artifact" / "model.ckpt")
    artifact = Artifact(tmp_path / "artifact")
    asked = []

    class Api:
        def __init__(self, timeout):
            pass

        def artifact(self, name):
            asked.append(name)
            return artifact

    monkeypatch.setattr("wandb.Api", Api)
    artifact.asked = asked
    return artifact


def test_wandb_artifacts(wandb_artifact, tmp_path, monkeypatch):
    for _ in range(2):  # a numbered version is fetched once
        assert fetch("wandb://me/project/model:v3").name == "model.ckpt"
    assert wandb_artifact.downloads == 1
    assert zoo.load_pretrained("wandb://me/project/model").image_size == (32, 32)
    assert wandb_artifact.asked == ["me/project/model:v3", "me/project/model:latest"]
    (tmp_path / "artifact" / "other.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"expected one \.ckpt or \.safetensors in the artifact, found 2"):
        fetch("wandb://me/project/model:v4")
    for source in ("wandb://me/model", "wandb://me/project/../../x", "wandb://a/b/.."):
        with pytest.raises(UserError, match=r"expected wandb://entity/project/artifact\[:version\]"):
            fetch(source)
    monkeypatch.setenv("UAD_ZOO_MAX_BYTES", "10")
    with pytest.raises(UserError, match="more than the 10 that are taken"):
        fetch("wandb://me/project/model:v5")


def test_wandb_itself_without_an_account(cache, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(cache / "none"))
    with pytest.raises(UserError, match=r"could not be fetched .*`wandb login`") as caught:
        fetch("wandb://me/project/model:v1")
    assert one_line(caught)
