"""The confidence-aware strategy around the library's tasks."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import zoo
from zoo.synthetic.blending import poisson_blend, poisson_interpolate
from zoo.synthetic.raters import RaterLaw, rate
from zoo.synthetic.strategy import TASKS, equalise_histogram, equalise_own_range, interpolate, rate_task, rated_batch


@pytest.fixture
def images():
    smooth = gaussian_filter(np.random.default_rng(0).standard_normal((4, 1, 64, 64)), (0, 0, 3, 3))
    return torch.from_numpy((smooth - smooth.min()) / (smooth.max() - smooth.min())).float()


def test_the_published_generator_is_the_strategy_around_mixed_gradients(images):
    image, sources = images[0].double().numpy(), images[1:].double().numpy()
    for seed in range(3):
        published = rate(image, sources, np.random.default_rng(seed))
        wrapped = rate_task(image, sources, np.random.default_rng(seed), TASKS["mixed"])
        assert np.abs(published.image - wrapped.image).max() <= 1e-5
        assert np.abs(published.spread - wrapped.spread).max() <= 1e-5


def test_interpolation_is_pii(images):
    target, patch, whole = images[0].double(), images[1].double(), np.ones((64, 64), bool)
    alpha = np.random.default_rng(3).uniform(0.05, 0.95)

    def result(patch):
        return interpolate(target.numpy(), patch.numpy(), whole, 1.0, np.random.default_rng(3))

    # masks have no faces, PII's patch has: the rest is the same
    assert np.abs(result(patch) - poisson_interpolate(target, patch, alpha, (0, 0)).numpy()).max() < 0.01
    flat = poisson_blend(target.numpy(), np.zeros_like(target), whole, (0, 0))
    share = 1 - max(alpha, 1 - alpha)  # of an image into itself: the larger weight is left of its gradients
    assert np.abs(result(target) - (target.numpy() + share * (flat - target.numpy()))).max() < 1e-10


@pytest.mark.parametrize("task", TASKS)
def test_every_task_makes_soft_rated_anomalies(images, task):
    law = RaterLaw(anomalies=(3, 5), raters=(2, 4))
    before = images.clone()
    altered, label, spread = rated_batch(images, np.random.default_rng(0), task=task, law=law)
    again = rated_batch(images, np.random.default_rng(0), task=task, law=law)
    assert torch.equal(images, before)
    assert all(torch.equal(one, other) for one, other in zip((altered, label, spread), again, strict=True))
    for part in (altered, label, spread):
        assert 0 <= float(part.min()) <= float(part.max()) <= 1
    changed = (altered != images).any(1, keepdim=True)
    assert float(label[~changed].max()) == 0
    assert (label[changed] > 0).all()
    assert (label.flatten(1).amax(1) > 0.1).all(), "an anomaly that nobody sees"
    assert (spread > 0.01).any()
    assert changed.float().mean() < 0.5


@pytest.mark.parametrize("task", TASKS)
def test_one_rater_of_one_anomaly_has_no_spread(images, task):
    law = RaterLaw(anomalies=(1, 1), raters=(1, 1), gain=(1, 1))
    rated = rate_task(
        images[0].double().numpy(), images[1:].double().numpy(), np.random.default_rng(1), TASKS[task], law
    )
    assert float(rated.spread.max()) < 1e-6


def test_clean_share(images):
    altered, label, spread = rated_batch(images, np.random.default_rng(0), clean=1.0)
    assert torch.equal(altered, images)
    assert not label.any()
    assert not spread.any()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fpi", {}),
        ("pii", {}),
        ("nsa", {}),
        ("nsa", {"blend": "swap", "same_image": True}),
        ("nsa", {"blend": "source"}),
    ],
)
def test_detectors_switch_the_strategy_on(images, name, changes):
    model = zoo.create_model(name, image_size=64, widths=(8, 16), strategy=True, **changes).eval()
    prepared = model.prepare(images)
    altered, label = model.make_anomalies(prepared, np.random.default_rng(0))
    assert label.any()
    assert not float(label[(altered == prepared).all(1, keepdim=True)].max())
    plain = zoo.create_model(name, image_size=64, widths=(8, 16), **changes)
    assert torch.allclose(model.prepare(images), model.prepare(0.5 * images), atol=0.05)  # contrast is equalised away
    assert torch.equal(plain.prepare(images), images)
    assert torch.isfinite(model(images).anomaly_score).all()


def test_draem_under_the_strategy(images):
    small = {"reconstruction_width": 4, "width": 4, "depth": 3, "smoothing": 5, "strategy": True}
    model = zoo.create_model("draem", image_size=64, **small).eval()
    altered, mask = model.make_anomalies(images, np.random.default_rng(1))
    assert mask.dtype == torch.bool
    assert mask.any()
    assert not mask[(altered == images).all(1, keepdim=True)].any()
    assert torch.allclose(model.prepare(images), model.prepare(0.5 * images), atol=0.05)
    assert torch.isfinite(model(images).anomaly_score).all()


def test_confidence_aware_takes_any_task(images):
    model = zoo.create_model("confidence_aware", image_size=64, depth=3, width=4, task="linear", clean=0.0)
    other = zoo.create_model("confidence_aware", image_size=64, depth=3, width=4, clean=0.0)
    first, second = (one.make_anomalies(images, np.random.default_rng(0)) for one in (model, other))
    assert first[1].any()
    assert not torch.equal(first[0], second[0])


def test_equalising_from_the_own_range_ignores_range(images):
    assert torch.allclose(equalise_own_range(images), equalise_own_range(2 * images - 1), atol=1e-4)
    constant = torch.full((1, 1, 8, 8), 3.0)
    assert torch.isfinite(equalise_own_range(constant)).all()
    assert torch.isfinite(equalise_histogram(torch.zeros(1, 1, 8, 8))).all()
