"""PaDiM's streaming Gaussian equals numpy's; PatchCore's coreset and score equal textbook forms; memory is bounded."""

import sys

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import zoo
from datamodules import Folder
from zoo.configs import shipped_configs
from zoo.errors import UserError
from zoo.nn.neighbours import greedy_coreset, nearest_neighbours
from zoo.registry import find, load_class


def fitted(name, **changes):
    torch.manual_seed(0)
    model = zoo.create_model(name, **find(name).tiny | changes).eval()
    image = torch.rand(23, 1, 32, 32)
    for batch in image.split(8):
        model.collect({"image": batch}, 0)
    return model, image


def test_padim_statistics_equal_numpy():
    model, image = fitted("padim")
    features = model.features(image).double().numpy()
    model.finish()
    for place in (0, 17, 63):
        covariance = np.cov(features[place].T) + 0.01 * np.eye(16)
        whitening = model.gaussian.whitening[place].double().numpy()
        assert np.abs(whitening @ covariance @ whitening.T - np.eye(16)).max() < 1e-4
        assert np.abs(model.gaussian.mean[place].numpy() - features[place].mean(axis=0)).max() < 1e-5


@pytest.mark.parametrize(("rows", "block"), [(50, 4), (200, 16), (300, 1000)])
def test_coreset_equals_textbook(rows, block):
    features = torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows)).double()
    picks, nearest = [0], torch.full((rows,), torch.inf).double()
    for _ in range(39):
        nearest = torch.minimum(nearest, (features - features[picks[-1]]).square().sum(dim=1))
        picks.append(int(nearest.argmax()))
    assert greedy_coreset(features, 40, block).tolist() == picks


def test_coreset_of_features_far_from_the_origin_picks_by_their_differences():
    features = 100 + torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    picks = greedy_coreset(features, 60, 16)
    assert torch.equal(picks, greedy_coreset(features.double(), 60, 16))


def test_coreset_of_equal_rows_ends_without_repeats():
    assert sorted(greedy_coreset(torch.ones(20, 3), 20, 4).tolist()) == list(range(20))


def test_neighbours_equal_brute_force():
    queries, bank = torch.randn(30, 6), torch.randn(40, 6)
    distances, indices = nearest_neighbours(queries, bank, 3)
    expected = (queries[:, None] - bank).norm(dim=2).topk(3, largest=False)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(distances, expected.values)


def test_patchcore_with_faiss_finds_the_same_and_keeps_the_same_bank():
    pytest.importorskip("faiss", reason="optional: pip install faiss-cpu")
    model, image = fitted("patchcore")
    model.finish()
    other = zoo.create_model("patchcore", **find("patchcore").tiny, search="faiss").eval()
    other.load_state_dict(model.state_dict())
    for found, expected in zip(other(image)[:2], model(image)[:2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    queries, bank = torch.randn(30, 6), torch.randn(40, 6)
    assert torch.equal(nearest_neighbours(queries, bank, 3, "faiss")[1], nearest_neighbours(queries, bank, 3)[1])


def test_patchcore_without_faiss_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        zoo.create_model("patchcore", **find("patchcore").tiny, search="faiss")


def test_patchcore_score_equals_brute_force():
    model, image = fitted("patchcore")
    model.finish()
    bank = model.memory.bank
    assert len(bank) == 40
    for number in range(3):
        patches = model.features(image[number : number + 1]).flatten(0, 2)
        table = (patches[:, None] - bank).norm(dim=2)
        place = int(table.amin(dim=1).argmax())
        around = (bank[table[place].argmin()] - bank).norm(dim=1).topk(9, largest=False).indices
        weight = 1 - torch.softmax(table[place][around], dim=0)[0]
        score = model(image[:3]).anomaly_score[number]
        torch.testing.assert_close(score, weight * table[place].amin(), rtol=1e-4, atol=1e-5)


def test_patchcore_keeps_all_patches_in_order_while_there_is_room():
    model, image = fitted("patchcore", max_patches=64 * 30, coreset_ratio=1.0)
    expected = model.features(image).flatten(0, 2)
    model.finish()
    torch.testing.assert_close(model.memory.bank, expected, rtol=1e-4, atol=1e-5)
    assert len(model.memory.bank) == 23 * 64
    assert model.memory.bank.untyped_storage().nbytes() == 4 * expected.numel()  # what a checkpoint would hold


def test_patchcore_sample_is_bounded_in_place_and_uniform():
    torch.manual_seed(0)
    model = zoo.create_model("patchcore", **find("patchcore").tiny | {"max_patches": 150})
    kept, place = torch.zeros(5), None
    numbers = torch.arange(5.0)
    for _ in range(60):
        model.memory.sample, model.memory.keys = torch.empty(0), torch.empty(0)
        for number in numbers:
            model.features = lambda image, number=number: torch.full((1, 8, 10, 4), float(number))
            model.collect({"image": torch.empty(0)}, 0)
            place = place if number else model.memory.sample.data_ptr()
            assert model.memory.sample.shape == (150, 4)
            assert model.memory.sample.data_ptr() == place
        kept += (model.memory.sample[:, 0] == numbers[:, None]).sum(dim=1)
    assert float((kept / kept.sum() - 0.2).abs().max()) < 0.02  # four standard deviations


def test_patchcore_takes_no_room_beyond_the_training_set(image_folder, quiet_trainer):
    arguments = {key: value for key, value in find("patchcore").tiny.items() if key != "image_size"}
    model = load_class("patchcore")(**arguments | {"max_patches": 10_000})
    rows = []
    finish = model.finish
    model.finish = lambda: (rows.append(len(model.memory.sample)), finish())
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(
        model, Folder(root=str(image_folder), image_size=32, batch_size=3)
    )
    assert rows == [9 * 64]
    assert len(model.memory.bank) == 57


def test_cosine_patchcore_scores_its_most_distant_patches():
    model, image = fitted("patchcore", distance="cosine", score="top_q", score_fraction=0.1, pooling=1)
    model.finish()
    bank = model.memory.bank
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(len(bank)))
    distance = 1 - (model.features(image[:2]).flatten(1, 2) @ bank.T).amax(dim=2)
    expected = distance.topk(7, dim=1).values.mean(dim=1)  # of 64 patches those above the quantile at .9 * 63 = 56.7
    torch.testing.assert_close(model(image[:2]).anomaly_score, expected, rtol=1e-3, atol=1e-6)


def test_anomaly_dino_is_patchcore_on_tokens():
    content = yaml.safe_load(shipped_configs()["models/anomaly_dino"].read_text())["model"]
    assert content["class_path"] == find("patchcore").class_path
    small = {"backbone": "test_vit", "weights": "random", "image_size": 72, "in_channels": 1}
    torch.manual_seed(0)
    model = zoo.create_model("patchcore", **content["init_args"] | small).eval()
    image = torch.rand(4, 1, 72, 72)
    model.collect({"image": image}, 0)
    model.finish()
    assert model.memory.bank.shape == (6, 64)  # a tenth of 4 x 16 tokens
    assert model(image).anomaly_map.shape == image.shape


def test_padim_state_does_not_grow_with_the_training_set():
    model, image = fitted("padim")
    before = sum(buffer.numel() for buffer in model.buffers())
    for batch in image.split(8):
        model.collect({"image": batch}, 0)
    assert sum(buffer.numel() for buffer in model.buffers()) == before
    model.finish()
    assert sum(buffer.numel() for buffer in model.buffers()) == before


def test_patchcore_describes_patches_as_the_authors_do():
    """Unfolded squares, each layer averaged to the length, the layers' vectors averaged to it again."""
    model = zoo.create_model("patchcore", image_size=32, in_channels=1, backbone="resnet18", weights="random").eval()
    torch.manual_seed(0)
    maps = [torch.randn(2, 256, 4, 4), torch.randn(2, 512, 4, 4)]
    found = model._at_places(maps)
    assert found.shape == (2, 4, 4, 1024)
    each = [nn.functional.unfold(one, 3, padding=1).mT.reshape(32, 1, -1) for one in maps]
    joined = torch.stack([nn.functional.adaptive_avg_pool1d(one, 1024)[:, 0] for one in each], dim=1)
    wanted = nn.functional.adaptive_avg_pool1d(joined.reshape(32, 1, -1), 1024)[:, 0]
    assert torch.allclose(found.reshape(32, 1024), wanted, atol=1e-5)
