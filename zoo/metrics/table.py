"""The table of metrics: one entry says everything that callback, progress, leaderboard, page and docs know of a metric.

Adding a metric = adding an entry. An entry that is computed from positives among negatives (:class:`Evaluated`) is
computed by the metrics callback; one without ``compute`` is written by the code of its protocol under its name.

Reading the table imports neither torch nor numpy. ``python -m zoo.metrics.table FILE...`` renews the tables of the
documents between their marks.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from zoo.metrics.ranking import Evaluated

Level = Literal["image", "pixel", "slice", "lesion", "case"]
Need = Literal["masks", "volumes", "cases", "every pixel"]
Protocol = Literal["common", "memmc_mae", "fae", "multi_task", "cradl"]
LEVELS: tuple[Level, ...] = get_args(Level)
PRIMARY = "image_auroc"  # progress shows it, the leaderboard is ordered by it


class Chance(NamedTuple):
    """What scores that know nothing reach.

    Attributes:
        told: in a formula of the prevalence ``p``, the share of anomalous units of the level.
        at: the same as a function of ``p``.
    """

    told: str
    at: Callable[[float], float]


HALF = Chance("0.5", lambda p: 0.5)
PREVALENCE = Chance("p", lambda p: p)


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: key of ``metrics.json``.
        heading: in tables and charts.
        level: of what it counts; a prevalence is that of this level.
        meaning: one sentence of the documents.
        compute: from the scores and labels of the level; None: computed elsewhere.
        chance: see :class:`Chance`; None where there is no such level.
        higher: larger is better.
        bounds: smallest and largest possible value.
        needs: what a data set must have; ``every pixel``: nan where pixels are streamed through a histogram.
        protocol: whose rules it follows; others than ``common`` are computed where ``metrics.protocol`` asks for them.
    """

    name: str
    heading: str
    level: Level
    meaning: str
    compute: "Callable[[Evaluated], float] | None"
    chance: Chance | None
    higher: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    needs: tuple[Need, ...] = ()
    protocol: Protocol = "common"

    def value(self, found: "Evaluated") -> float:
        """The metric of evaluated scores; nan where a class or what it needs is missing."""
        streamed = found.ranks is None
        if self.compute is None or found.one_class or (streamed and "every pixel" in self.needs):
            return float("nan")
        return self.compute(found)

    @property
    def order(self) -> int:
        """1 where larger is better, else -1: figures times it are best at their maximum."""
        return 1 if self.higher else -1


_ENTRIES = (
    Metric(
        "image_auroc",
        "image AUROC",
        "image",
        "area under the ROC curve of the image score; of volumes, of the volume's score",
        lambda found: found.binary.auroc,
        HALF,
    ),
    Metric(
        "image_ap",
        "image AP",
        "image",
        "average precision of the same: step-wise, not interpolated",
        lambda found: found.binary.average_precision,
        PREVALENCE,
    ),
    Metric(
        "pixel_auroc",
        "pixel AUROC",
        "pixel",
        "over all pixels of the set at once",
        lambda found: found.binary.auroc,
        HALF,
        needs=("masks",),
    ),
    Metric(
        "pixel_ap",
        "pixel AP",
        "pixel",
        "over all pixels of the set at once",
        lambda found: found.binary.average_precision,
        PREVALENCE,
        needs=("masks",),
    ),
    Metric(
        "pixel_aupro",
        "AUPRO",
        "pixel",
        "per-region overlap up to 30 % false positives, divided by 0.3; exact, without a grid of thresholds",
        lambda found: found.aupro,
        Chance("0.15", lambda p: 0.15),
        needs=("masks", "every pixel"),
    ),
    Metric(
        "dice_at_5fpr",
        "Dice at 5 % FPR",
        "pixel",
        "at the lowest threshold with at most 5 % false positives, which is chosen on the set itself",
        lambda found: found.binary.dice_at_fpr,
        Chance("0.1 p / (0.05 + p)", lambda p: 0.1 * p / (0.05 + p)),
        needs=("masks",),
    ),
    Metric(
        "iou_at_5fpr",
        "IoU at 5 % FPR",
        "pixel",
        "intersection over union at the same threshold",
        lambda found: found.binary.iou_at_fpr,
        Chance("0.05 p / (0.05 + 0.95 p)", lambda p: 0.05 * p / (0.05 + 0.95 * p)),
        needs=("masks",),
    ),
    Metric(
        "best_dice",
        "best Dice",
        "pixel",
        "at the best threshold: an upper bound, for it is chosen with the labels",
        lambda found: found.binary.best_dice,
        Chance("2 p / (1 + p)", lambda p: 2 * p / (1 + p)),  # of calling everything
        needs=("masks",),
    ),
    Metric(
        "best_iou",
        "best IoU",
        "pixel",
        "the same of intersection over union: an upper bound",
        lambda found: found.binary.best_iou,
        PREVALENCE,  # of calling everything
        needs=("masks",),
    ),
    Metric(
        "slice_auroc",
        "slice AUROC",
        "slice",
        "a slice scores the mean of its map (inside the foreground with `--metrics.foreground_only true`)",
        lambda found: found.binary.auroc,
        HALF,
        needs=("masks", "volumes"),
    ),
    Metric(
        "slice_ap",
        "slice AP",
        "slice",
        "of the same score",
        lambda found: found.binary.average_precision,
        PREVALENCE,
        needs=("masks", "volumes"),
    ),
    # At the calibrated threshold (`docs/decisions.md`): `zoo.callbacks.case_evaluation` computes them after a test.
    Metric(
        "case_sensitivity",
        "sensitivity",
        "case",
        "share of anomalous cases flagged at the threshold from healthy calibration cases, at `decision.level` (5 %)",
        None,
        None,
        needs=("cases",),
    ),
    Metric(
        "case_specificity",
        "specificity",
        "case",
        "share of healthy cases not flagged there",
        None,
        None,
        needs=("cases",),
    ),
    Metric(
        "lesions_at_1fp",
        "lesions at 1 FP",
        "lesion",
        "share of lesions that any component of the map touches, at one false positive a case",
        None,
        None,
        needs=("masks",),
    ),
    # Figures of the papers' own rules (`metrics.protocol`): `zoo.metrics.protocols` computes them after a test.
    Metric(
        "mean_iou_in_groups",
        "mean IoU in groups",
        "pixel",
        "mean IoU of the anomalous images of five groups of 100, above the 95 % quantile of healthy pixels",
        None,
        None,
        needs=("masks",),
        protocol="memmc_mae",
    ),
    Metric(
        "best_mean_iou_in_groups",
        "best mean IoU in groups",
        "pixel",
        "the same at the best threshold: an upper bound, and what to compare, for the paper names no threshold",
        None,
        None,
        needs=("masks",),
        protocol="memmc_mae",
    ),
    Metric(
        "fae_pixel_ap",
        "pixel AP (FAE)",
        "pixel",
        "over the slices but the first tenth, which is validation there",
        None,
        PREVALENCE,
        needs=("masks",),
        protocol="fae",
    ),
    Metric(
        "fae_dice_at_5fpr",
        "Dice at 5 % FPR (FAE)",
        "pixel",
        "of the pixels strictly above the last threshold kept by scikit-learn's curve",
        None,
        Chance("0.1 p / (0.05 + p)", lambda p: 0.1 * p / (0.05 + p)),
        needs=("masks",),
        protocol="fae",
    ),
    Metric(
        "fae_slice_auroc",
        "slice AUROC (FAE)",
        "image",
        "of the slices' scores; a slice with any lesion pixel is anomalous",
        None,
        HALF,
        needs=("masks",),
        protocol="fae",
    ),
    Metric(
        "multi_task_ap",
        "AP (multi-task)",
        "image",
        "of the mean of the clipped map, by film or by slice; a slice is anomalous from more than 5 / 128² of its area",
        None,
        PREVALENCE,
        needs=("masks",),
        protocol="multi_task",
    ),
    Metric(
        "multi_task_auroc",
        "AUROC (multi-task)",
        "image",
        "of the same",
        None,
        HALF,
        needs=("masks",),
        protocol="multi_task",
    ),
    Metric(
        "pixel_ap_in_groups",
        "pixel AP in groups",
        "pixel",
        "mean pixel AP of groups of 20 samples, over ten shuffles",
        None,
        PREVALENCE,
        needs=("masks",),
        protocol="multi_task",
    ),
    Metric(
        "multi_task_pixel_auroc",
        "pixel AUROC (multi-task)",
        "pixel",
        "of the clipped maps",
        None,
        HALF,
        needs=("masks",),
        protocol="multi_task",
    ),
    Metric(
        "cradl_ap",
        "slice AP (CRADL's region)",
        "slice",
        "as AP (multi-task), in the slices of 128 x 128 on the files' grid in which CRADL was evaluated",
        None,
        None,
        needs=("masks", "volumes"),
        protocol="cradl",
    ),
    Metric(
        "cradl_auroc",
        "slice AUROC (CRADL's region)",
        "slice",
        "of the same",
        None,
        HALF,
        needs=("masks", "volumes"),
        protocol="cradl",
    ),
    Metric(
        "cradl_pixel_ap",
        "pixel AP in groups (CRADL's region)",
        "pixel",
        "as pixel AP in groups, in the same slices",
        None,
        None,
        needs=("masks", "volumes"),
        protocol="cradl",
    ),
    Metric(
        "cradl_pixel_auroc",
        "pixel AUROC (CRADL's region)",
        "pixel",
        "of the same",
        None,
        HALF,
        needs=("masks", "volumes"),
        protocol="cradl",
    ),
)
TABLE: dict[str, Metric] = {entry.name: entry for entry in _ENTRIES}


def metrics_of(level: Level) -> list[Metric]:
    """The metrics that the callback computes at a level, in the order of the table."""
    return [metric for metric in TABLE.values() if metric.level == level and metric.compute is not None]


def in_order(names: "set[str] | dict[str, object] | list[str]") -> list[str]:
    """Names in the order of the table; what it does not know (an older or newer version's) after it, by name."""
    found = set(names)
    return [*(name for name in TABLE if name in found), *sorted(found - TABLE.keys())]


def heading(name: str) -> str:
    """How tables name a metric; the name itself of one that the table does not know."""
    return TABLE[name].heading if name in TABLE else name


# ---- documents ----------------------------------------------------------------------------------------------------


def markdown() -> str:
    """The table of ``docs/metrics.md``."""
    lines = ["| name | heading | level | meaning | chance | needs | protocol |", "|---|---|---|---|---|---|---|"]
    for metric in TABLE.values():
        chance = "" if metric.chance is None else metric.chance.told
        arrow = "" if metric.higher else " (lower is better)"
        lines.append(
            f"| `{metric.name}` | {metric.heading} | {metric.level} | {metric.meaning}{arrow} | {chance} "
            f"| {', '.join(metric.needs)} | {metric.protocol} |"
        )
    return "\n".join(lines)


def listing() -> str:
    """The list of the README: names by level."""
    lines = []
    for level in LEVELS:
        names = ", ".join(f"`{metric.name}`" for metric in TABLE.values() if metric.level == level)
        if names:
            lines.append(f"- {level}: {names}")
    return "\n".join(lines)


def renewed(text: str) -> str:
    """A document with what stands between its marks ``<!-- metrics -->`` or ``<!-- metric names -->`` made anew."""
    for mark, content in (("metrics", markdown()), ("metric names", listing())):
        before, start, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{mark} -->")
        if start and end:
            text = f"{before}{start}{content}{end}{after}"
    return text


if __name__ == "__main__":
    for document in map(Path, sys.argv[1:]):
        document.write_text(renewed(document.read_text(encoding="utf-8")), encoding="utf-8")
