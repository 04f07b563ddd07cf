"""``zoo doctor``: ten lines, a mend for each gap, extras as the package declares them."""

import tomllib
from pathlib import Path

import zoo
from zoo.cli import doctor, main

ROOT = Path(__file__).parents[1]


def test_ten_lines(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["program", "packages", "GPU"]
    assert len(lines) == 10
    assert f"uad-zoo {zoo.__version__}" in lines[0]
    assert str(tmp_path / "cache" / "uad-zoo") in lines[5]
    assert "resnet18 (" in lines[7]
    assert "docs/checkpoints.md" in lines[7]
    assert lines[8].startswith("-- ")
    assert "HF_ENDPOINT names a mirror" in lines[8]


def test_weights_of_a_backbone_are_found_where_they_are_put(monkeypatch, tmp_path):
    from zoo.nn.backbone_weights import local_weights

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert local_weights("resnet18") is None
    place = tmp_path / "uad-zoo" / "backbones" / "resnet18.safetensors"
    place.parent.mkdir(parents=True)
    place.touch()
    assert local_weights("resnet18") == place


def test_what_is_needed_fails(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_version", {"lightning": "2.6.2"}.get)
    found = doctor._packages()
    assert found.needed
    assert "pip install torch" in str(found)
    monkeypatch.setattr(doctor, "_version", lambda name: "2.6.2" if name == "lightning" else "9")
    assert "compromised" in doctor._packages().mend
    monkeypatch.setattr(doctor, "findings", lambda: iter([doctor._packages()]))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.startswith("GAP packages")


def test_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = set(project["optional-dependencies"]) - {"test", "docs"}
    assert declared == set(doctor.EXTRAS)
    assert project["version"] == zoo.__version__
    assert f"version: {zoo.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {zoo.__version__}" in (ROOT / "CHANGELOG.md").read_text()
