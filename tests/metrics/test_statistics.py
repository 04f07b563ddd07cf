"""Statistics: coverage by simulation, DeLong against its definition, known adjustments and ranks."""

import numpy as np
import pytest
from scipy import stats

from zoo.metrics.functional import auroc
from zoo.metrics.shortcuts import advantage, audit, image_statistics, nearest_neighbour_distance, stratified_auroc
from zoo.metrics.statistics import (
    average_ranks,
    bootstrap_difference,
    bootstrap_interval,
    critical_difference,
    delong_test,
    holm,
    permutation_test,
)


def sample(rng, n=60, shift=1.0, share=0.4):
    labels = (np.arange(n) < share * n).astype(int)
    return rng.standard_normal(n) + shift * labels, labels


def test_bootstrap_covers_the_true_value():
    truth = stats.norm.cdf(1 / np.sqrt(2))
    rng = np.random.default_rng(0)
    hits = 0
    for number in range(200):
        scores, labels = sample(rng)
        interval = bootstrap_interval(scores, labels, resamples=200, seed=number)
        hits += interval.low <= truth <= interval.high
    assert 0.88 <= hits / 200 <= 0.99  # nominal 0.95, percentile intervals are a little short


def test_grouped_bootstrap_is_wider_where_cases_of_a_patient_agree():
    rng = np.random.default_rng(1)
    scores, labels = sample(rng, 30)
    repeated, truth, patients = np.repeat(scores, 8), np.repeat(labels, 8), np.repeat(np.arange(30), 8)
    widths = []
    for groups in (None, patients):
        interval = bootstrap_interval(repeated, truth, groups=groups, resamples=300)
        widths.append(interval.high - interval.low)
    assert widths[1] > 1.8 * widths[0]
    single = bootstrap_interval(scores, labels, resamples=300)
    assert widths[1] == pytest.approx(single.high - single.low, rel=0.25)


def test_bootstrap_of_one_class_is_nan():
    assert np.isnan(bootstrap_interval(np.arange(5.0), np.ones(5, int)).value)


def reference_delong(a, b, labels):
    """The definition with structural components of all pairs."""
    parts = []
    for scores in (a, b):
        x, y = scores[labels == 1], scores[labels == 0]
        kernel = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
        parts.append((kernel.mean(), kernel.mean(1), kernel.mean(0)))
    s10 = np.cov(parts[0][1], parts[1][1])
    s01 = np.cov(parts[0][2], parts[1][2])
    s = s10 / (labels == 1).sum() + s01 / (labels == 0).sum()
    z = (parts[0][0] - parts[1][0]) / np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    return parts[0][0], parts[1][0], 2 * stats.norm.sf(abs(z))


@pytest.mark.parametrize("seed", range(5))
def test_delong_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    a, labels = sample(rng, 50)
    b = np.round(a + rng.standard_normal(50), 1)  # with ties
    assert delong_test(a, b, labels) == pytest.approx(reference_delong(a, b, labels), rel=1e-9)


def test_delong_counts_patients():
    rng = np.random.default_rng(0)
    a, labels = sample(rng, 40)
    b = a + rng.standard_normal(40)
    copies, patients = [np.repeat(one, 5) for one in (a, b, labels)], np.repeat(np.arange(40), 5)
    single = delong_test(a, b, labels)
    assert delong_test(*copies, groups=patients) == pytest.approx(single, rel=1e-9)
    assert delong_test(*copies).p_value < single.p_value
    assert delong_test(a, b, labels, groups=list("abcd" * 10)).p_value >= 0  # patients with images of both kinds


def test_grouped_delong_holds_its_level():
    rng = np.random.default_rng(5)
    p = {True: [], False: []}
    for _ in range(200):
        patients, labels = np.repeat(np.arange(30), 4), np.repeat(np.arange(30) < 12, 4).astype(int)
        own = np.repeat(rng.standard_normal((30, 2)), 4, 0)  # what two methods make of a patient
        scores = own + 0.3 * rng.standard_normal((120, 2)) + labels[:, None]
        for grouped in p:
            p[grouped].append(delong_test(*scores.T, labels, groups=patients if grouped else None).p_value)
    assert np.mean(np.array(p[True]) < 0.05) < 0.12
    assert np.mean(np.array(p[False]) < 0.05) > 0.25  # images taken for independent: false alarms


def test_paired_difference_covers_and_is_narrow():
    rng = np.random.default_rng(2)
    truth = stats.norm.cdf(1 / np.sqrt(2)) - stats.norm.cdf(1 / np.sqrt(2 * 1.25))
    hits = 0
    for number in range(100):
        scores, labels = sample(rng)
        other = scores + 0.5 * rng.standard_normal(60)
        interval = bootstrap_difference(scores, other, labels, resamples=100, seed=number)
        hits += interval.low <= truth <= interval.high
    assert 0.85 <= hits / 100 <= 0.99
    scores, labels = sample(rng, 400)
    other = scores + 0.5 * rng.standard_normal(400)
    single = bootstrap_interval(scores, labels, resamples=150)
    interval = bootstrap_difference(scores, other, labels, resamples=150)
    assert interval.high - interval.low < 0.7 * (single.high - single.low)
    assert bootstrap_difference(scores, scores, labels, resamples=20) == (0, 0, 0)
    assert np.isnan(bootstrap_difference(scores, other, labels * 0).value)


def test_advantage_over_the_strongest_shortcut():
    rng = np.random.default_rng(4)
    scores, labels = sample(rng, 300, shift=2.0)
    shortcuts = {
        "weak": rng.standard_normal(300),
        "strong": -labels - rng.standard_normal(300),
        "unknown": labels * np.nan,
    }
    found = advantage(scores, shortcuts, labels, resamples=200)
    assert found.value == pytest.approx(auroc(scores, labels) - auroc(-shortcuts["strong"], labels))
    assert found.low > 0
    patients = np.repeat(np.arange(100), 3)
    assert advantage(shortcuts["weak"], shortcuts, labels, groups=patients, resamples=200).high < 0


def test_tests_hold_their_level_and_find_differences():
    rng = np.random.default_rng(3)
    p = {"null": [], "different": []}
    for _ in range(150):
        base, labels = sample(rng, 80)
        p["null"].append(delong_test(base + rng.standard_normal(80), base + rng.standard_normal(80), labels).p_value)
        p["different"].append(delong_test(base, rng.standard_normal(80), labels).p_value)
    assert np.mean(np.array(p["null"]) < 0.05) < 0.12
    assert np.mean(np.array(p["different"]) < 0.05) > 0.6
    base, labels = sample(rng, 200)
    assert permutation_test(base, 100 * rng.standard_normal(200), labels, permutations=200).p_value < 0.05
    assert permutation_test(base, base * 7 - 3, labels, permutations=200).p_value == 1.0
    assert delong_test(base, base * 7 - 3, labels).p_value == 1.0


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, float("nan"), 0.01])[::2] == pytest.approx([0.5, 0.02])


def test_ranks_and_critical_difference():
    table = np.array([[0.9, 0.8, 0.7], [0.9, 0.9, 0.1], [np.nan, 1, 1]])
    assert average_ranks(table) == pytest.approx([1.25, 1.75, 3])
    # Demšar 2006, table 5: q = 2.343 for three methods, 2.569 for four
    assert critical_difference(4, 14) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), rel=1e-3)
    assert critical_difference(3, 10) == pytest.approx(2.343 * np.sqrt(3 * 4 / 60), rel=1e-3)


def test_shortcut_is_found_and_stratified_away():
    rng = np.random.default_rng(0)
    labels = (np.arange(400) < 160).astype(int)
    contrast = rng.uniform(0.5, 1.5, 400) - 0.4 * labels  # sick images are flatter
    images = 0.5 + contrast[:, None, None, None] * rng.standard_normal((400, 1, 12, 12))
    rows = {row.name: row for row in audit(image_statistics(images), labels, -contrast)}
    assert rows["deviation"].auroc == pytest.approx(auroc(-images.reshape(400, -1).std(1), labels))
    assert rows["deviation"].auroc > 0.8
    assert rows["deviation"].correlation < -0.9
    assert abs(rows["mean"].auroc - 0.5) < 0.1
    assert rows["deviation"].stratified_auroc < rows["deviation"].auroc - 0.1
    assert next(iter(rows)) == "deviation"


def test_stratified_auroc_by_hand():
    scores, labels = np.array([1.0, 2, 3, 4]), np.array([0, 1, 0, 1])
    assert stratified_auroc(scores, labels, np.array([0, 0, 1, 1]), bins=2) == 1.0
    assert np.isnan(stratified_auroc(scores, labels, np.array([0, 1, 0, 1]), bins=2))


def test_nearest_neighbour_ignores_brightness_and_contrast():
    rng = np.random.default_rng(0)
    train = rng.random((20, 1, 32, 32))
    assert nearest_neighbour_distance(3 * train[:4] + 7, train).max() < 1e-4  # up to rounding of squares
    assert nearest_neighbour_distance(rng.random((4, 1, 32, 32)), train).min() > 1


def _jpeg(picture, path):
    from PIL import Image

    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=60)
    return np.asarray(Image.open(path)).astype(np.float32)[None] / 255


def test_filled_area_of_jpegs_is_seen_without_a_foreground(tmp_path):
    """Black around a body is not black after JPEG; a foreground that holds all pixels says nothing."""
    rng = np.random.default_rng(0)
    rows, labels = [], np.arange(40) % 2
    y, x = np.mgrid[:64, :64] - 31.5
    for number, label in enumerate(labels):
        radius = 20 + 4 * label + rng.normal(0, 1)
        body = (np.hypot(x, y) < radius) * (120 + rng.normal(0, 12, (64, 64)))
        rows.append(_jpeg(body + np.abs(rng.normal(0, 3, (64, 64))), tmp_path / f"{number}.jpg"))
    images = np.stack(rows)
    for foreground in (None, np.ones((40, 1, 64, 64), bool)):
        found = image_statistics(images, foreground)
        assert auroc(found["filled"], labels) > 0.95
        assert auroc(found["otsu"], labels) > 0.95
        assert np.isfinite(list(found.values())).all()
    inner = np.zeros((40, 1, 64, 64), bool)
    inner[:, :, :8] = True
    assert image_statistics(images, inner)["filled"] == pytest.approx(np.full(40, 1 / 8))


def test_cues_see_what_their_names_say():
    rng = np.random.default_rng(1)
    plain = np.zeros((1, 1, 48, 48))
    plain[..., 10:30, 8:28] = 1.0

    def value(name, image):
        return float(image_statistics(image)[name][0])

    noisy = plain + rng.normal(0, 0.2, plain.shape)
    assert value("noise", noisy) == pytest.approx(0.2, rel=0.05)
    assert value("noise", plain) == 0
    assert value("sharpness", plain) > 1.5 * value("sharpness", _blurred(plain))
    assert value("height", plain) == pytest.approx(20 / 48)
    assert value("side", plain) == pytest.approx(18 / 48)
    framed = plain.copy()
    framed[..., 0, :] = 1
    assert value("border", framed) > value("border", plain) == 0


def _blurred(image):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (0, 0, 2, 2))


def test_size_and_compression_of_files(tmp_path):
    from zoo.metrics.shortcuts import file_statistics

    _jpeg(np.zeros((20, 40)), tmp_path / "plain.jpg")
    _jpeg(np.random.default_rng(0).integers(0, 255, (20, 40)), tmp_path / "busy.jpg")
    plain, busy = (file_statistics(str(tmp_path / f"{name}.jpg")) for name in ("plain", "busy"))
    assert plain[0] == busy[0] == 2
    assert busy[1] > plain[1]
    assert busy[2] == busy[1] / 800
    assert np.isnan(file_statistics(str(tmp_path / "none.jpg"))).all()


def test_pixel_shortcuts_of_a_lesion_in_the_centre():
    from zoo.metrics.shortcuts import PIXEL_SHORTCUTS, pixel_shortcuts

    rng = np.random.default_rng(0)
    training = rng.normal(0.5, 0.1, (20, 1, 32, 32))
    image = rng.normal(0.5, 0.1, (4, 1, 32, 32))
    mask = np.zeros((4, 1, 32, 32), bool)
    mask[..., 12:20, 12:20] = True
    image[mask] += 1
    maps = pixel_shortcuts(image, (training.mean(0), training.std(0)))
    assert set(maps) == set(PIXEL_SHORTCUTS)
    areas = {name: auroc(one, mask) for name, one in maps.items()}
    assert areas["bright"] > 0.99 > 0.01 > areas["dark"]
    assert areas["z_score"] > 0.99
    assert areas["centre"] > 0.95
    assert pixel_shortcuts(image, None).keys() == {"centre", "bright", "dark"}
    flat = pixel_shortcuts(image, (np.zeros((1, 32, 32)), np.zeros((1, 32, 32))))["z_score"]
    assert np.isfinite(flat).all()


@pytest.mark.parametrize("groups", [None, np.arange(80) // 4])
def test_bootstrap_of_the_auroc_is_that_of_its_resamples(groups):
    """The way by counts gives what evaluating every resample gives, ties included."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) // 8 % 2
    scores, other = np.round(labels + rng.normal(0, 1, (2, 80)), 1)

    def plain(s, t):
        return auroc(s, t)

    for fast, slow in (
        (bootstrap_interval(scores, labels, groups=groups), bootstrap_interval(scores, labels, plain, groups=groups)),
        (
            bootstrap_difference(scores, other, labels, groups=groups),
            bootstrap_difference(scores, other, labels, plain, groups=groups),
        ),
    ):
        assert fast == pytest.approx(slow, abs=1e-12)
