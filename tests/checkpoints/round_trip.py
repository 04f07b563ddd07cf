"""Run by two Python environments: one fits and saves every method, the other loads and predicts.

``python round_trip.py save FOLDER IMAGES`` fits each method for a few steps on a folder of images, stores checkpoint,
input and prediction; ``python round_trip.py check FOLDER`` loads and prints the largest relative difference of each.
"""

import json
import sys
from pathlib import Path

import torch


def save(folder: Path, images: str) -> None:
    from lightning.pytorch import Trainer, seed_everything

    from datamodules import Folder
    from zoo.checkpoints.saving import save_checkpoint
    from zoo.registry import load_class, methods

    for method in methods().values():
        seed_everything(0, verbose=False)
        arguments = {key: value for key, value in method.tiny.items() if key not in ("image_size", "in_channels")}
        model = load_class(method.name)(**arguments)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            max_steps=3, accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, barebones=False, **quiet
        )
        if 2 in method.dims:
            trainer.fit(model, Folder(root=images, image_size=method.tiny["image_size"], batch_size=5))
        else:
            model = load_class(method.name)(**method.tiny)
            model.configure_model()
        model.eval()
        image = torch.rand(2, model.in_channels, *model.image_size, generator=torch.Generator().manual_seed(1))
        save_checkpoint(model, folder / f"{method.name}.ckpt")
        found = {name: value for name, value in model(image)._asdict().items() if value is not None}
        torch.save({"image": image, "prediction": found}, folder / f"{method.name}.pt")


def check(folder: Path) -> None:
    import zoo

    differences = {}
    for path in sorted(folder.glob("*.ckpt")):
        stored = torch.load(path.with_suffix(".pt"), weights_only=True)
        found = zoo.load_pretrained(path)(stored["image"])._asdict()
        differences[path.stem] = max(
            float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-12))
            for name, value in stored["prediction"].items()
        )
    print(json.dumps({"torch": torch.__version__, "differences": differences}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "save":
        save(Path(sys.argv[2]), sys.argv[3])
    else:
        check(Path(sys.argv[2]))
