"""Speed of PaDiM, PatchCore and the greedy coreset against anomalib's, on the same backbone, channels and images.

``python -m benchmarks.speed.frozen_features [padim] [patchcore] [coreset] [neighbours] [--tune-allocator]``, in an
environment that has anomalib beside the packages of this project; ``neighbours`` compares with faiss instead. Weights
and images are random: durations carry over, detection does not. ``fit`` is one pass over the training images and the
statistics, ``predict`` the maps and scores of the test images, both in memory: neither the trainers nor the loading of
data are part of it.

Both run in one process on one thread, interleaved; ratios are medians over rounds of ratios within a round, in CPU
seconds. The allocator is a property of the process, so the two settings need two runs. With the tuned one anomalib's
coreset loop breaks up the heap (18 GB at the default sizes): compare ``patchcore`` with fewer images, ``--train 48``.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.allocator import tune_allocator
from zoo.module import AnomalyModule
from zoo.nn.neighbours import greedy_coreset, nearest_neighbours
from zoo.pretrained.padim import PaDiM
from zoo.pretrained.patchcore import PatchCore

BATCH = 32
_RADIUS = 16  # of the blur: four deviations of 4 pixels
_MEAN, _STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class Ours:
    """Our method's own steps, without a trainer."""

    def __init__(self, model: AnomalyModule) -> None:
        model.configure_model()
        self.model: Any = model.eval()

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        for name, buffer in self.model.named_buffers():
            if name.startswith(("gaussian.", "memory.")):  # forget the last round
                setattr(self.model.get_submodule(name.split(".")[0]), name.split(".")[1], buffer.new_empty(0))
        for part in image.split(BATCH):
            self.model.collect({"image": part}, 0)
        self.model.finish()

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = [self.model(part) for part in image.split(BATCH)]
        return torch.cat([one.anomaly_map for one in found]), torch.cat([one.anomaly_score for one in found])


class Theirs:
    """The torch model inside anomalib's method, with our backbone's weights."""

    def __init__(self, model: Any, ours: Ours, finish: Callable[[Any], None]) -> None:
        self.model, self.finish = model, finish
        model.feature_extractor.feature_extractor.load_state_dict(ours.model.extractor.backbone.state_dict())

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        self.model.train()
        self.model.feature_extractor.eval()
        with mock.patch("torch.randint", return_value=torch.tensor([0])):  # the coreset starts where ours does
            for part in image.split(BATCH):
                self.model((part - _MEAN) / _STD)
            self.finish(self.model)

    @torch.no_grad()
    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = [self.model.eval()((part - _MEAN) / _STD) for part in image.split(BATCH)]
        return torch.cat([one.anomaly_map for one in found]), torch.cat([one.pred_score for one in found]).flatten()


def padim(size: int, ratio: float) -> tuple[Ours, Theirs]:
    """PaDiM with 100 channels of ResNet-18, the same ones; it has no coreset."""
    from anomalib.models.image.padim.torch_model import PadimModel

    # anomalib adds 0.01 and then 0.00001
    ours = Ours(PaDiM(image_size=size, in_channels=3, weights="random", regularisation=0.01001))
    layers = list(ours.model.hparams["layers"])
    theirs = Theirs(PadimModel("resnet18", layers, pre_trained=False, n_features=100), ours, lambda model: model.fit())
    ours.model.channel_index.copy_(theirs.model.idx.sort().values)
    ours.model.count_channels()
    return ours, theirs


def patchcore(size: int, ratio: float) -> tuple[Ours, Theirs]:
    """PatchCore with layers 2 and 3 of ResNet-18; the coreset is chosen from the features themselves by both.

    The maps differ a little: anomalib enlarges them by nearest neighbour, we bilinearly.
    """
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchCore(
        image_size=size,
        in_channels=3,
        backbone="resnet18",
        weights="random",
        coreset_ratio=ratio,
        projection_dim=384,
        max_patches=10**6,
    )
    ours = Ours(model)

    def finish(model: Any) -> None:
        projection = "anomalib.models.components.sampling.k_center_greedy.SparseRandomProjection"
        with mock.patch(projection) as projected:
            projected.return_value.transform = lambda features: features
            model.subsample_embedding(ratio)

    return ours, Theirs(PatchcoreModel(["layer2", "layer3"], "resnet18", pre_trained=False), ours, finish)


def pictures(count: int, size: int) -> Tensor:
    """Smooth colours with fine noise, ``(count, 3, size, size)`` in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(count, 3, 8, 8, generator=generator), size=size, mode="bilinear")
    return (0.8 * coarse + 0.2 * torch.rand(count, 3, size, size, generator=generator)).contiguous()


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one call, and what it returned."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def compare(name: str, rounds: int, durations: Callable[[], dict[str, tuple[float, float]]]) -> None:
    """Print the ratios of ``rounds`` rounds; a round gives the seconds of anomalib and of ours for each task."""
    taken = [durations() for _ in range(rounds)]
    for task in (*taken[0], "fit + predict"):
        pairs = [one[task] if task in one else tuple(map(sum, zip(*one.values(), strict=True))) for one in taken]
        ratios = sorted(theirs / ours for theirs, ours in pairs)
        theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{name:10} {task:14} anomalib {theirs:7.2f} s  ours {ours:7.2f} s  {statistics.median(ratios):5.2f}x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def in_memory(name: str, arguments: argparse.Namespace) -> None:
    """Time the models alone, and check that they find the same."""
    torch.manual_seed(0)
    ours, theirs = {"padim": padim, "patchcore": patchcore}[name](arguments.size, arguments.ratio)
    image = pictures(arguments.train + arguments.test, arguments.size)
    train, test = image[: arguments.train], image[arguments.train :]
    found: dict[str, Any] = {}

    def round_() -> dict[str, tuple[float, float]]:
        times = {}
        for task, part in (("fit", train), ("predict", test)):
            pair = []
            for key, candidate in (("theirs", theirs), ("ours", ours)):
                taken, found[key] = seconds(functools.partial(getattr(candidate, task), part))
                pair.append(taken)
            times[task] = (pair[0], pair[1])
        return times

    compare(name, arguments.rounds, round_)
    (their_map, their_score), (our_map, our_score) = found["theirs"], found["ours"]
    both = torch.stack([their_map, our_map])
    whole, inside = (
        float(torch.corrcoef(maps.flatten(1))[0, 1]) for maps in (both, both[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS])
    )
    gap = ((their_score - our_score).abs() / their_score).max()
    print(
        f"{name:10} correlation of the maps {whole:.6f} ({inside:.6f} away from the border, where the blurs differ), "
        f"largest relative difference of scores {gap:.1e}"
    )
    if name == "patchcore":
        bank, other = ours.model.memory.bank, theirs.model.memory_bank
        same = torch.isclose(bank, other, rtol=1e-3, atol=1e-3 * float(other.abs().max())).all(dim=1)
        print(f"{name:10} the same patches picked in the same order: {int(same.sum())} of {len(other)}")


def coreset(arguments: argparse.Namespace) -> None:
    """The greedy coreset of 10 % of clustered features alone; anomalib's loop is timed over its first picks."""
    from anomalib.models.components import KCenterGreedy

    count, picks = arguments.patches, arguments.patches // 10
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(count, 24, generator=generator) + 3 * torch.randn(1, 24, generator=generator)
    features = torch.relu(latent @ torch.randn(24, 302, generator=generator)).contiguous()
    sampler = KCenterGreedy(features, arguments.loop / count + 1e-9)
    sampler.model = mock.Mock(transform=lambda values: values)
    with mock.patch("torch.randint", return_value=torch.tensor([0])):
        theirs, expected = seconds(sampler.select_coreset_idxs)
    ours, found = seconds(lambda: greedy_coreset(features, picks))
    each = theirs / (len(expected) - 1)
    same = sum(a == b for a, b in zip(expected, found.tolist(), strict=False))
    print(
        f"coreset    {picks} of {count} x 302: ours {ours:.1f} s; anomalib {1000 * each:.1f} ms a pick, that is "
        f"{each * picks:.0f} s if all are alike, {each * picks / ours:.0f}x; the same {same} of the {len(expected)} "
        "picks compared"
    )


def neighbours(arguments: argparse.Namespace) -> None:
    """PatchCore's search in banks of several sizes: blocked products against faiss's exhaustive index."""
    import faiss

    faiss.omp_set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for rows, channels in ((784, 128), (784, 1536), (5000, 384), (20_000, 128), (20_000, 384), (20_000, 1536)):
        mixing = torch.randn(24, channels, generator=generator)
        bank, queries = (
            torch.relu(torch.randn(count, 24, generator=generator) @ mixing) + torch.rand(count, channels)
            for count in (rows, arguments.queries)
        )
        pairs = []
        for _ in range(arguments.rounds):
            ours, (_, found) = seconds(functools.partial(nearest_neighbours, queries, bank))
            theirs, (_, expected) = seconds(functools.partial(nearest_neighbours, queries, bank, search="faiss"))
            pairs.append((theirs, ours))
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        print(
            f"neighbours {len(queries)} in {rows} x {channels}: faiss {pairs[-1][0]:.2f} s  ours {pairs[-1][1]:.2f} s  "
            f"{ratio:.2f}x, the same {100 * float((found == expected).float().mean()):.2f} %",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["padim", "patchcore", "coreset"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--patches", type=int, default=204_800)
    parser.add_argument("--ratio", type=float, default=0.001, help="of PatchCore's coreset; the paper's is 0.1 or less")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--loop", type=int, default=60)
    parser.add_argument("--tune-allocator", action="store_true")
    arguments = parser.parse_args()
    if arguments.tune_allocator and not tune_allocator():
        parser.error("the allocator of this system has no such settings")
    torch.set_num_threads(1)
    print(f"tuned allocator: {arguments.tune_allocator}, load {os.getloadavg()[0]:.1f}", flush=True)
    for part in arguments.parts:
        if part in ("coreset", "neighbours"):
            {"coreset": coreset, "neighbours": neighbours}[part](arguments)
        else:
            in_memory(part, arguments)


if __name__ == "__main__":
    main()
