"""Exported graphs give what the model gives: for batches of any size, without Python, for every method."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.checkpoints.exporting import export
from zoo.errors import UserError
from zoo.registry import methods

NOT_EXPORTED: dict[str, str] = {}  # method: part of the reason
TOLERANCE = {"onnx": 1e-4, "pt2": 1e-5}
BATCHES = (1, 2, 5)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


BACKBONES = {  # layers for a pyramid of three maps
    "tf_efficientnet_lite0": ("blocks.1", "blocks.2", "blocks.4"),
    "mobilenetv3_small_050": ("blocks.0", "blocks.1", "blocks.2"),
    "convnext_atto": ("stages.0", "stages.1", "stages.2"),
    "test_vit": ("blocks.0", "blocks.2", "norm"),
}
OF_TOKENS = ("dinomaly", "inp_former")  # take vision transformers alone, exported as such above
NOT_OF_A_TRANSFORMER = (
    "reverse_distillation",
    "rd_plus_plus",
    "recontrast",
    "uniad",
)  # its maps do not halve, or are small


def fitted(name, **changed):
    """A tiny model whose statistics are collected."""
    torch.manual_seed(0)
    model = zoo.create_model(name, **methods()[name].tiny | changed).eval()
    batch = {"image": torch.rand(16, model.in_channels, *model.image_size), "id": [str(i) for i in range(16)]}
    with torch.no_grad():
        for stage in model.stages():
            if stage.kind == "collect":
                stage.step(batch, 0)
                if stage.finish is not None:
                    stage.finish()
    return model.eval()


def outputs(form, path):
    """The exported file as a function of a numpy batch."""
    if form == "pt2":
        module = torch.export.load(path).module()
        return lambda image: [part.detach().numpy() for part in module(torch.from_numpy(image))]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


def largest_difference(name, form, **changed):
    model, path = fitted(name, **changed), Path(f"{name}.{form}")
    export(model, form, path)
    assert [entry.name for entry in Path().iterdir()] == [path.name]
    run, largest = outputs(form, path), 0.0
    for count in BATCHES:
        image = torch.rand(count, model.in_channels, *model.image_size)
        prediction = model(image)
        expected = [part for part in (prediction.anomaly_score, prediction.anomaly_map) if part is not None]
        for one, other in zip(run(image.numpy()), expected, strict=True):
            assert one.shape == tuple(other.shape)
            largest = max(largest, float(np.abs(one - other.numpy()).max()) / max(float(other.abs().max()), 1e-6))
    return largest


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param(form, name, marks=pytest.mark.slow if form == "onnx" else ())
        for form in ("onnx", "pt2")
        for name in methods()
    ],
)
def test_every_method_exports_or_says_why_not(form, name):
    if name in NOT_EXPORTED:
        with pytest.raises(UserError, match=NOT_EXPORTED[name]):
            largest_difference(name, form)
        return
    found = largest_difference(name, form)
    print(f"{form} {name}: {found:.1g}")
    assert found <= TOLERANCE[form]


def backbone_cases():
    """Each method that takes a backbone with one family by default, in turn; the others are slow."""
    taking = [name for name, card in methods().items() if "layers" in card.tiny and name not in OF_TOKENS]
    for number, name in enumerate(taking):
        for place, backbone in enumerate(BACKBONES):
            chosen = number % len(BACKBONES) == place
            if backbone == "test_vit" and name in NOT_OF_A_TRANSFORMER:
                continue
            yield pytest.param(name, backbone, marks=() if chosen else pytest.mark.slow)


@pytest.mark.parametrize(("name", "backbone"), backbone_cases())
def test_methods_export_with_every_family_of_backbones(name, backbone):
    count = len(methods()[name].tiny["layers"])
    found = largest_difference(name, "pt2", backbone=backbone, layers=BACKBONES[backbone][:count])
    assert found <= TOLERANCE["pt2"]


@pytest.mark.parametrize(
    "backbone", [pytest.param(one, marks=pytest.mark.slow if number else ()) for number, one in enumerate(BACKBONES)]
)
def test_onnx_knows_every_family_of_backbones(backbone):
    count = len(methods()["padim"].tiny["layers"])
    found = largest_difference("padim", "onnx", backbone=backbone, layers=BACKBONES[backbone][:count])
    assert found <= TOLERANCE["onnx"]


@pytest.mark.parametrize(
    "chosen", ["combined", *(pytest.param(one, marks=pytest.mark.slow) for one in ("elbo_gradient", "restoration"))]
)
def test_gradients_become_plain_operations(chosen):
    model = zoo.create_model("vae", **methods()["vae"].tiny | {"anomaly_map": chosen, "restoration_steps": 3}).eval()
    export(model, "pt2", Path("vae.pt2"))
    image = torch.rand(3, 1, 32, 32)
    _, found = outputs("pt2", "vae.pt2")(image.numpy())
    expected = model(image).anomaly_map.numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_export_leaves_the_model_as_it_was():
    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny)
    before = copy.deepcopy(model.state_dict())
    export(model, "pt2", Path("model.pt2"))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_method_that_cannot_says_why(monkeypatch):
    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny).eval()

    def drawing(image):
        return zoo.Prediction(torch.rand_like(image[:, 0, 0, 0]))

    monkeypatch.setattr(model, "predict_anomaly", drawing, raising=False)
    with pytest.raises(UserError, match=r"Autoencoder cannot be exported to pt2: .*random") as caught:
        export(model, "pt2", Path("model.pt2"))
    assert "\n" not in str(caught.value)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("predict", "reason"),
    [
        (lambda image: zoo.Prediction(image.reshape(len(image), -1).mean(1)), "its code fixes the batch size"),
        (lambda image: zoo.Prediction(image[:, 0, 0, 0] * (2 if image.sum() > 0 else 1)), "decides by values"),
    ],
)
def test_reasons_are_told_in_words(monkeypatch, predict, reason):
    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny).eval()
    monkeypatch.setattr(model, "predict_anomaly", predict, raising=False)
    with pytest.raises(UserError, match=f"Autoencoder cannot be exported to pt2: .*{reason}") as caught:
        export(model, "pt2", Path("model.pt2"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", methods())
def test_safetensors_folder_predicts_the_same(name):
    model = fitted(name)
    export(model, "safetensors", Path("folder"))
    image = torch.rand(2, model.in_channels, *model.image_size)
    for one, other in zip(zoo.load_pretrained("folder")(image), model(image), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.slow
def test_volumes():
    arguments = methods()["multi_task"].tiny | {"image_size": (16, 24, 16)}
    model = zoo.create_model("multi_task", **arguments).eval()
    export(model, "onnx", Path("volumes.onnx"))
    image = torch.rand(3, 1, 16, 24, 16)
    score, anomaly_map = outputs("onnx", "volumes.onnx")(image.numpy())
    assert anomaly_map.shape == (3, 1, 16, 24, 16)
    assert np.abs(score - model(image).anomaly_score.numpy()).max() <= 1e-4


def test_readme_uses_an_exported_file_without_this_package():
    """The README's lines, in a process that has only numpy and ONNX Runtime."""
    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny | {"image_size": 64}).eval()
    export(model, "onnx", Path("model.onnx"))
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = re.search(r"```python\n([^`]*InferenceSession[^`]*)```", readme).group(1)
    assert len(code.splitlines()) <= 10
    code += (
        "import sys\nassert not {'torch', 'zoo'} & set(sys.modules)\nnp.savez('found.npz', image, score, anomaly_map)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    image, *found = np.load("found.npz").values()
    expected = model(torch.from_numpy(image))
    for one, other in zip(found, expected[:2], strict=True):
        assert np.abs(one - other.numpy()).max() <= 1e-4 * float(other.abs().max())
