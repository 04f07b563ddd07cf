"""Speed of the feature autoencoder against a plain port of the authors' loop, at the paper's setting.

``python -m benchmarks.speed.fae [--tune-allocator]``. Batch 32, 128 pixels, ResNet-18 layers 0 to 2. Candidates are
interleaved in one process on one thread; ratios are medians over rounds of ratios within a round, in CPU seconds on a
CPU and wall seconds on a GPU. The allocator is a property of the process, so the two settings need two runs.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.allocator import tune_allocator
from zoo.reconstruction.fae import FeatureAutoencoder
from zoo.scoring.ssim import gaussian_window

SIZE = 128
BATCH = 32


class PlainLoop:
    """The authors' arithmetic, written down plainly: five blurs of the whole batch, differentiated by autograd.

    Networks are those of our method, so that both do the same convolutions.
    """

    def __init__(self, device: torch.device) -> None:
        self.model = _create(device)
        self.optimiser = torch.optim.Adam([*self.model.encoder.parameters(), *self.model.decoder.parameters()], lr=2e-4)
        self.window = gaussian_window(5).to(device).expand(256, 1, 5, 5).contiguous()

    def _blur(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.window, padding=2, groups=256)

    def _features(self, image: Tensor) -> Tensor:
        image = (2 * (image - 0.5)).repeat(1, 3, 1, 1)
        maps = self.model.extractor._run(image)
        return torch.cat([F.interpolate(m, size=(32, 32), mode="bilinear", align_corners=True) for m in maps], dim=1)

    def _loss_map(self, x: Tensor, y: Tensor) -> Tensor:
        mean_x, mean_y = self._blur(x), self._blur(y)
        square_x, square_y, product = mean_x.pow(2), mean_y.pow(2), mean_x * mean_y
        variance_x = self._blur(x * x) - square_x
        variance_y = self._blur(y * y) - square_y
        covariance = self._blur(x * y) - product
        above = (2 * product + 0.01**2) * (2 * covariance + 0.03**2)
        return -above / ((square_x + square_y + 0.01**2) * (variance_x + variance_y + 0.03**2))

    def train(self, image: Tensor) -> None:
        self.model.train()
        self.optimiser.zero_grad()
        with torch.no_grad():
            features = self._features(image)
        self._loss_map(self.model.decoder(self.model.encoder(features)), features).mean().backward()
        self.optimiser.step()

    @torch.no_grad()
    def predict(self, image: Tensor) -> None:
        self.model.eval()
        features = self._features(image)
        loss = self._loss_map(self.model.decoder(self.model.encoder(features)), features).mean(1, keepdim=True)
        maps = F.interpolate(loss, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
        for one, pixels in zip(maps, image, strict=True):
            values = one[pixels > 0]
            values[values > torch.quantile(values, 0.9)].mean()


class Ours:
    """Our method's own steps, with or without bfloat16 and channels last."""

    def __init__(self, device: torch.device, half: bool) -> None:
        self.device, self.half = device, half
        self.model = _create(device, channels_last=half)
        self.model.log = lambda *_: None  # type: ignore[method-assign]  # no trainer here
        self.optimiser = self.model.configure_optimizers()

    def train(self, image: Tensor) -> None:
        self.model.train()
        self.optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.model.training_step({"image": image}, 0)
        loss.backward()
        self.optimiser.step()

    @torch.no_grad()
    def predict(self, image: Tensor) -> None:
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            self.model(image)


def _create(device: torch.device, channels_last: bool = False) -> FeatureAutoencoder:
    torch.manual_seed(0)
    model = FeatureAutoencoder(image_size=SIZE, in_channels=1, weights="random", channels_last=channels_last)
    model.configure_model()
    return model.to(device)


def seconds(run: Callable[[Tensor], None], image: Tensor) -> float:
    """Duration of one call: CPU seconds on a CPU, wall seconds with synchronisation on a GPU."""
    if image.device.type == "cpu":
        start = time.process_time()
        run(image)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run(image)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tune-allocator", action="store_true")
    arguments = parser.parse_args()
    if arguments.tune_allocator and not tune_allocator():
        parser.error("the allocator of this system has no such settings")
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    image = torch.rand(BATCH, 1, SIZE, SIZE, device=device)
    image[:, :, : SIZE // 4] = 0
    candidates = {
        "plain loop, float32": PlainLoop(device),
        "ours, float32": Ours(device, half=False),
        "ours, bfloat16 channels last": Ours(device, half=True),
    }
    load = os.getloadavg()[0]
    print(f"{device}, batch {BATCH}, tuned allocator: {arguments.tune_allocator}, load {load:.1f}")
    for task in ("train", "predict"):
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for round_ in range(arguments.rounds + 1):
            for name, candidate in candidates.items():
                taken = seconds(getattr(candidate, task), image)
                if round_:  # the first is a warm-up
                    times[name].append(taken)
        base = next(iter(times.values()))
        for name, taken_all in times.items():
            ratios = sorted(b / t for b, t in zip(base, taken_all, strict=True))
            print(
                f"{task:8} {name:30} {BATCH / statistics.median(taken_all):9.1f} images/s  "
                f"{statistics.median(ratios):5.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
