"""Loaders of other people's scripts: tensors and pairs work, what cannot be taken is told in a sentence."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.errors import UserError

IMAGES = torch.rand(8, 1, 32, 32)
PAIRS = TensorDataset(IMAGES, torch.zeros(8, dtype=torch.long))


def _fit(quiet_trainer, batches):
    model = zoo.create_model("autoencoder", image_size=32, in_channels=1, hidden_dims=(4, 8), latent_dim=8)
    quiet_trainer(max_steps=2).fit(model, DataLoader(batches, batch_size=4))
    return model


def test_pairs_and_tensors_train(quiet_trainer):
    _fit(quiet_trainer, PAIRS)
    _fit(quiet_trainer, IMAGES)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (TensorDataset(torch.rand(8, 3, 32, 32)), r"images \(3, 32, 32\) reach a method built for \(1, 32, 32\)"),
        (TensorDataset((IMAGES * 255).byte()), "float32"),
        ([{"picture": image} for image in IMAGES], "found dict with picture"),
        ([("a", "b")] * 8, "found list"),
    ],
)
def test_what_cannot_be_taken_is_told(quiet_trainer, batches, message):
    with pytest.raises(UserError, match=message):
        _fit(quiet_trainer, batches)
