"""STFPM and reverse distillation: maps are what the papers' formulas say, teachers stay, students learn."""

import pytest
import torch
import torch.nn.functional as F

import zoo
from datamodules import Folder
from zoo.errors import UserError
from zoo.nn.mirrored_resnet import MirroredResNet
from zoo.registry import find, load_class


@pytest.fixture(params=["stfpm", "reverse_distillation"])
def model(request):
    torch.manual_seed(0)
    model = zoo.create_model(request.param, **find(request.param).tiny)
    model.log = lambda *_, **__: None
    return model


def test_teacher_is_unchanged_after_an_epoch_and_the_student_is_not(model, image_folder, quiet_trainer):
    name = model.method().name
    torch.manual_seed(0)
    model = load_class(name)(**{key: value for key, value in find(name).tiny.items() if key != "image_size"})
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    model.configure_model = lambda build=model.configure_model: (build(), before.update(clone(model)))
    before = {}
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(model, data)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert not [key for key in changed if key.startswith("teacher")]
    assert any(key.endswith("running_mean") for key in changed)


def clone(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_loss_falls(model):
    image = torch.rand(8, 1, 32, 32)
    optimizer = model.configure_optimizers()
    model.train()
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model.training_step({"image": image}, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_matching_map_is_the_product_of_half_squared_distances():
    torch.manual_seed(0)
    model = zoo.create_model("stfpm", **find("stfpm").tiny).eval()
    image = torch.rand(2, 1, 32, 32)
    expected = torch.ones(2, 1, 32, 32)
    for taught, learnt in zip(model.teacher(image), model.student(image), strict=True):
        cosine = torch.einsum("bchw,bchw->bhw", taught, learnt) / (taught.norm(dim=1) * learnt.norm(dim=1))
        expected *= F.interpolate(
            (1 - cosine)[:, None], size=(32, 32), mode="bilinear"
        )  # |t - s|^2 / 2 of unit vectors
    found = model(image)
    torch.testing.assert_close(found.anomaly_map, expected.detach(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.anomaly_score, found.anomaly_map.amax(dim=(1, 2, 3)))


def test_a_student_equal_to_its_teacher_finds_nothing():
    model = zoo.create_model("stfpm", **find("stfpm").tiny).eval()
    model.student.load_state_dict(model.teacher.state_dict())
    assert float(model(torch.rand(2, 1, 32, 32)).anomaly_map.abs().max()) == 0.0


def test_distillation_map_is_the_sum_of_cosine_distances():
    torch.manual_seed(0)
    model = zoo.create_model("reverse_distillation", **find("reverse_distillation").tiny, smoothing=0.0).eval()
    image = torch.rand(2, 1, 32, 32)
    taught = model.teacher(image)
    expected = torch.zeros(2, 1, 32, 32)
    for a, b in zip(taught, model.student(taught), strict=True):
        distance = 1 - (a * b).sum(dim=1, keepdim=True) / (a.norm(dim=1) * b.norm(dim=1))[:, None]
        expected += F.interpolate(distance, size=(32, 32), mode="bilinear", align_corners=True)
    torch.testing.assert_close(model(image).anomaly_map, expected.detach(), rtol=1e-4, atol=1e-5)


def test_mirrored_network_rebuilds_the_shapes_of_the_published_teacher():
    """Wide ResNet-50-2 at 256 pixels, at a sixteenth of its channels."""
    student = MirroredResNet((16, 32, 64), inner_share=0.5, bottleneck=True, depths=(3, 4, 6), embedding_depth=3)
    maps = [torch.rand(2, channels, side, side) for channels, side in ((16, 16), (32, 8), (64, 4))]
    assert [rebuilt.shape for rebuilt in student(maps)] == [values.shape for values in maps]
    assert [len(stage) for stage in student.decoder] == [3, 4, 6]
    first = student.embedding[0]
    assert first.body[0].in_channels == 3 * 64  # aligned maps side by side
    assert first.body[-1].num_features == 128


def test_wide_student_has_the_authors_number_of_parameters():
    """Embedding and decoder of the published code for Wide ResNet-50-2, without its unused fourth convolution."""
    with torch.device("meta"):
        student = MirroredResNet(
            (256, 512, 1024), inner_share=0.5, bottleneck=True, depths=(3, 4, 6), embedding_depth=3
        )
    assert sum(p.numel() for p in [*student.align.parameters(), *student.embedding.parameters()]) == 58_885_120
    assert sum(parameter.numel() for parameter in student.decoder.parameters()) == 24_917_504


LITE = {"image_size": 32, "backbone": "tf_efficientnet_lite0", "layers": ("blocks.1", "blocks.2"), "weights": "random"}


def test_features_of_both_signs_are_learnt():
    """EfficientNet's blocks end without ReLU: a student that ends with one could not rebuild their maps."""
    torch.manual_seed(0)
    model = zoo.create_model("reverse_distillation", **LITE)
    model.log = lambda *_, **__: None
    optimizer = torch.optim.Adam(model.student.parameters(), lr=0.01)
    image, losses = torch.rand(8, 1, 32, 32), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.train().training_step({"image": image}, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_features_of_both_signs_are_rebuilt_by_deep_feature_reconstruction():
    model = zoo.create_model("dfr", **LITE).eval()
    features = model.features(torch.rand(2, 1, 32, 32))
    assert float(features.min()) < 0
    assert float(model.network(features).detach().min()) < 0


def test_networks_of_rectified_features_end_with_a_relu_as_published():
    ends = zoo.create_model("dfr", **find("dfr").tiny).network[-1][-1]
    assert isinstance(ends, torch.nn.ReLU)
    student = zoo.create_model("reverse_distillation", **find("reverse_distillation").tiny).student
    assert all(block.rectified for stage in student.decoder for block in stage)


def test_unfit_layers_and_sizes_are_refused():
    tiny = find("reverse_distillation").tiny
    with pytest.raises(UserError, match="multiples of 16"):
        zoo.create_model("reverse_distillation", **tiny | {"image_size": 40})
    with pytest.raises(UserError, match=r"strides \(4, 16\).*halve"):
        zoo.create_model("reverse_distillation", **tiny | {"layers": ("layer1", "layer3")})
    with pytest.raises(UserError, match="no layer 'layer1'"):
        zoo.create_model("reverse_distillation", **tiny | {"backbone": "vgg11"})
