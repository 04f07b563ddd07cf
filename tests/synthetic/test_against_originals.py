"""The authors' outputs of every operation and of whole tasks, reproduced from their recorded draws."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from zoo.synthetic.blending import poisson_blend
from zoo.synthetic.deformation import moved_pixels, push_bounds, push_factor, sink_map, source_map, warp
from zoo.synthetic.intensity import shift_intensity
from zoo.synthetic.labels import anomaly_label, close, fill_holes, logistic_label
from zoo.synthetic.patches import Patch, footprint, take
from zoo.synthetic.shapes import Shape, box_of, exit_distance, make_shape
from zoo.synthetic.tasks import Anomaly, Blend, Context, Shift, Warp, apply_anomalies, blend

GOLDEN = Path(__file__).parents[1] / "golden" / "multitask"


def cases(name):
    """Arrays of a file by the prefix before the first underscore."""
    found = {}
    with np.load(GOLDEN / f"{name}.npz") as file:
        for key in file.files:
            prefix, _, rest = key.partition("_")
            found.setdefault(prefix, {})[rest] = file[key]
    return found


def largest(found, expected):
    return float(np.abs(np.asarray(found, np.float64) - expected).max())


@pytest.mark.parametrize("name", ["poisson_2d", "poisson_3d"])
def test_poisson_blends(name):
    for letter, case in cases(name).items():
        layout = int(case["channels_dim"])
        target, source = case["target"], case["source"]
        if layout == -99:
            target, source = target[None], source[None]
        elif layout != 0:
            target, source = np.moveaxis(target, layout, 0), np.moveaxis(source, layout, 0)
        tolerance = 2e-6 if target.dtype == np.float32 else 1e-10
        for mode, mixed in (("mix", True), ("src", False)):
            mask = case["mask"].copy()
            found = poisson_blend(target, source, mask, case["corner"], mixed)
            assert found.dtype == target.dtype
            assert np.array_equal(mask, case["mask"]), "the mask was changed"
            cleared = case["mask_after"]  # by the original, in place: the outermost pixels do not count
            assert np.array_equal(poisson_blend(target, source, cleared, case["corner"], mixed), found)
            found = found[0] if layout == -99 else np.moveaxis(found, 0, layout)
            assert largest(found, case[f"dst_{mode}"]) <= tolerance, (letter, mode)


def test_poisson_in_float32_on_batches():
    for name in ("poisson_2d", "poisson_3d"):
        case = cases(name)["a"]
        target, source, mask = (torch.from_numpy(case[key]).float() for key in ("target", "source", "mask"))
        found = poisson_blend(
            target.expand(3, *target.shape), source.expand(3, *source.shape), mask, case["corner"], True
        )
        assert found.dtype == torch.float32
        for one in found:
            assert largest(one, case["dst_mix"]) <= 1e-4


def test_shapes():
    for case in cases("shapes").values():
        if "kind" not in case:
            continue
        size = (0.03 + case["gamma"]) * case["img_dims"]
        size = np.clip(size, case["lb"], case["ub"]).astype(int)
        shape = make_shape(
            str(case["kind"]), size, case["other_dim"], list(case["shear"]), list(case["angles"]), case["ub"]
        )
        assert np.array_equal(shape.size, case["shape_size"])
        assert largest(shape.matrix, case["trans_matrix"]) <= 1e-12
        assert np.array_equal(shape.mask, case["mask"])


@pytest.mark.parametrize("prefix", ["e2", "r2", "e3", "r3"])
def test_deformations(prefix):
    case = cases("deformation")[prefix]
    shape = Shape(str(case["kind"]), case["shape_size"], case["trans_matrix"], case["mask"])
    patch = case["sample"][(slice(None), *box_of(case["corner"], shape.mask.shape))]
    tolerance = 1e-9 if shape.mask.ndim == 2 else 2e-6
    for where, variant in itertools.product(
        ("mid", "rand"), ("source", "sink", "sink37", "bsource", "bsink", "bsinkbig")
    ):
        key = f"{where}_{variant}"
        if f"{key}_factor" not in case:
            continue
        centre = case[f"{where}_centre"]
        if variant.startswith("b"):
            push, distance = case[f"{key}_push"]
            assert push_bounds(shape.mask, centre, 0.5, 10)[2] == pytest.approx(distance, rel=1e-12)
            assert push_factor(push, distance) == pytest.approx(float(case[f"{key}_factor"]), rel=1e-9)
        mapping = (sink_map if "sink" in variant else source_map)(shape, centre, float(case[f"{key}_factor"]))
        assert largest(mapping, case[f"{key}_mapping"]) <= tolerance * 10
        pixels, positions = moved_pixels(shape, centre, float(case[f"{key}_factor"]), "sink" in variant)
        assert largest(warp(patch, pixels, positions), case[f"{key}_patch"]) <= tolerance


@pytest.mark.parametrize("prefix", ["e2", "r2", "e3", "r3"])
def test_rays_pushes_and_identity(prefix):
    case = cases("deformation")[prefix]
    shape = Shape(str(case["kind"]), case["shape_size"], case["trans_matrix"], case["mask"])
    origin = case["mid_centre"] - (np.array(shape.mask.shape) - 1) / 2
    reach = exit_distance(shape, origin, case["dirs"].T)
    assert largest(origin[:, None] + reach * case["dirs"], case["hits"]) <= 1e-9
    distance = push_bounds(shape.mask, case["mid_centre"], *case["push_bounds"])[2]
    middle = float(np.mean(push_bounds(shape.mask, case["mid_centre"], *case["push_bounds"])[:2]))
    assert case["push_mid"] == pytest.approx([middle, distance], rel=1e-12)
    for key, bounds in (("small", (1e9, 1e9)), ("large", (1e-9, 1e-9))):
        low, high, distance = push_bounds(shape.mask, case["mid_centre"], *bounds)
        assert case[f"push_{key}"] == pytest.approx([low, distance], rel=1e-12)
        assert low == high


@pytest.mark.parametrize("prefix", ["e2", "r2"])  # recorded in planes only
def test_deformations_that_no_task_uses(prefix):
    """The identity, and FPI's sink from the library's rays and splines."""
    case = cases("deformation")[prefix]
    shape = Shape(str(case["kind"]), case["shape_size"], case["trans_matrix"], case["mask"])
    centre = case["mid_centre"]
    patch = case["sample"][(slice(None), *box_of(case["corner"], shape.mask.shape))]
    for make in (sink_map, source_map):
        assert largest(make(shape, centre, 1.0), case["mid_ident_mapping"]) <= 1e-6
    pixels, positions = moved_pixels(shape, centre, 1.0, inward=True)
    assert largest(warp(patch, pixels, positions), case["mid_ident_patch"]) <= 1e-9
    offset = pixels - centre[:, None]
    radius = np.sqrt((offset**2).sum(0))
    reach = exit_distance(shape, centre - (np.array(shape.mask.shape) - 1) / 2, (offset / radius).T)
    share = radius / reach
    positions = centre[:, None] + reach * (share + (1 - share**2) * share) * offset / radius
    assert largest(positions, case["mid_fpi_mapping"][(slice(None), *pixels)]) <= 1e-9
    assert largest(warp(patch, pixels, positions), case["mid_fpi_patch"]) <= 1e-9


def test_blends_as_the_tasks_clip_them():
    for name in ("poisson_2d", "poisson_3d"):
        for case in cases(name).values():
            if int(case["channels_dim"]) != 0 or "task_mix" not in case or case["mask"].dtype != bool:
                continue
            box = (slice(None), *box_of(case["corner"], case["mask"].shape))
            flat = case["target"].reshape(len(case["target"]), -1)
            for mode in ("mix", "src"):
                found = case["target"].copy()
                bounds = flat.min(1), flat.max(1)
                found[box] = blend(found[box], case["mask"], case["source"], bounds, mode == "mix")[0]
                assert largest(found, case[f"task_{mode}"]) <= (2e-6 if found.dtype == np.float32 else 1e-10)


def test_the_curve_of_the_label():
    case = cases("labels")["curve"]
    one, zero = np.ones(len(case["x"]), bool), np.zeros((1, len(case["x"])))
    for place, x in enumerate(case["x"]):  # one pixel at a time: a component of one pixel is neither closed nor filled
        single = zero.copy()
        single[0, place] = x
        where = np.zeros_like(one)
        where[place] = True
        assert anomaly_label(single, zero, where)[place] == pytest.approx(case["fg02"][place], abs=1e-12)
    assert largest(saturating(case["x"][None], zero, one), case["sat"]) <= 1e-12


def saturating(altered, original, mask, slope=10.0, least=0.1):
    """The authors' earlier label, ``(1 + c) / (1 + exp(-a x) / c) - c``, as a stretched logistic one."""
    where = mask & (np.abs(altered - original).mean(0) > 0)
    label = logistic_label(altered, original, mask, slope, -np.log(least) / slope)
    return np.where(where, (1 + least) * label - least, 0)


def test_labels():
    for key, case in cases("labels").items():
        if key == "curve":
            continue
        for name, sigma in (("fg02", 0.2), ("fg005", 0.05)):
            assert largest(anomaly_label(case["aug"], case["orig"], case["mask"], sigma), case[name]) <= 1e-12, key
        label = saturating(case["aug"], case["orig"], case["mask"])
        for box in ndimage.find_objects(ndimage.label(case["mask"])[0]):
            label[box] = fill_holes(close(label[box]))
        assert largest(label, case["sat"]) <= 1e-12, key


def test_intensity():
    for case in cases("intensity").values():
        ramp = min(case["img_shape"][1:]) * (0.02 + float(case["gamma_smooth"]))
        amount = (float(case["scale"]) / 2 + float(case["gamma_change"])) * case["signs"]
        found = shift_intensity(case["patch_in"], case["mask"], ramp, amount, case["min"], case["max"])
        assert largest(found, case["patch_out"]) <= 1e-12


def test_source_patches():
    for case in cases("patch").values():
        box = tuple(case["target_shape"])
        region = footprint(box, list(case["angles"]), float(case["scale_raw"]), case["source"].shape[1:])
        assert largest(take(case["source"], region, case["corners_tried"][-1], box), case["patch"]) <= 1e-9
        if "source_fg" in case:
            middles = [bool(case["source_fg"][tuple(corner + region.size // 2)]) for corner in case["corners_tried"]]
            assert middles == [False] * (len(middles) - 1) + [True], "the rule of draw_patch"


def recorded_draws(case):
    """The draws of one task run, by anomaly, from the marker to the coin that decides on another one."""
    groups, inside = [], False
    for draw in json.loads(str(case["draws"])):
        if draw["who"] == "step":
            groups.append([])
        elif inside and draw["fn"] != "random":
            groups[-1].append(draw)
        inside = draw["who"] == "step" or (inside and draw["fn"] != "random")
    return groups


def replay(name, shape, draws, size, sources):
    """The operation of one anomaly of a whole task, of its recorded draws."""
    values = [draw["value"] for draw in draws]
    dims = shape.mask.ndim
    if name == "blend":
        angles = dims * (dims - 1) // 2
        source, scale = values[0], values[1 + angles + 1]
        region = footprint(shape.mask.shape, values[1 : 1 + angles], scale, sources.shape[2:])
        return Blend(Patch(source, region, np.array(values[-1])))
    if name == "intensity":
        return Shift(min(size) * (0.02 + values[0]), (0.1 + values[1]) * np.array(values[2]))
    centre = np.argwhere(shape.mask)[values[0]]
    largest_push = 10 if dims == 2 else 5
    factor = push_factor(values[1], push_bounds(shape.mask, centre, 0.5, largest_push)[2])
    return Warp(centre, factor, name == "sink")


@pytest.mark.parametrize("name", ["blend", "sink", "source", "intensity"])
@pytest.mark.parametrize("dims", [2, 3])
def test_whole_tasks(name, dims):
    with np.load(GOLDEN / f"tasks_{dims}d.npz") as file:
        data = dict(file)
    runs = sorted({key.split("_")[0] for key in data if key.startswith(name) and key.endswith("_draws")})
    assert runs
    for run in runs:
        case = {key.removeprefix(f"{run}_"): value for key, value in data.items() if key.startswith(f"{run}_")}
        image, union = data["sample"], np.zeros(data["sample"].shape[1:], bool)
        for number, draws in enumerate(recorded_draws(case)):
            one = {key: case[f"{number}_{key}"] for key in ("kind", "shape_size", "trans_matrix", "mask", "corner")}
            shape = Shape(str(one["kind"]), one["shape_size"], one["trans_matrix"], one["mask"])
            anomaly = Anomaly(shape, one["corner"], replay(name, shape, draws, image.shape[1:], data["sources"]))
            image, mask = apply_anomalies(image, [anomaly], Context(data["sources"]))
            assert np.array_equal(mask[box_of(one["corner"], shape.mask.shape)], case[f"{number}_mask_after"])
            if name == "blend":
                source, region, corner = anomaly.operation.patch
                content = take(data["sources"][source], region, corner, shape.mask.shape)
                assert largest(content, case[f"{number}_patch"]) <= 1e-6
            assert data["fg"][box_of(one["corner"], shape.mask.shape)][shape.mask].mean() >= 0.5
            union |= mask
        tolerance = 1e-9 if dims == 2 else 2e-6  # 3-D mappings of the original are float32
        assert largest(image - data["sample"], case["delta"]) <= tolerance
        assert largest(anomaly_label(image, data["sample"], union, 0.2), case["label"]) <= 10 * tolerance
