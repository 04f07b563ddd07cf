"""``metrics.protocol``: a paper's own figures beside the common ones."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.errors import UserError
from zoo.metrics.fae_protocol import fae_protocol
from zoo.metrics.protocols import memmc_mae_iou, multi_task
from zoo.metrics.table import TABLE
from zoo.module import Prediction


class _ImageIsMap(LightningModule):
    def test_step(self, batch, batch_idx):
        return self(batch["image"])

    def forward(self, image):
        return Prediction(image.flatten(1).mean(1), image)


class _Data(LightningDataModule):
    def __init__(self, loader, healthy):
        super().__init__()
        self.loader, self.healthy = loader, healthy

    def test_dataloader(self):
        return self.loader

    has_cradl_region = True

    def in_cradl_region(self, name, anomaly_map):
        """Volumes of different depth, as ISLES has them."""
        mask = np.zeros(anomaly_map.shape, bool)
        mask[1:3, 2:6, 3:5] = name > "03"
        return anomaly_map[int(name) % 2 :], mask[int(name) % 2 :]

    def dataset(self, split):
        return [{"image": one, "label": 0} for one in self.healthy] if split == "val" else []


def make_set(shape, seed=0, count=12):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, *shape, generator=generator)
    masks = torch.zeros(count, 1, *shape, dtype=torch.bool)
    masks[count // 3 :, ..., 2:6, 3:5] = True
    images[masks] += 0.4
    return images, masks


def run_test(protocol, images, masks, healthy=None):
    rows = [
        {"image": image, "mask": mask, "label": int(mask.any()), "id": f"{number:02d}", "foreground": image > 0.01}
        for number, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]
    callback = AnomalyMetrics(protocol=protocol, neighbours=0)
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
    # in another order than that of the ids, in two batches
    loader = torch.utils.data.DataLoader([rows[k] for k in reversed(range(len(rows)))], batch_size=7)
    data = loader if healthy is None else _Data(loader, healthy)
    trainer.test(_ImageIsMap(), data, verbose=False)
    return callback.results


@pytest.mark.parametrize("shape", [(16, 16), (4, 16, 16)])
def test_every_protocol_gives_all_figures_of_the_table_under_its_name(shape):
    images, masks = make_set(shape)
    for protocol in {metric.protocol for metric in TABLE.values()} - {"common"}:
        if protocol == ("cradl" if len(shape) == 2 else "memmc_mae"):
            continue  # protocols of volumes and of pictures alone
        results = run_test(protocol, images, masks, healthy=images[:3] * 0.5)
        own = {name for name, metric in TABLE.items() if metric.protocol == protocol}
        assert own <= results.keys(), protocol
        assert all(np.isfinite(results[name]) for name in own), protocol
        assert np.isfinite(results["pixel_ap"]), "the common figures stay"


def test_multi_task_counts_slices_by_their_share_of_lesion():
    images, masks = make_set((4, 130, 130))
    masks[:] = False
    masks[0, 0, 0, 0, :3] = True  # 3 of 130 x 130 pixels: below 5 / 128 squared
    masks[1, 0, 1, 0, :9] = True
    results = run_test("multi_task", images, masks)
    expected = multi_task(images[:, 0].numpy(), masks[:, 0].numpy())
    assert results["multi_task_ap"] == pytest.approx(expected.score_ap, abs=1e-12)
    assert results["pixel_ap_in_groups"] == pytest.approx(expected.pixel_ap, abs=1e-12)
    assert results["slice_ap"] != pytest.approx(results["multi_task_ap"]), "one voxel is enough in the common figure"


def test_fae_drops_the_first_tenth_in_the_order_of_the_ids():
    images, masks = make_set((16, 16), count=20)
    expected = fae_protocol(images[:, 0].numpy(), masks[:, 0].numpy(), images.flatten(1).mean(1).numpy())
    results = run_test("fae", images, masks)
    assert results["fae_pixel_ap"] == pytest.approx(expected.pixel_ap, abs=1e-12)
    assert results["fae_dice_at_5fpr"] == pytest.approx(expected.dice_at_5fpr, abs=1e-12)
    assert results["fae_slice_auroc"] == pytest.approx(expected.slice_auroc, abs=1e-12)


def test_memmc_mae_takes_its_threshold_from_held_out_healthy_images():
    images, masks = make_set((16, 16))
    healthy = images[:4] * 0.9
    sick = masks.flatten(1).any(1)
    expected = memmc_mae_iou(images[sick, 0].numpy(), masks[sick, 0].numpy(), healthy[:, 0].numpy())
    results = run_test("memmc_mae", images, masks, healthy)
    assert results["mean_iou_in_groups"] == pytest.approx(expected.mean, abs=1e-12)
    assert results["best_mean_iou_in_groups"] == pytest.approx(expected.oracle, abs=1e-12)
    assert np.isnan(run_test("memmc_mae", images, masks)["mean_iou_in_groups"]), "no DataModule, no healthy images"


def test_several_protocols_at_once_and_those_that_the_data_cannot_serve():
    images, masks = make_set((4, 16, 16))
    results = run_test(["multi_task", "cradl"], images, masks, healthy=images[:3])
    assert {"multi_task_ap", "cradl_ap"} <= results.keys()
    with pytest.raises(UserError, match=r"data\.mode volumes"):
        run_test("cradl", images, masks)

    class Volumes:
        spatial_size = (4, 16, 16)

    with pytest.raises(UserError, match="groups are of pictures"):
        AnomalyMetrics(protocol=["memmc_mae"]).check_data(Volumes())
