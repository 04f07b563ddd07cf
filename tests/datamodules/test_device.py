"""Images held on a device, and crops made there."""

import pytest
import torch

from datamodules import Folder
from datamodules.device import DeviceImages, random_resized_crop
from zoo.errors import UserError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(cache_dir=str(tmp_path_factory.mktemp("cache")), batch_size=16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("uint8", 0.5 / 255), ("float16", 5e-4)])
def test_the_device_serves_the_same_batches(data: Folder, device: str, precision: str, tolerance: float) -> None:
    images = data.dataset("train")
    held = DeviceImages(images, torch.device(device), precision)  # type: ignore[arg-type]
    for positions in ([3, 1, 2], [0], list(range(20))):
        expected, found = images.__getitems__(positions), held.__getitems__(positions)
        assert found["image"].device.type == device
        assert (found["image"].cpu() - expected["image"]).abs().max() <= tolerance + 1e-6
        assert torch.equal(found["foreground"].cpu(), expected["foreground"])
        assert found["id"] == expected["id"]


@pytest.mark.parametrize("device", DEVICES)
def test_crops_are_deterministic_and_inside(device: str) -> None:
    ramp = torch.linspace(0, 1, 32)[None, None, None].expand(64, 1, 32, 32).contiguous().to(device)
    inside = (ramp > 0.5).to(device)

    def crop() -> tuple[torch.Tensor, torch.Tensor]:
        return random_resized_crop(ramp, inside, torch.Generator().manual_seed(3), (0.2, 0.6))

    one, mask = crop()
    assert torch.equal(one, crop()[0])
    assert one.shape == ramp.shape
    assert mask.dtype == torch.bool
    assert one.min() >= 0
    assert one.max() <= 1
    slope = (one[..., -1] - one[..., 0]).mean((1, 2)).cpu()
    assert (slope < 0).sum() > 10  # mirrored ones
    assert (slope > 0).sum() > 10
    assert slope.abs().max() < 1
    assert ((one > 0.5) == mask).float().mean() > 0.95


def test_a_crop_of_everything_is_the_image_or_its_mirror() -> None:
    image = torch.rand(6, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    whole = torch.ones(6, 1, 20, 24, dtype=torch.bool)
    crops, _ = random_resized_crop(image, whole, torch.Generator().manual_seed(0), (1.0, 1.0), (1.0, 1.0))
    for one, other in zip(crops, image, strict=True):
        assert min((one - other).abs().max(), (one - other.flip(-1)).abs().max()) < 1e-5


def test_the_loader_crops_by_seed_epoch_and_batch(data: Folder) -> None:
    def batches(seed: int) -> list[torch.Tensor]:
        cropped = Folder(
            cache_dir=str(data.cache_dir),
            root=str(data.folder()),
            seed=seed,
            random_crop=(0.2, 1.0),
            device_store="uint8",
        )
        return [batch["image"] for batch in cropped.train_dataloader()]

    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(0), strict=True))
    assert not torch.equal(batches(0)[0], batches(1)[0])
    with pytest.raises(UserError, match=r"data.device_store needs data.num_workers 0"):
        Folder(device_store="uint8", num_workers=2)
