"""Feature extractor: maps are the backbone's own, it stays frozen, weights come from files or fail clearly."""

import pytest
import timm
import torch

from zoo.errors import UserError
from zoo.nn.features import FeatureExtractor, weights_follow


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return timm.create_model("resnet18", pretrained=False).eval()


@pytest.fixture(scope="module")
def weights(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet.state_dict(), path)
    return str(path)


def test_maps_are_the_backbones(resnet, weights):
    extractor = FeatureExtractor("resnet18", ("layer0", "layer1", "layer3"), weights=weights, normalisation="none")
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        stem = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(image))))
        first = resnet.layer1(stem)
        third = resnet.layer3(resnet.layer2(first))
    for found, expected in zip(extractor(image), (stem, first, third), strict=True):
        assert torch.equal(found, expected)
    assert extractor.channels == (64, 64, 256)
    assert extractor.strides == (4, 4, 16)


def test_what_follows_the_last_layer_is_cut_and_writes_nothing(weights):
    extractor = FeatureExtractor("resnet18", ("layer2",), weights=weights)
    assert not any("layer3" in key or "fc" in key for key in extractor.state_dict())
    image = torch.rand(1, 3, 64, 64)
    (before,) = extractor(image)
    assert torch.equal(before, FeatureExtractor("resnet18", ("layer2", "layer4"), weights=weights)(image)[0])


def test_frozen_under_train_and_batch_on_request():
    frozen = FeatureExtractor("resnet18", ("layer1",), weights="random").train()
    moving = FeatureExtractor("resnet18", ("layer1",), weights="random", statistics="batch").train()
    assert not any(module.training for module in frozen.modules())
    before = moving.backbone.bn1.running_mean.clone()
    moving(torch.rand(2, 3, 32, 32))
    assert not torch.equal(moving.backbone.bn1.running_mean, before)
    assert not any(parameter.requires_grad for parameter in moving.parameters())


def test_grey_images_are_repeated(weights):
    extractor = FeatureExtractor("resnet18", ("layer1",), weights=weights, in_channels=1)
    grey = torch.rand(1, 1, 32, 32)
    assert torch.equal(extractor(grey)[0], extractor(grey.repeat(1, 3, 1, 1))[0])


def test_tokens_of_a_transformer_become_a_map():
    torch.manual_seed(0)
    extractor = FeatureExtractor("test_vit", ("blocks.2", "norm"), weights="random", normalisation="none")
    assert (extractor.channels, extractor.strides) == ((64, 64), (16, 16))
    image = torch.rand(2, 3, 64, 96)
    whole = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    whole.load_state_dict(extractor.backbone.state_dict(), strict=False)  # the extractor cuts the pooling away
    with torch.no_grad():
        tokens = whole.forward_features(image)
    found = extractor(image)[1]
    assert found.shape == (2, 64, 4, 6)
    torch.testing.assert_close(found[1, :, 2, 3], tokens[1, 1 + 2 * 6 + 3])  # behind the class token, row by row
    odd = extractor(torch.rand(1, 3, 70, 33))[0]
    assert odd.shape == (1, 64, 4, 2)  # 64 x 32 pixels


def test_random_blocks_have_an_effect():
    extractor = FeatureExtractor("resnet18", ("layer1",), weights="random")
    assert extractor.backbone.layer1[0].bn2.weight.abs().sum() > 0


def test_mistakes_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no model 'resnet81'; nearest"):
        FeatureExtractor("resnet81", weights="random")
    with pytest.raises(UserError, match="no layer 'layer9'; its top-level layers: conv1"):
        FeatureExtractor("resnet18", ("layer9",), weights="random")
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        FeatureExtractor("resnet18", weights=str(tmp_path / "none.pth"))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="tensors are missing, for example bn1"):
        FeatureExtractor("resnet18", weights=str(tmp_path / "part.pth"))

    def offline(name, **options):
        raise UserError(f"{name} could not be fetched")

    monkeypatch.setattr("zoo.nn.features.imagenet_backbone", offline)
    with pytest.raises(UserError, match="resnet18 could not be fetched"):
        FeatureExtractor("resnet18", weights="imagenet")
    with weights_follow():
        FeatureExtractor("resnet18", weights="imagenet")


FAMILIES = {  # one small backbone of each, and layers in two of its stages
    "resnet18": ("layer0", "layer1", "layer2"),
    "tf_efficientnet_lite0": ("bn1", "blocks.1", "blocks.2.1.bn2"),
    "mobilenetv3_small_050": ("blocks.0", "blocks.2"),
    "convnext_atto": ("stages.0", "stages.1.blocks.0"),
    "test_vit": ("blocks.2", "norm"),
}


@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_is_compiled_exported_and_as_timm_made_it(backbone):
    torch.manual_seed(0)
    extractor = FeatureExtractor(backbone, FAMILIES[backbone], weights="random", normalisation="none")
    image = torch.rand(2, 3, 64, 64)
    expected = extractor(image)

    whole = timm.create_model(backbone, num_classes=0, **{"dynamic_img_size": True} if "vit" in backbone else {})
    loaded = whole.eval().load_state_dict(extractor.backbone.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    found = {}
    for path in extractor.layers:
        module = whole.get_submodule(path)
        module.register_forward_hook(lambda _module, _input, output, path=path: found.update({path: output.clone()}))
    with torch.no_grad():
        whole.forward_features(image)
    for values, path in zip(expected, extractor.layers, strict=True):
        assert torch.equal(values, extractor._as_map(found[path], 4, 4))

    torch._dynamo.reset()
    compiled = torch.compile(extractor, backend="aot_eager", fullgraph=True)(image)
    exported = torch.export.export(extractor, (image,), strict=False).module()(image)
    for one, other, values in zip(compiled, exported, expected, strict=True):
        torch.testing.assert_close(one, values)
        torch.testing.assert_close(other, values)


def test_a_layer_that_is_overwritten_in_place_is_kept():
    torch.manual_seed(0)
    extractor = FeatureExtractor("resnet18", ("bn1", "layer1"), weights="random")
    assert extractor(torch.rand(1, 3, 64, 64))[0].min() < 0  # the ReLU that follows writes into it
    assert FeatureExtractor("resnet18", ("bn1",), weights="random")(torch.rand(1, 3, 64, 64))[0].min() < 0


def test_files_of_an_earlier_cut_are_read():
    """Earlier versions kept tensors of norms behind the last layer."""
    extractor = FeatureExtractor("tf_efficientnet_lite0", ("blocks.1",), weights="random")
    stored = extractor.state_dict() | {"backbone.blocks.5.0.bn1.weight": torch.ones(672)}
    extractor.load_state_dict(stored)
    assert not any(key.startswith("backbone.blocks.2.") for key in extractor.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        extractor.load_state_dict(stored | {"other": torch.ones(1)})
