"""Speed, memory and error of the pixel metrics against scikit-learn, torchmetrics, anomalib and adeval.

``python -m benchmarks.speed.metrics [--pixels 1000000 10000000] [--rounds 3]``. Three tables: AUROC and AP; the same
with Dice at 5 % FPR and the best Dice, which takes four calls of scikit-learn; AUPRO over 40 maps of 256 x 256.
``--distributions`` instead runs AUROC and AP over kinds of scores and shares of lesions, each under several settings of
numpy's dispatch (a fresh process with ``NPY_DISABLE_CPU_FEATURES``): how fast ``np.sort`` is depends on the CPU, and
ours counts instead of sorting where that is faster. Candidates that are not installed are left out. They are
interleaved in one process on one thread; ratios are medians over rounds of CPU seconds within a round. Peak memory is
that of a forked child, over what it inherited; ``off`` is the largest difference to scikit-learn, or to our exact
AUPRO.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from zoo.metrics import counting
from zoo.metrics.counting import Array
from zoo.metrics.exact import ExactPixelMetrics
from zoo.metrics.functional import aupro, binary_summary, pixel_summary
from zoo.metrics.streaming import StreamingPixelMetrics

Candidate = Callable[[Array, Array], tuple[float, ...]]
_BATCH = 16  # maps
_SLOW = 30.0  # seconds above which a candidate runs once
KINDS = ("continuous", "half zero", "8-bit", "narrow")
SIDES = {0.02: 52, 0.001: 12}  # of the lesion in every second map, for a share of the pixels


def data(pixels: int, kind: str = "half zero", share: float = 0.02) -> tuple[Array, Array]:
    """Maps of 256 x 256 with one square lesion in every second one."""
    rng, side = np.random.default_rng(0), SIDES[share]
    count = max(1, pixels // 65536)
    masks = np.zeros((count, 256, 256), bool)
    for number in range(0, count, 2):
        top, left = rng.integers(0, 256 - side, 2)
        masks[number, top : top + side, left : left + side] = True
    maps = rng.standard_normal(masks.shape, dtype=np.float32)
    maps += np.float32(1.3) * masks
    if kind == "half zero":
        np.maximum(maps, 0, out=maps)
    elif kind == "8-bit":
        maps = np.clip(maps * 30 + 128, 0, 255).astype(np.uint8).astype(np.float32)
    elif kind == "narrow":
        maps = np.float32(1) + maps * np.float32(1e-5)
    return maps, masks


def _batches(maps: Array, masks: Array) -> list[tuple[torch.Tensor, torch.Tensor]]:
    starts = range(0, len(maps), _BATCH)
    return [(torch.from_numpy(maps[at : at + _BATCH]), torch.from_numpy(masks[at : at + _BATCH])) for at in starts]


def ours(maps: Array, masks: Array) -> tuple[float, ...]:
    return binary_summary(maps, masks)[:2]


def ours_with_aupro(maps: Array, masks: Array) -> tuple[float, ...]:
    return pixel_summary(maps, masks).binary[:2]


def ours_in_batches(maps: Array, masks: Array) -> tuple[float, ...]:
    metric = ExactPixelMetrics()
    for batch in _batches(maps, masks):
        metric.update(*batch)
    return metric.compute().binary[:2]


def streaming(maps: Array, masks: Array) -> tuple[float, ...]:
    metric = StreamingPixelMetrics(sync_on_compute=False)
    for batch in _batches(maps, masks):
        metric.update(*batch)
    found = metric.compute()
    return found["auroc"].value, found["average_precision"].value


def scikit_learn(maps: Array, masks: Array) -> tuple[float, ...]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = maps.ravel(), masks.ravel()
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))


def torchmetrics_exact(maps: Array, masks: Array, thresholds: int | None = None) -> tuple[float, ...]:
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    scores, labels = torch.from_numpy(maps).flatten(), torch.from_numpy(masks).flatten().int()
    calls = (binary_auroc(scores, labels, thresholds=thresholds), binary_average_precision(scores, labels, thresholds))
    return float(calls[0]), float(calls[1])


def torchmetrics_binned(maps: Array, masks: Array) -> tuple[float, ...]:
    return torchmetrics_exact(maps, masks, 200)


def adeval_strips(maps: Array, masks: Array) -> tuple[float, ...]:
    import adeval

    area, precision = adeval.auroc_and_aupr(maps, masks.astype(np.uint8))
    return float(area), float(precision)


def four_figures(maps: Array, masks: Array) -> tuple[float, ...]:
    found = binary_summary(maps, masks)
    return found.auroc, found.average_precision, found.dice_at_fpr, found.best_dice


def four_calls(maps: Array, masks: Array) -> tuple[float, ...]:
    from sklearn.metrics import precision_recall_curve, roc_curve

    scores, labels = maps.ravel(), masks.ravel()
    rates, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
    at = int(np.searchsorted(rates, 0.05, "right")) - 1
    positives = int(labels.sum())
    called = recall[at] * positives + rates[at] * (labels.size - positives)
    precision, sensitivity, _ = precision_recall_curve(labels, scores)
    best = (2 * precision * sensitivity / np.maximum(precision + sensitivity, 1e-300)).max()
    return *scikit_learn(maps, masks), 2 * recall[at] * positives / (called + positives), float(best)


def our_aupro(maps: Array, masks: Array) -> tuple[float, ...]:
    return (aupro(maps, masks),)


def anomalib_aupro(maps: Array, masks: Array) -> tuple[float, ...]:
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    return (float(metric.compute()),)


def adeval_aupro(maps: Array, masks: Array) -> tuple[float, ...]:
    import adeval

    return (float(adeval.auroc_aupr_aupro(maps, masks.astype(np.uint8))[2]),)


def regions_at_thresholds(maps: Array, masks: Array) -> tuple[float, ...]:
    """The way of the feature autoencoder's authors, without their pools of processes, in the scale of AUPRO.

    For each of 100 thresholds and each map: label the mask, and per region compare the boxes of map and region.
    """
    from skimage.measure import label, regionprops

    rates, overlaps = [], []
    for threshold in np.linspace(maps.max(), maps.min(), 100):
        called = maps > threshold
        rates.append(called[~masks].mean())
        if rates[-1] > 0.3:
            break
        shares = []
        for one, mask in zip(called, masks, strict=True):
            for region in regionprops(label(mask)):
                top, left, bottom, right = region.bbox
                shares.append((one[top:bottom, left:right] & region.image_filled).sum() / region.area)
        overlaps.append(np.mean(shares))
    return (float(np.trapezoid(overlaps, rates[: len(overlaps)]) / max(rates[len(overlaps) - 1], 1e-9)),)


def peak_bytes(run: Candidate, maps: Array, masks: Array) -> int:
    """Largest resident size of a child that runs it once, over the child's size at its start."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident()
        run(maps, masks)
        os.write(writing, str(_resident() - before).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = int(pipe.read() or -1)
    os.waitpid(child, 0)
    return found


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def _cpu_seconds(run: Candidate, maps: Array, masks: Array) -> tuple[float, tuple[float, ...]]:
    start = time.process_time()
    values = run(maps, masks)
    return time.process_time() - start, values


def compare(title: str, candidates: dict[str, Candidate], maps: Array, masks: Array, rounds: int) -> None:
    """Print a table of candidates against the first one; values against ``exact`` or the first one."""
    small = data(65536)
    for run in candidates.values():
        run(*small)  # imports
    first = next(iter(candidates))
    # before any timing: a child of a process with freed pages would reuse them unseen
    memory = {name: peak_bytes(run, maps, masks) / maps.size for name, run in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    values = {}
    for number in range(rounds):
        for name, run in candidates.items():
            if number and seconds[name][0] > _SLOW:
                seconds[name].append(seconds[name][0])
                continue
            spent, values[name] = _cpu_seconds(run, maps, masks)
            seconds[name].append(spent)
    true = values.get("ours, exact AUPRO", values[first])
    print(f"{title}: {maps.size} pixels, load {os.getloadavg()[0]:.1f}, {rounds} rounds; ratios to {first}")
    for name in candidates:
        ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
        gap = max(abs(a - b) for a, b in zip(values[name], true, strict=True))
        spent = statistics.median(seconds[name])
        print(
            f"  {name:26s} {spent:9.4f} s  {statistics.median(ratios):7.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
            f"  {maps.size / spent / 1e6:6.0f} Mpixel/s  {memory[name]:6.1f} B/pixel  off by {gap:.1e}",
            flush=True,
        )


def dispatch_settings() -> dict[str, str]:
    """Values of ``NPY_DISABLE_CPU_FEATURES`` by what they leave; the names are this numpy's."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    found = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
    wide = [name for name in found if name.startswith(("AVX512", "X86_V4"))]
    settings = {"as it is": ""}
    if wide:
        settings["no AVX-512"] = " ".join(wide)
    return settings | {"baseline only": " ".join(found)}


def distributions(pixels: int, rounds: int) -> None:
    """Print, under this process's dispatch, a row for each kind and share: seconds, ratio, way, difference."""
    way = "sorts" if counting.sorts_fast() else "counts"
    for share in SIDES:
        for kind in KINDS:
            maps, masks = data(pixels, kind, share)
            spent: dict[str, list[float]] = {"peer": [], "ours": []}
            values = {}
            for _ in range(rounds):
                for name, run in (("peer", scikit_learn), ("ours", ours)):
                    seconds, values[name] = _cpu_seconds(run, maps, masks)
                    spent[name].append(seconds)
            ratio = statistics.median(a / b for a, b in zip(spent["peer"], spent["ours"], strict=True))
            gap = max(abs(a - b) for a, b in zip(values["peer"], values["ours"], strict=True))
            peer, mine = (1000 * statistics.median(spent[name]) for name in ("peer", "ours"))
            print(
                f"  {maps.size:.0e} pixels, {share:6.1%} lesion, {kind:10s}: scikit-learn {peer:6.0f} ms,"
                f" ours {mine:5.0f} ms ({way}), {ratio:5.1f}x, off by {gap:.0e}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="skip the other packages")
    parser.add_argument("--distributions", action="store_true", help="kinds of scores under several dispatch settings")
    parser.add_argument("--here", action="store_true", help="with --distributions: under this process's dispatch only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.distributions and arguments.here:
        for pixels in sorted(arguments.pixels):
            distributions(pixels, arguments.rounds)
        return
    if arguments.distributions:
        for name, disabled in dispatch_settings().items():
            print(f"numpy {np.__version__}, dispatch {name} (NPY_DISABLE_CPU_FEATURES={disabled!r})", flush=True)
            environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled}
            subprocess.run([sys.executable, "-m", __spec__.name, *sys.argv[1:], "--here"], check=True, env=environment)
        return
    if not hasattr(np, "trapz"):
        setattr(np, "trapz", np.trapezoid)  # noqa: B010  # adeval 1.1.0 asks for the name that NumPy 2.4 dropped
    installed = {name for name in ("sklearn", "adeval", "anomalib", "skimage") if importlib.util.find_spec(name)}
    peers = set() if arguments.no_peers else installed
    own: dict[str, Candidate] = {
        "ours": ours,
        "ours with AUPRO": ours_with_aupro,
        "ours in batches, AUPRO": ours_in_batches,
        "ours, streaming": streaming,
    }
    for pixels in sorted(arguments.pixels):
        maps, masks = data(pixels)
        others: dict[str, Candidate] = {"scikit-learn": scikit_learn} if "sklearn" in peers else {}
        if peers and pixels <= 20_000_000:
            others |= {"torchmetrics": torchmetrics_exact}
        if peers and pixels <= 2_000_000:  # needs 200 times the memory of the scores, and minutes above
            others |= {"torchmetrics, 200 bins": torchmetrics_binned}
        if "adeval" in peers:
            others |= {"adeval, 1000 strips": adeval_strips}
        compare("AUROC and AP", others | own, maps, masks, arguments.rounds)
        if "sklearn" in peers and pixels <= 20_000_000:
            both: dict[str, Candidate] = {"scikit-learn, four calls": four_calls, "ours, one call": four_figures}
            compare("AUROC, AP, Dice at 5 % FPR, best Dice", both, maps, masks, arguments.rounds)
    maps, masks = data(40 * 65536)
    others = {"thresholds and regions": regions_at_thresholds} if "skimage" in peers else {}
    others |= {"anomalib": anomalib_aupro} if "anomalib" in peers else {}
    others |= {"adeval with AUROC, AP": adeval_aupro} if "adeval" in peers else {}
    compare("AUPRO", others | {"ours, exact AUPRO": our_aupro}, maps, masks, arguments.rounds)


if __name__ == "__main__":
    main()
