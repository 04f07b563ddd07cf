"""Hostile files of every kind: nothing runs, nothing fills the memory, one line says why."""

import argparse
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import zoo
from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.saving import save_checkpoint, save_safetensors
from zoo.errors import UserError
from zoo.registry import methods

TRAP = "trap"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(path, message=None, read=(read_checkpoint, zoo.import_checkpoint, zoo.load_pretrained)):
    """Every reader refuses in one line, quickly, within 300 MiB, and no trap springs."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for one in read:
        with pytest.raises(UserError, match=message) as caught:
            one(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # kilobytes
    assert not Path(TRAP).exists()


class Trap:
    """Unpickling this makes a folder."""

    def __reduce__(self):
        return os.mkdir, (TRAP,)


class Options(argparse.Namespace):
    """A class that is not the allowed one, though it derives from it."""


def from_torch(change):
    """A file of torch.save with changed members: ``change(name, content) -> [(name, content, compression)]``."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile("evil.pt", "w") as target:
        for name in source.namelist():
            for new, content, kind in change(name, source.read(name)):
                target.writestr(new, content, kind)


def keep(name, content):
    return [(name, content, zipfile.ZIP_STORED)]


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/evil", "archive\\..\\..\\evil", "C:/evil"])
def test_zip_members_that_lead_elsewhere(name):
    from_torch(lambda old, content: [*keep(old, content), (name, b"x", zipfile.ZIP_STORED)])
    refused("evil.pt", "a member .* that leads elsewhere")


def test_zip_bomb_and_program():
    bomb = b"\0" * (48 << 20)
    from_torch(lambda name, content: [*keep(name, content), (f"{name}0", bomb, zipfile.ZIP_DEFLATED)])
    refused("evil.pt", "refused: .* bytes that unpack to")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "evil.pt")
    refused("evil.pt", "a TorchScript program")


def test_zip_with_a_hostile_pickle_beside_the_real_one():
    from_torch(lambda name, content: [*keep(name, content), ("archive/extra.pkl", pickle.dumps(Trap()), 0)])
    assert list(read_checkpoint("evil.pt")) == ["a"]  # never looked at
    from_torch(lambda name, content: keep(name, pickle.dumps(Trap(), 2) if name.endswith("data.pkl") else content))
    refused("evil.pt", "refused, nothing was run|damaged")


@pytest.mark.parametrize("member", ["../evil", "/etc/evil", "data.pkl"])
def test_tar_archives(member):
    with tarfile.open("evil.pt", "w") as archive:
        content = pickle.dumps(Trap())
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    refused("evil.pt", "a tar archive, refused; nothing was unpacked")


@pytest.mark.parametrize(
    "start", [b"\x1f\x8b\x08", b"BZh9", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a", b"\xfd7zXZ", b"\x7fELF", b"MZ"]
)
def test_other_files(start):
    Path("evil.pt").write_bytes(start + b"\0" * 100)
    refused("evil.pt", "archive, not a checkpoint; unpack it first|refused, nothing was run|damaged")


@pytest.mark.parametrize(
    "content",
    [
        lambda: {"w": torch.zeros(1).expand(10**6, 10**6)},
        lambda: {"state_dict": {"w": torch.zeros(1).as_strided((2**20, 2**20), (0, 0))}},
        lambda: {"w": torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**15,))},
        lambda: {"w": torch.empty(10**12, device="meta")},
        lambda: {"w": torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)},
    ],
    ids=["expanded", "strided", "sparse", "meta", "quantised"],
)
def test_tensors_that_declare_more_than_the_file_holds(content):
    torch.save(content(), "evil.pt")
    refused("evil.pt", "declares shape|expected plain values|refused|damaged")


def test_authors_namespace_with_more_in_it():
    tensors = {"cls_token": torch.zeros(1, 1, 8)}
    for extra in (Trap(), os.system, Options(a=1), io.BytesIO(b"x"), Path("x"), torch.nn.Linear(2, 2), slice(1)):
        torch.save({"model": tensors, "args": argparse.Namespace(lr=1e-3, extra=extra)}, "evil.pt")
        refused("evil.pt", r"refused, nothing was run: asks for [\w.]+ \(only tensors and plain values")
    allowed = argparse.Namespace(lr=1e-3, nested=argparse.Namespace(names=["a"], sizes=(1, 2)))
    torch.save({"model": tensors, "args": allowed}, "fine.pt")
    assert read_checkpoint("fine.pt")["args"].nested.sizes == (1, 2)


@pytest.mark.parametrize("depth", [500, 20_000])
def test_deep_nesting(depth):
    content = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    Path("evil.pt").write_bytes(content)
    refused("evil.pt")


# ---- safetensors ----


def write_safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    Path("evil.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"{}", b"", 2**63 - 1),
        (b"{}", b"", 99_000_000),
        (b" " * 1000, b"", None),
        (b"[" * 5000 + b"]" * 5000, b"", None),
        (b'{"a":' * 5000, b"", None),
        ({"w": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, b"\0" * 4, None),
        ({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}, b"", None),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}}, b"\0" * 4, None),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4, None),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4, None),
        ({"w": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4, None),
        ({"w": "__reduce__"}, b"", None),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 400, None),
        (b'\xff\xfe{"a":1}', b"", None),
        (b"", b"", None),
    ],
)
def test_safetensors_headers(header, data, length):
    write_safetensors(header, data, length)
    refused("evil.safetensors", read=(read_checkpoint, zoo.import_checkpoint))


# ---- config.yaml ----


def folder_with(change):
    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny)
    save_safetensors(model, Path("shared"))
    path = Path("shared/config.yaml")
    if callable(change):
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))
    else:
        path.write_bytes(change if isinstance(change, bytes) else change.encode())


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        f"uad_zoo: !!python/object/apply:os.mkdir [{TRAP}]\nhyper_parameters: {{}}\n",
        f"uad_zoo: {{}}\nhyper_parameters: !!python/object/new:os.system [mkdir {TRAP}]\n",
        "uad_zoo: !!python/name:os.system\n",
        "uad_zoo: !!python/module:os\n",
        ALIASES,
        "a: &a [*a]\n",
        "[" * 20_000,
        "a: " * 3000,
        b"\xff\xfe\x00",
        "x" * (2 << 20),
        "uad_zoo: 1: 2",
        "- a\n- b\n",
        "",
        "uad_zoo: null\nhyper_parameters: null\n",
        "uad_zoo: 9999-99-99\nhyper_parameters: {}\n",
    ],
)
def test_configurations_that_are_no_plain_yaml(text):
    folder_with(text)
    refused("shared", read=(zoo.load_pretrained,))


def changed(part, **values):
    return lambda content: content[part].update(values)


@pytest.mark.parametrize(
    "change",
    [
        changed("uad_zoo", method="os.system"),
        changed("uad_zoo", method="lightning.pytorch.Trainer"),
        changed("uad_zoo", method=["autoencoder"]),
        changed("uad_zoo", method="vae"),
        changed("uad_zoo", format="1"),
        changed("uad_zoo", format=-3),
        changed("uad_zoo", format=True),
        changed("uad_zoo", seed={"a": 1}),
        changed("hyper_parameters", class_path="os.system", init_args={"command": "true"}),
        changed("hyper_parameters", hidden_dims=[10**6, 10**6]),
        changed("hyper_parameters", hidden_dims=[1] * 5000),
        changed("hyper_parameters", hidden_dims="abc"),
        changed("hyper_parameters", hidden_dims=[-1]),
        changed("hyper_parameters", hidden_dims=[]),
        changed("hyper_parameters", latent_dim=10**12),
        changed("hyper_parameters", latent_dim=-4),
        changed("hyper_parameters", image_size=[10**6, 10**6]),
        changed("hyper_parameters", image_size=[32, 0]),
        changed("hyper_parameters", image_size=[10**9, 1]),
        changed("hyper_parameters", in_channels=10**9),
        lambda content: content["hyper_parameters"].update({1: 2}),
        lambda content: content.update(hyper_parameters=["a"]),
        lambda content: content.pop("hyper_parameters"),
    ],
)
def test_configurations_that_ask_for_too_much(change):
    folder_with(change)
    refused("shared", read=(zoo.load_pretrained,))


def test_an_ensemble_cannot_make_other_files_be_read():
    model = zoo.create_model("ensemble", **methods()["ensemble"].tiny)
    for asked in ("https://example.org/evil.ckpt", "/etc/passwd", "good.ckpt"):
        model.hparams.update(members="", checkpoints=(asked,))
        save_checkpoint(model, Path("evil.ckpt"))
        refused("evil.ckpt", "asks for another file, .*; refused", read=(zoo.load_pretrained,))


def test_huge_networks_of_our_own_format():
    model = zoo.create_model("memmc_mae", **methods()["memmc_mae"].tiny)
    for name, value in (("depth", 10**7), ("width", 2**20), ("num_memory", 10**9)):
        before = model.hparams[name]
        model.hparams[name] = value
        save_checkpoint(model, Path("evil.ckpt"))
        refused("evil.ckpt", read=(zoo.load_pretrained,))
        model.hparams[name] = before


def test_command_says_one_line():
    torch.save({"config": Trap()}, "evil.pt")
    command = [sys.executable, "-m", "zoo", "import", "evil.pt", "--out", "x.ckpt"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 2
    assert len(found.stderr.strip().splitlines()) == 1
    assert "refused, nothing was run" in found.stderr
    assert not Path("x.ckpt").exists()
    assert not Path(TRAP).exists()
