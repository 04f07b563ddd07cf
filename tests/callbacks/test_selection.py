"""Selection of the model without labels, from the command line."""

import csv
import json

import torch

from zoo.cli import main


def test_the_model_with_the_highest_synthetic_ap_is_tested(image_folder, tmp_path):
    options = ["--model.hidden_dims", "[8, 16]", "--model.latent_dim", "8", "--data.root", str(image_folder)]
    options += ["--data.image_size", "32", "--data.batch_size", "5", "--trainer.max_epochs", "4"]
    options += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path), "--test_after_fit", "true"]
    configs = ["--config", "models/autoencoder", "--config", "data/folder", "--config", "trainer/select_best"]
    assert main(["fit", *configs, *options, "--trainer.max_steps", "-1"]) == 0
    (folder,) = tmp_path.iterdir()
    (log,) = folder.glob("logs/*/metrics.csv")
    rows = [row for row in csv.DictReader(log.open()) if row["val/synthetic_pixel_ap"]]
    assert len(rows) == 4
    best = max(rows, key=lambda row: float(row["val/synthetic_pixel_ap"]))
    kept = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["global_step"] == int(best["step"]) + 1
    assert main(["test", "--run", str(folder)]) == 0
    (again,) = folder.glob("test-*/metrics.json")
    assert json.loads(again.read_text())["metrics"] == json.loads((folder / "metrics.json").read_text())["metrics"]
