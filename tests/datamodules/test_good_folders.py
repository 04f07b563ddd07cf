"""Trees of ``good`` folders: MVTec's and BMAD's."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import GoodFolders, phantoms
from datamodules.commands import examine
from datamodules.registry import find
from zoo.errors import UserError


def _open(root: Path, **options: object) -> GoodFolders:
    return GoodFolders(root=str(root), cache_dir=str(root.parent / "c"), image_size=32, **options)


def test_bmad_validates_with_healthy_images_and_keeps_empty_masks(tmp_path: Path) -> None:
    root = tmp_path / "b"
    phantoms.write("good_folders", root / "Brain", layout="bmad")
    with pytest.raises(UserError, match=r"no train/good; set data.subset to one of Brain$"):
        _open(root).setup()
    data = _open(root, subset="Brain", case_pattern=r"([^/]+)_\d+\.png$")
    assert data.name == "Brain"
    splits = {split: data.dataset(split) for split in ("train", "val", "test")}
    assert [len(images) for images in splits.values()] == [32, 4, 24]
    assert all("/valid/good/img/" in f"/{name}" for name in splits["val"].ids)
    assert set(splits["test"].subjects) == {f"{number:05d}" for number in range(8, 14)}
    batch = splits["test"].__getitems__(range(24))
    marked = batch["mask"].flatten(1).any(1)
    assert not marked[batch["label"] == 0].any()
    assert (~marked[batch["label"] == 1]).sum() == 1  # number 50
    report = examine(find("good_folders"), root / "Brain", {"cache_dir": str(tmp_path / "c")})
    assert report.errors == []
    assert "1 ill images have an empty mask" in report.warnings


def test_mvtec_pairs_masks_by_name(tmp_path: Path) -> None:
    root = tmp_path / "m"
    phantoms.write("good_folders", root)
    shutil.move(root / "test" / "spot" / "044.png", root / "test" / "044.png")
    (root / "test" / "scratch").mkdir()
    shutil.move(root / "test" / "044.png", root / "test" / "scratch" / "044.png")
    data = _open(root, val_fraction=0.25)
    assert len(data.dataset("val")) == 8
    tests = data.dataset("test")
    assert tests.labels.sum() == 12
    assert not tests.with_mask  # of the scratches there are none
    (root / "ground_truth" / "spot" / "045_mask.png").unlink()
    with pytest.raises(UserError, match=r"test/spot/045.png: no mask of its name; add it beside .*ground_truth/spot"):
        _open(root).setup()


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "m"
    phantoms.write("good_folders", root)
    mask = root / "ground_truth" / "spot" / "045_mask.png"
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(mask)
    with pytest.raises(UserError, match=r"045_mask.png: a mask of 20x20, its image .*045.png is 64x64"):
        _open(root).setup()
    shutil.rmtree(root / "train")
    with pytest.raises(UserError, match=r"m: no train/good \(found .*ground_truth, test\)"):
        _open(root).setup()
