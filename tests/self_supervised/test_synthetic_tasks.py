"""Properties of the tasks of FPI, PII, NSA, CutPaste, DRAEM and P-PII."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import zoo
from zoo.self_supervised.cutpaste import cut_and_paste
from zoo.synthetic import rectangles
from zoo.synthetic.blending import poisson_blend
from zoo.synthetic.perlin import perlin_mask, perlin_noise
from zoo.synthetic.raters import RaterLaw, _draw, rate
from zoo.synthetic.rectangles import NaturalPatches, _natural_patch
from zoo.synthetic.strategy import equalise_histogram

TASKS = ["fpi", "pii", "nsa", "draem", "confidence_aware"]


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((6, 1, 64, 64)), (0, 0, 3, 3))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(0.2 + 0.6 * smooth).float()


@pytest.fixture(params=TASKS)
def model(request):
    more = {"draem": {"depth": 3, "width": 4, "reconstruction_width": 4}, "confidence_aware": {"depth": 3, "width": 4}}
    return zoo.create_model(request.param, image_size=64, **more.get(request.param, {"widths": (8, 16)}))


def test_labels_mark_what_changed(model, images):
    before = images.clone()
    altered, label = model.make_anomalies(images, np.random.default_rng(1))[:2]
    assert torch.equal(images, before)
    assert altered.shape == images.shape
    assert label.shape == (6, 1, 64, 64)
    assert float(label.float().min()) >= 0
    assert float(label.float().max()) <= 1
    assert label.any(), "no anomaly in six images"
    changed = (altered - images).abs().mean(1, keepdim=True)
    assert float(label[(altered == images).all(1, keepdim=True)].float().max()) == 0
    assert float(label[changed > 2 / 255].float().mean()) > 0, "a visible change without a label"
    assert (label.flatten(1).any(1) == (changed.flatten(1) > 2 / 255).any(1)).float().mean() > 0.8


def test_same_generator_same_sample(model, images):
    first = model.make_anomalies(images, np.random.default_rng(5))
    second = model.make_anomalies(images, np.random.default_rng(5))
    other = model.make_anomalies(images, np.random.default_rng(6))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_range_of_the_images_is_kept(model, images):
    bright = (images - images.min()) / (images.max() - images.min())
    for seed in range(5):
        altered = model.make_anomalies(bright, np.random.default_rng(seed))[0]
        assert float(altered.min()) >= 0
        assert float(altered.max()) <= 1
        for scar in (False, True):
            pasted = cut_and_paste(bright, np.random.default_rng(seed), scar=scar)
            assert 0 <= float(pasted.min()) <= float(pasted.max()) <= 1


@pytest.mark.parametrize("scar", [False, True])
def test_cut_and_paste_depends_on_the_generator_alone(images, scar):
    before = images.clone()
    first, second, other = (cut_and_paste(images, np.random.default_rng(s), scar=scar) for s in (3, 3, 4))
    assert torch.equal(images, before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_fpi_label_is_the_weight(images):
    model = zoo.create_model("fpi", image_size=64, widths=(8, 16))
    altered, label = model.make_anomalies(images, np.random.default_rng(2))
    others = images.roll(-1, 0)
    inside = label > 0
    expected = torch.lerp(images, others, label)
    assert torch.allclose(altered[inside], expected[inside], atol=1e-6)
    assert torch.equal(altered[~inside] - images[~inside] > 2e-3, torch.zeros_like(altered[~inside], dtype=torch.bool))


def test_nsa_widths_are_the_published_percentiles(monkeypatch):
    drawn, full, find = [], np.ones((256, 256), bool), rectangles._find

    def record(rng, mask, sides, share, tries):
        drawn.append(sides)
        return find(rng, mask, sides, share, tries)

    monkeypatch.setattr(rectangles, "_find", record)
    rng, source = np.random.default_rng(0), np.zeros((1, 256, 256), np.float32)
    kept = [_natural_patch(rng, source, full, full, NaturalPatches()) for _ in range(1000)]
    five, middle, most = np.percentile(drawn, [5, 50, 95])  # before patches are resized
    assert five == pytest.approx(30, abs=1.5)
    assert middle == pytest.approx(50, abs=2)
    assert most == pytest.approx(98, abs=4)
    widths = [one[2].width for one in kept if one is not None]
    assert max(widths) <= 0.8 * 256 + 1
    assert min(widths) >= 0.06 * 256 - 1


def test_nsa_respects_the_foreground(images):
    model = zoo.create_model("nsa", image_size=64, widths=(8, 16), background=0.0)
    framed = torch.zeros_like(images)
    framed[:, :, 16:48, 16:48] = images[:, :, 16:48, 16:48] + 0.2
    for seed in range(4):
        _, label = model.make_anomalies(framed, np.random.default_rng(seed))
        inside = torch.zeros_like(label, dtype=torch.bool)
        inside[:, :, 16:48, 16:48] = True
        assert (label[~inside] > 0).sum() <= 0.6 * (label[inside] > 0).sum()  # 70 % of each patch lie on the object


@pytest.mark.parametrize("seed", range(3))
def test_raters_equal_full_blends_averaged(images, seed):
    image, sources = images[0].double().numpy(), images[1:].double().numpy()
    law = RaterLaw(anomalies=(2, 4), raters=(1, 4))
    found = rate(image, sources, np.random.default_rng(seed), law)
    blends = []
    for anomaly in _draw(np.random.default_rng(seed), (64, 64), len(sources), law):
        top, left, h, w = anomaly.box
        y, x = anomaly.origin
        for mask, gain in zip(anomaly.masks, anomaly.gains, strict=True):
            patch = gain * sources[anomaly.source][:, y : y + h, x : x + w]
            blends.append(poisson_blend(image, patch, mask, (top, left), True))
    assert np.abs(found.image - np.mean(blends, 0)).max() <= 1e-5
    assert np.abs(found.spread - np.std(blends, 0)).max() <= 1e-5


def test_one_rater_has_no_spread(images):
    image, sources = images[0].numpy(), images[1:].numpy()
    one = rate(image, sources, np.random.default_rng(0), RaterLaw(anomalies=(1, 1), raters=(1, 1)))
    assert float(one.spread.max()) < 1e-4
    many = rate(image, sources, np.random.default_rng(0), RaterLaw(anomalies=(3, 3), raters=(5, 5)))
    assert float(many.spread.max()) > 1e-3


def test_pasted_pixels_come_from_the_image():
    image = torch.linspace(0.3, 0.7, 64).expand(4, 1, 64, 64).contiguous()
    for scar in (False, True):
        pasted = cut_and_paste(image, np.random.default_rng(0), scar=scar)
        changed = (pasted != image).float().mean((1, 2, 3))
        assert (changed > 0).all()
        assert (changed < (0.03 if scar else 0.2)).all()


def test_shrinkage_equals_scikit_learns():
    from sklearn.covariance import LedoitWolf

    model = zoo.create_model("cutpaste", image_size=32, backbone="resnet10t", head_dims=(16,))
    size = len(model.total)
    features = np.random.default_rng(0).standard_normal((40, size)) @ np.diag(np.linspace(0.5, 2, size)) + 3
    model._features = lambda part: torch.from_numpy(part)  # type: ignore[method-assign]
    for part in np.array_split(features, 4):
        model._collect({"image": part}, 0)
    model._fit()
    expected = LedoitWolf().fit(features)
    assert np.abs(model.gaussian.mean.numpy() - expected.location_).max() < 1e-10
    assert (
        np.abs(model.gaussian.precision.numpy() - expected.precision_).max() < 1e-5 * np.abs(expected.precision_).max()
    )


def test_perlin_noise_is_smooth_and_centred():
    rng = np.random.default_rng(0)
    noise = np.stack([perlin_noise(rng, (64, 64), (4, 4)) for _ in range(20)])
    assert abs(noise.mean()) < 0.05
    assert np.abs(noise).max() <= 1.5
    assert np.abs(np.diff(noise, axis=2)).max() < 0.3
    assert 0 < np.mean([perlin_mask(rng, (64, 64)).mean() for _ in range(50)]) < 0.4


def test_equalised_images_are_uniform(images):
    flat = equalise_histogram(images**3).flatten(2).sort(dim=2).values
    expected = torch.linspace(0, 1, flat.shape[2]).expand_as(flat)
    assert float((flat - expected).abs().max()) < 0.1


def test_uncertainty_grows_with_the_dropout(images):
    scores = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        model = zoo.create_model("confidence_aware", image_size=64, depth=3, width=8, dropout=dropout, samples=4).eval()
        prediction = model(images)
        assert float(prediction.uncertainty_map.min()) >= 0
        scores.append(float(prediction.uncertainty_map.mean()))
    assert scores[1] > scores[0]
