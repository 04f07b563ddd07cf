"""PaDiM's streaming Gaussian equals numpy's; PatchCore's coreset and score equal textbook forms; backbones stay."""

import numpy as np
import pytest
import torch

import zoo
from zoo.nn.neighbours import greedy_coreset, nearest_neighbours
from zoo.registry import find


def fitted(name):
    torch.manual_seed(0)
    model = zoo.create_model(name, **find(name).tiny).eval()
    image = torch.rand(23, 1, 32, 32)
    for batch in image.split(8):
        model.collect({"image": batch}, 0)
    return model, image


def test_padim_statistics_equal_numpy():
    model, image = fitted("padim")
    features = model.features(image).double().numpy()
    model.finish()
    for place in (0, 17, 63):
        covariance = np.cov(features[place]) + 0.01 * np.eye(16)
        whitening = model.gaussian.whitening[place].double().numpy()
        assert np.abs(whitening @ covariance @ whitening.T - np.eye(16)).max() < 1e-4
        assert np.abs(model.gaussian.mean[place].numpy() - features[place].mean(axis=1)).max() < 1e-5


@pytest.mark.parametrize(("rows", "block"), [(50, 4), (200, 16), (300, 1000)])
def test_coreset_equals_textbook(rows, block):
    features = torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows)).double()
    picks, nearest = [0], torch.full((rows,), torch.inf).double()
    for _ in range(39):
        nearest = torch.minimum(nearest, (features - features[picks[-1]]).square().sum(dim=1))
        picks.append(int(nearest.argmax()))
    assert greedy_coreset(features, 40, block).tolist() == picks


def test_coreset_of_equal_rows_ends_without_repeats():
    assert sorted(greedy_coreset(torch.ones(20, 3), 20, 4).tolist()) == list(range(20))


def test_neighbours_equal_brute_force():
    queries, bank = torch.randn(30, 6), torch.randn(40, 6)
    distances, indices = nearest_neighbours(queries, bank, 3)
    expected = (queries[:, None] - bank).norm(dim=2).topk(3, largest=False)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(distances, expected.values)


def test_patchcore_score_equals_brute_force_and_memory_is_bounded():
    model, image = fitted("patchcore")
    assert len(model.memory.sample) == 400
    model.finish()
    bank = model.memory.bank
    assert len(bank) == 40
    for number in range(3):
        patches = model.features(image[number : number + 1])[0].flatten(1).T
        table = (patches[:, None] - bank).norm(dim=2)
        place = int(table.amin(dim=1).argmax())
        around = (bank[table[place].argmin()] - bank).norm(dim=1).topk(9, largest=False).indices
        weight = 1 - torch.softmax(table[place][around], dim=0)[0]
        with torch.no_grad():
            score = model(image[:3]).anomaly_score[number]
        torch.testing.assert_close(score, weight * table[place].amin(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_backbone_is_unchanged(name):
    torch.manual_seed(0)
    model = zoo.create_model(name, **find(name).tiny).train()
    before = {key: value.clone() for key, value in model.extractor.state_dict().items()}
    model.collect({"image": torch.rand(8, 1, 32, 32)}, 0)
    model.finish()
    assert all(torch.equal(value, before[key]) for key, value in model.extractor.state_dict().items())
