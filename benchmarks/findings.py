"""The conclusion in sentences, each of which follows from a test or a count."""

from collections.abc import Sequence

import numpy as np

from benchmarks.leaderboard import LEVEL, DataSet, Row, complete, ranks_of
from zoo.metrics.shortcuts import STATISTICS
from zoo.metrics.table import PRIMARY, heading

EXPLANATION = (
    "± is the sample standard deviation over seeds; ‡ marks methods whose seeds all gave the same scores: they have "
    "none. Semi-supervised methods also saw images of unknown health.",
    "[95 %] is a percentile bootstrap over cases (the patient where known, else the volume, else the image), "
    "stratified by class; the bounds are means over seeds.",
    "p vs highest is DeLong's paired test of the image AUROC, on scores averaged over seeds, against the method with "
    "the highest mean; cases count as independent; Holm-corrected within the data set. The highest mean is not thereby "
    "shown to be best: bold are figures of a method that is better than every other by this test.",
    "Over shortcut is the AUROC less that of the strongest statistic that needs no learning (brightness, contrast, "
    "filled area, border, sharpness, noise, place of the body, shape, size and compression of the file, distance to "
    "the nearest training image), chosen with its direction on this very test set; the interval is a paired bootstrap "
    "by case. † marks methods whose interval does not lie above 0.",
    "Stratified is the AUROC among images that are alike in that statistic (five bins).",
    "Without copies leaves out test images that look like a training image (correlation of thumbnails): a method may "
    "have memorised them.",
    "Chance is what scores that know nothing reach at the prevalence of the test set: average precision, Dice and IoU "
    "depend on it. Maps without learning (nearness to the centre, brightness, absolute z-score against the training "
    "images) are what a learnt map should beat.",
    "A checkpoint is chosen by synthetic validation, or is the last. By AUCp it is chosen with the test images but "
    "without their labels (transductive); the best on the test is chosen with the labels, an upper bound.",
    "Average ranks are over data sets; the critical difference (Nemenyi) takes these as independent and few of them as "
    "little evidence.",
)


def conclusions(rows: list[Row], datasets: list[DataSet]) -> list[tuple[str, list[str]]]:
    """Sentences by data set, then those over data sets under an empty name."""
    found = [(one.name, _of_dataset([row for row in rows if row.dataset == one.name], one)) for one in datasets]
    overall = [sentence for phantom in (False, True) if (sentence := _of_ranks(rows, phantom))]
    return [*found, ("", overall)] if overall else found


def _of_dataset(rows: list[Row], data: DataSet) -> list[str]:
    done = [row for row in rows if row.seeds and not np.isnan(row.means[PRIMARY])]
    if not done:
        return ["No method has a result here.", *_remarks(rows)]
    best = next(row for row in done if row.best)
    sentences = [*_shortcut(done, best, data), _difference(done, best), *_copies(best, data), *_maps(done, data)]
    missing = [row.method for row in rows if row.missing]
    if missing:
        sentences.append(f"Results are missing of {listed(missing)}.")
    return [*sentences, *_remarks(rows)]


def _remarks(rows: list[Row]) -> list[str]:
    """What was left out of methods' papers, with the methods that it concerns."""
    found = dict.fromkeys(one for row in rows for one in row.remarks)
    return [
        f"Not as the paper has it: {one} ({listed([r.method for r in rows if one in r.remarks])})." for one in found
    ]


def _shortcut(rows: list[Row], best: Row, data: DataSet) -> list[str]:
    if not data.shortcuts:
        return []
    strongest = data.shortcuts[0]
    told = f"{STATISTICS[strongest.name]} alone ({heading(PRIMARY)} {strongest.auroc:.3f})"
    beating, others = ([row.method for row in rows if row.beats_shortcuts is kind] for kind in (True, False))
    if not beating:
        return [f"No method is shown to beat {told}; the highest mean is {best.method}'s, {best.means[PRIMARY]:.3f}."]
    verb = "is" if len(beating) == 1 else "are"
    rest = f"; {listed(others)} {'is' if len(others) == 1 else 'are'} not" if others else ""
    return [f"{listed(beating)} {verb} shown to beat {told}{rest}."]


def _difference(rows: list[Row], best: Row) -> str:
    others = [row for row in rows if row is not best]
    mean = f"{best.method} ({best.means[PRIMARY]:.3f})"
    if not others:
        return f"{mean} is the only method with a result."
    worse = [row for row in others if row.p_value < LEVEL]
    rest = [row.method for row in others if not row.p_value < LEVEL]
    if not worse:
        return f"No difference is shown between {mean}, the highest mean, and any other method."
    largest = max(row.p_value for row in worse)
    p = "p < 0.001" if largest < 0.001 else f"p ≤ {largest:.3f}"
    tail = f"; no difference to {listed(rest)} is shown" if rest else ""
    return f"{mean} is better than {listed([row.method for row in worse])} ({p}){tail}."


def _copies(best: Row, data: DataSet) -> list[str]:
    if not data.copies:
        return []
    verb = "looks" if len(data.copies) == 1 else "look"
    told = f"{len(data.copies)} of {data.images} test images {verb} like a training image"
    if np.isnan(best.without_copies.value):
        return [f"{told}."]
    change = f"{best.method} reaches {best.without_copies.value:.3f} instead of {best.interval.value:.3f}"
    return [f"{told}; without them {change}."]


def _maps(rows: list[Row], data: DataSet) -> list[str]:
    """Counts alone: no test compares maps."""
    metric = "pixel_ap"
    maps = [one for one in data.references if one.kind == "pixel" and metric in one.values]
    known = [row for row in rows if not np.isnan(row.means.get(metric, np.nan))]
    if not maps or not known:
        return []
    strongest = max(maps, key=lambda one: one.values[metric])
    below = sum(row.means[metric] <= strongest.values[metric] for row in known)
    chance = next((one.values.get(metric) for one in data.references if one.kind == "chance"), None)
    told = f"{strongest.told} reaches {heading(metric)} {strongest.values[metric]:.3f}"
    told += "" if chance is None else f" (chance {chance:.3f})"
    which = "all" if below == len(known) else "none" if not below else f"{below}"
    return [f"Without learning, {told}; {which} of {len(known)} methods {'lies' if below == 1 else 'lie'} no higher."]


def _of_ranks(rows: list[Row], phantom: bool) -> str:
    kept = [row for row in rows if row.phantom == phantom]
    ranks, difference = ranks_of(kept)
    known = {name: rank for name, rank in ranks.items() if not np.isnan(rank)}
    if np.isnan(difference) or len(known) < 2:
        return ""
    first, last = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    over = f"Over the {len(complete(kept))} {'phantoms' if phantom else 'data sets'} that all methods have"
    if known[last] - known[first] <= difference:
        return (
            f"{over}, no method is shown to rank above another: the largest gap of average ranks, "
            f"{known[last] - known[first]:.2f} between {first} and {last}, is within the critical difference, "
            f"{difference:.2f}."
        )
    worse = [name for name, rank in known.items() if rank - known[first] > difference]
    return f"{over}, {first} ranks above {listed(worse)} (critical difference {difference:.2f})."


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
