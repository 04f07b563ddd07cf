"""The calibration as a file: exact, anonymous, and never trusted."""

import json

import numpy as np
import pytest
import torch

from zoo.decision import calibration as files
from zoo.decision.cases import group
from zoo.decision.conformal import p_values
from zoo.errors import UserError

MAPS = files.MapReference(0.5, [1.0] * 30, [0.0] * 30, np.linspace(0, 1, 1025).tolist())


def test_files_give_the_same_p_bit_for_bit(tmp_path, make_calibration):
    made = make_calibration(maps=MAPS)
    made.save(tmp_path / "001.json")
    read = files.load(tmp_path / "001.json")
    assert read == made
    assert read.digest() == made.digest()
    new = np.float32(np.linspace(-2, 2, 50))
    assert (p_values(read.scores, new) == p_values(made.scores, new)).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scores", [0.0] * 1_000_001, "scores should be a list of 1 to"),
        ("scores", [2.0, 1.0], "ascending"),
        ("scores", ["1"] * 30, "finite numbers"),
        ("scores", [float("nan")] * 30, "finite numbers"),
        ("scores", [10**400] * 30, "finite numbers"),
        ("scores", [True] * 30, "finite numbers"),
        ("scores", [], "scores should be"),
        ("images", [0] * 30, "positive"),
        ("groups", [1] * 30, "30 words"),
        ("statistics", {"mean": [1.0]}, "30 finite numbers"),
        ("case_score", "median", "one of max, mean, top_q"),
        ("case_score", ["max"], "one of max, mean, top_q"),
        ("format", 99, "format 99"),
        ("weights", 3, "words expected"),
        ("image_size", "32", "whole numbers"),
        ("maps", {"primary": 1.0}, "maps should hold"),
        ("maps", MAPS._asdict() | {"quantiles": [1.0, 0.0] * 512 + [0.0]}, "ascending"),
        ("extra", 1, "keys extra"),
    ],
)
def test_hostile_content_is_one_line(tmp_path, make_calibration, key, value, message):
    path = tmp_path / "001.json"
    path.write_text(json.dumps(make_calibration().plain() | {key: value}))
    with pytest.raises(UserError, match=message) as caught:
        files.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "NaN"])
def test_files_that_are_none(tmp_path, text):
    path = tmp_path / "001.json"
    path.write_text(text)
    with pytest.raises(UserError, match="damaged calibration"):
        files.load(path)


def test_other_weights_are_refused(make_calibration):
    model = torch.nn.Linear(3, 2)
    digest = files.weights_digest(model.state_dict())
    made = make_calibration(weights=digest)
    files.check(made, digest, (32, 32), "001.json")
    assert files.weights_digest(dict(reversed(model.state_dict().items()))) == digest
    with torch.no_grad():
        model.weight[0, 0] = torch.nextafter(model.weight[0, 0], torch.tensor(9.0))
    with pytest.raises(UserError, match=r"001.json belongs to other weights \([0-9a-f]{4}\.\.\., this checkpoint"):
        files.check(made, files.weights_digest(model.state_dict()), (32, 32), "001.json")
    with pytest.raises(UserError, match=r"calibrated at image size \[32, 32\], the model takes \[64, 64\]"):
        files.check(made, digest, (64, 64), "001.json")


def test_what_the_user_is_told(make_calibration):
    assert make_calibration(6).told() == (
        "calibrated on 6 healthy cases (held out): p-values from 0.143; no decision below level 0.143, 19 are needed "
        "for 5 %"
    )
    told = make_calibration(13, selected_by="ModelCheckpoint val/synthetic_pixel_ap", held_out=26, phantom=True).told()
    assert told.startswith("calibrated on 13 of 26 held-out cases: the others chose ModelCheckpoint")
    assert told.endswith("PHANTOM data: no statement on real images")


def test_case_scores():
    cases = ["b", "a", "b", "b", "a"]
    scores = [1.0, 5.0, 3.0, 2.0, 4.0]
    for rule, expected in (("max", [5, 3]), ("mean", [4.5, 2]), ("top_q", [5, 3])):
        found = group(cases, scores, rule)
        assert found.names == ["a", "b"]
        assert found.scores.tolist() == expected
        assert [sorted(one.tolist()) for one in found.members] == [[1, 4], [0, 2, 3]]
    assert group(["a"] * 20, list(range(20)), "top_q").scores[0] == 18.5
    assert group([], [], "max").names == []
