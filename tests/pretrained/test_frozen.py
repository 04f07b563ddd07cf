"""Backbones stay as they are, parameters and running statistics, through an epoch of every method that has one."""

import pytest
import torch

from datamodules import Folder
from zoo.nn.features import FeatureExtractor
from zoo.registry import load_class, methods

MOVED = {
    "panda": "adapts it on purpose",
    "msc": "adapts it on purpose",
    "stfpm": "its student; the teacher is tested there",
    "recontrast": "has a trained copy; tested in test_modern",
}
METHODS = [method for method in methods().values() if method.family == "pretrained" and method.name not in MOVED]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_backbone_is_unchanged_after_an_epoch(method, image_folder, quiet_trainer):
    torch.manual_seed(0)
    arguments = {key: value for key, value in method.tiny.items() if key != "image_size"}
    model = load_class(method.name)(**arguments)
    data = Folder(root=str(image_folder), image_size=method.tiny["image_size"], batch_size=3)
    before = {}

    def build(original=model.build):
        original()
        before.update((key, value.clone()) for key, value in backbone(model).state_dict().items())

    model.build = build
    quiet_trainer(max_epochs=1).fit(model, data)
    after = backbone(model).state_dict()
    assert before
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert not any(parameter.requires_grad for parameter in backbone(model).parameters())


def backbone(model):
    (found,) = [module for module in model.modules() if isinstance(module, FeatureExtractor)]
    return found
