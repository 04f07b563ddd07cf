"""Images of another data set as sources of blends."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.errors import UserError
from zoo.synthetic.sources import (
    ImagesOfSplit,
    abdomen_source,
    equalised_grey,
    natural_source,
    read_sources,
    read_volumes,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "data"


def write_volumes(folder, count=6, size=(40, 32, 48)):
    """Bodies of values around 0.5 in a background of 0 with noise up to 0.03, stored x, y, z as NIfTI does."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        volume = rng.uniform(0, 0.03, size).astype(np.float32)
        volume[8:32, 8:24, 8:40] = rng.normal(0.5, 0.1, (24, 16, 32)) + 0.1 * number
        volume[16:20, 12:16, 20:24] = 0.01  # a hole: dark, but inside
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{number:05d}.nii.gz")
        made.append(volume)
    return made


def test_sources_equal_the_authors(tmp_path):
    with np.load(GOLDEN / "preproc_other.npz") as file:
        golden = dict(file)
    rgb = golden["imagenet_rgb"]
    assert np.abs(equalised_grey(rgb, (512, 512))[::8, ::8] - golden["imagenet_full_sub8"]).max() <= 2e-5
    assert np.abs(natural_source(rgb, (256, 256))[::4, ::4] - golden["imagenet_low_sub4"]).max() <= 2e-5
    low, inside = abdomen_source(golden["mood_raw"])
    assert np.array_equal(inside, golden["mood_mask"])
    assert np.abs(low - golden["mood_sample"][0]).max() <= 1e-5
    assert np.array_equal(low[~inside], golden["mood_low"][~inside])
    Image.fromarray(rgb).save(tmp_path / "photograph.png")  # and so does what training reads
    nibabel.save(nibabel.Nifti1Image(golden["mood_raw"].T, np.eye(4)), tmp_path / "abdomen.nii.gz")
    read = read_sources(tmp_path, (256, 256), 1)[0, 0]
    assert np.abs(read[::4, ::4] - golden["imagenet_low_sub4"]).max() <= 2e-5
    volumes, bodies = read_volumes(tmp_path, 1)
    assert np.abs(volumes[0] - golden["mood_sample"]).max() <= 1e-5
    assert np.array_equal(bodies[0], golden["mood_mask"])


def test_volumes_are_prepared_as_published(tmp_path):
    volumes = write_volumes(tmp_path)
    found, inside = read_volumes(tmp_path, 1)
    assert found.shape == (6, 1, 12, 8, 10)
    assert inside.shape == (6, 12, 8, 10)
    for volume, one, body in zip(volumes, found[:, 0], inside, strict=True):
        expected = volume.T[::4, ::4, ::4]
        truth = np.zeros(expected.shape, bool)
        truth[2:10, 2:6, 2:8] = True
        assert np.array_equal(body, truth), "the dark hole is inside, because it does not touch the outside"
        assert np.array_equal(one[~body], expected[~body])
        assert abs(float(one[body].mean())) < 1e-5
        assert float(one[body].std()) == pytest.approx(1, abs=1e-4)
        assert np.corrcoef(one[body], expected[body])[0, 1] > 0.9999


def test_half_of_the_files_is_used_the_same_each_time(tmp_path):
    write_volumes(tmp_path, 7)
    halves = [read_volumes(tmp_path, 2, share=0.5)[0] for _ in range(2)]
    assert halves[0].shape == (4, 2, 12, 8, 10)
    assert np.array_equal(*halves)
    assert not np.array_equal(halves[0], read_volumes(tmp_path, 2, share=0.5, seed=1)[0])
    assert len(read_volumes(tmp_path, 1, most=2)[0]) == 2


def test_pictures_are_equalised_and_scaled(tmp_path):
    for number in range(5):
        picture = np.linspace(0, 255 - 20 * number, 60 * 40).reshape(60, 40) ** 1.1 / 2
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    found = read_sources(tmp_path, (32, 48), 3, share=0.5)
    assert found.shape == (2, 3, 32, 48)
    assert found.dtype == np.float32
    assert -1 <= found.min() < -0.9
    assert 0.9 < found.max() <= 1
    assert abs(float(found.mean())) < 0.1, "equalised"


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no image below it; readable are \.nii"):
        read_volumes(tmp_path, 1)
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    with pytest.raises(UserError, match=r"a\.nii\.gz: damaged NIfTI"):
        read_volumes(tmp_path, 1)
    (tmp_path / "a.nii.gz").unlink()
    write_volumes(tmp_path, 1)
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20)), np.eye(4)), tmp_path / "other.nii.gz")
    with pytest.raises(UserError, match="different sizes"):
        read_volumes(tmp_path, 1)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b\.png: not an image"):
        read_sources(tmp_path, (32, 32), 1)


def test_split_is_read_when_asked():
    class Split:
        asked = []

        def __len__(self):
            return 4

        def __getitems__(self, numbers):
            self.asked.append(list(numbers))
            return {"image": torch.full((len(numbers), 1, 3, 5), float(numbers[0]))}

    sources = ImagesOfSplit(Split(), lambda batch: -batch["image"])
    assert (len(sources), sources.shape) == (4, (4, 1, 3, 5))
    assert float(sources[3].max()) == -3
    assert sources[3].shape == (1, 3, 5)
    assert sources[(2, 0, 1, 1)] == -2
    assert Split.asked == [[0], [3], [2]], "the same image is not read again"


def test_multi_task_blends_volumes_of_another_size(tmp_path):
    write_volumes(tmp_path, 2, (80, 64, 96))
    arguments = {"depth": 2, "width": 4, "positions": 2, "use_foreground": True, "value_range": (-1.0, 1.0)}
    model = zoo.create_model("multi_task", image_size=(16, 16, 24), other_images=str(tmp_path), **arguments)
    batch = {
        "image": 0.05 * torch.randn(3, 1, 16, 16, 24),
        "foreground": torch.ones(3, 1, 16, 16, 24, dtype=torch.bool),
    }
    made = [model._make_anomalies(batch, (1,), np.random.default_rng(seed), "train") for seed in range(4)]
    assert all(altered.shape == batch["image"].shape and altered.isfinite().all() for altered, _ in made)
    assert max(float(label.max()) for _, label in made) > 0.2
