"""From a fit to decisions and files, on tiny pictures."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo import load_pretrained
from zoo.cli import main
from zoo.decision import calibration as files
from zoo.decision.conformal import p_values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty patients with two pictures to train on, six healthy and six ill ones to test."""
    root = tmp_path_factory.mktemp("patients")
    rng = np.random.default_rng(0)
    for part, count in (("train/normal", 60), ("test/normal", 6), ("test/anomalous", 6)):
        for patient in range(count):
            for number in range(2):
                picture = np.kron(rng.integers(60, 160, (4, 4)), np.ones((8, 8))) + rng.normal(0, 8, (32, 32))
                if part == "test/anomalous":
                    picture[8:20, 10:24] = 250
                path = root / part / f"{part.replace('/', '-')}{patient:02d}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A fitted and tested run."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = ["--model", "Statistical", "--data", "Folder", "--data.root", str(folder), "--data.image_size", "32"]
    arguments += ["--data.case_pattern", "([^/]+)_[0-9]", "--trainer.default_root_dir", str(runs)]
    assert main(["fit", *arguments, "--test_after_fit", "true", "--trainer.accelerator", "cpu"]) == 0
    return next(runs.iterdir())


def _rows(path):
    return list(csv.DictReader(path.open()))


def test_fit_calibrates_and_tests_at_the_threshold(run):
    header = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["uad_zoo"]
    found = files.from_plain(header["calibration"], "x")
    assert len(found) == 20
    assert found.images == [2] * 20
    assert found.source == "held out"
    assert "train" not in json.dumps(header["calibration"])
    decision = json.loads((run / "metrics.json").read_text())["decision"]
    assert decision["cases"] == 12
    assert decision["sensitivity"]["value"] == 1
    assert decision["false_alarms"]["healthy"] == 6
    assert decision["qq"]["healthy"] == 6
    assert len(decision["worst"]["healthy"]) == 5


def test_prediction_decides_by_case_and_writes_what_people_open(run, folder, capsys):
    assert main(["predict", "--run", str(run), "--input", str(folder / "test" / "anomalous")]) == 0
    told = capsys.readouterr().out
    assert "6 cases: 6 flagged" in told
    made = max(run.glob("predictions-*"))
    cases = _rows(made / "cases.csv")
    assert [row["case"] for row in cases] == [f"test-anomalous{n:02d}" for n in range(6)]
    assert {row["images"] for row in cases} == {"2"}
    assert {float(row["p_value"]) for row in cases} == {1 / 21}
    assert {row["decision"] for row in cases} == {"flagged"}
    scores = _rows(made / "scores.csv")
    assert list(scores[0])[:5] == ["id", "anomaly_score", "map", "map_min", "map_max"]
    assert scores[0]["p_value"] == ""  # a case of two images has no p by image
    components = _rows(made / "components.csv")
    assert {row["component"] for row in components} >= {"1"}
    first = components[0]
    assert (first["size_unit"], first["space"]) == ("pixels", "pixels")
    assert 8 < float(first["y"]) < 20
    assert 10 < float(first["x"]) < 24
    assert Image.open(made / "overlays" / scores[0]["id"]).size[0] >= 360
    page = (made / "predictions.html").read_text()
    assert "test-anomalous00" in page
    decision = json.loads((made / "decision.json").read_text())
    assert decision["counts"]["flagged"] == 6
    assert decision["calibration"]["digest"]
    assert not list(made.glob(".gathered*"))


def test_page_of_the_run(run, tmp_path, capsys):
    assert main(["report", str(run), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    for part in ("At the calibrated threshold", "Worst cases", "Healthy p-values", "data:image/png", "sensitivity"):
        assert part in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert main(["report", str(tmp_path)]) == 2


def test_batches_of_any_size_decide_alike(run, folder, tmp_path):
    texts = []
    for size in ("1", "7"):
        out = tmp_path / size
        command = ["predict", "--run", str(run), "--input", str(folder / "test"), "--predictions.folder", str(out)]
        assert main([*command, "--data.batch_size", size]) in (0, 2)
        if not (out / "cases.csv").exists():
            pytest.skip("the run's batch size cannot be changed in this version")
        texts.append((out / "cases.csv").read_text())
    assert texts[0] == texts[1]


def test_levels_that_are_impossible_end_with_2(run, folder, capsys):
    command = ["predict", "--run", str(run), "--input", str(folder / "test"), "--decision.level", "0.01"]
    assert main(command) == 2
    assert "no decision at level 0.01: 20 calibration cases give p-values of at least 0.048" in capsys.readouterr().err


def test_calibrate_for_another_site_and_check(run, folder, capsys, tmp_path):
    healthy = tmp_path / "healthy"
    shutil.copytree(folder / "train" / "normal", healthy)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert main(["calibrate", "--run", str(copy), "--healthy", str(healthy)]) == 0
    assert main(["calibrate", "--run", str(copy)]) == 0
    assert [path.name for path in sorted((copy / "calibrations").iterdir())] == ["001.json", "002.json"]
    assert len(files.load(copy / "calibrations" / "001.json")) == 60
    assert main(["calibrate", "--run", str(copy), "--check", str(healthy)]) == 0
    assert "the calibration fits" in capsys.readouterr().out
    assert main(["calibrate", "--run", str(copy), "--check", str(folder / "test" / "anomalous")]) == 1
    assert main(["calibrate", "--run", str(copy), "--healthy", "/nowhere"]) == 2


def test_cross_conformal_by_hand(run, folder, capsys, tmp_path):
    """Each fold's model, fitted without it, scores every new case; the ranks add up."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("predictions-*", "test-*"))
    assert main(["calibrate", "--run", str(copy), "--cross", "4"]) == 0
    assert "cross-conformal with 4 models: guaranteed at twice the level" in capsys.readouterr().out
    known = files.load(copy / "calibrations" / "001.json")
    assert len(known) == 60
    assert [known.folds.count(fold) for fold in range(4)] == [15] * 4
    models = [load_pretrained(copy / "calibrations" / "001-folds" / f"{fold}.ckpt") for fold in range(4)]
    assert len(set(known.members)) == 4
    assert main(["predict", "--run", str(copy), "--input", str(folder / "test")]) == 0
    cases = {row["case"].rpartition("/")[2]: row for row in _rows(copy / "predictions-001" / "cases.csv")}
    assert len(cases) == 12
    held = known.by_fold(np.ones(60, bool))
    for name in ("test-normal00", "test-normal05", "test-anomalous03"):
        files_of = sorted((folder / "test" / name[5:-2]).glob(f"{name}_*"))
        batch = torch.from_numpy(
            np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in files_of])[:, None]
        )
        scores = [float(model(batch).anomaly_score.max()) for model in models]
        p = (1 + sum(int((own >= score).sum()) for own, score in zip(held, scores, strict=True))) / 61
        assert float(cases[name]["p_value"]) == pytest.approx(p, abs=1.01 / 61)  # pixels are stored in 16 bits
    assert all(cases[f"test-anomalous{n:02d}"]["decision"] == "flagged" for n in range(6))
    decision = json.loads((copy / "predictions-001" / "decision.json").read_text())
    assert decision["guaranteed_false_positive_rate"] == 0.1
    assert decision["threshold"] is None
    assert main(["test", "--run", str(copy)]) == 0
    told = json.loads((copy / "test-001" / "metrics.json").read_text())["decision"]
    assert told["n"] == 60
    assert told["sensitivity"]["value"] == 1
    assert main(["calibrate", "--run", str(copy), "--check", str(folder / "train" / "normal")]) == 0
    assert main(["calibrate", "--run", str(copy), "--check", str(folder / "test" / "anomalous")]) == 1
    capsys.readouterr()
    asked = ["predict", "--run", str(copy), "--input", str(folder / "test"), "--decision.confidence", "0.9"]
    assert main(asked) == 2
    assert "no bound is known for a cross-conformal calibration" in capsys.readouterr().err
    shutil.copy(copy / "calibrations/001-folds/0.ckpt", copy / "calibrations/001-folds/1.ckpt")
    assert main(asked[:-2]) == 2
    assert "1.ckpt: other weights than the calibration's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cross", "61"], "needs 2 to 60 folds, there are 60 healthy cases"),
        (["--cross", "3", "--healthy", "x"], "give one of them, not --healthy and --cross"),
    ],
)
def test_cross_calibrations_that_cannot_be(run, options, words, capsys):
    assert main(["calibrate", "--run", str(run), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (run / "calibrations").exists()


def test_methods_trained_by_gradients_are_not_crossed(folder, tmp_path, capsys):
    arguments = ["--model", "Autoencoder", "--data", "Folder", "--data.root", str(folder), "--data.image_size", "32"]
    arguments += ["--model.hidden_dims", "[4,8]", "--model.latent_dim", "4", "--trainer.max_steps", "1"]
    assert main(["fit", *arguments, "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]) == 0
    run = next(tmp_path.iterdir())
    assert main(["calibrate", "--run", str(run), "--cross", "3"]) == 2
    assert "is trained by gradients" in capsys.readouterr().err


def test_other_weights_are_refused_by_predict(run, folder, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    name = next(key for key, value in content["state_dict"].items() if value.is_floating_point() and value.numel())
    flat = content["state_dict"][name].reshape(-1)
    flat[0] = flat[0] + 1e-3
    torch.save(content, path)
    command = ["predict", "--run", str(copy), "--input", str(folder / "test" / "anomalous")]
    assert main([*command, "--decision.level", "0.05"]) == 2
    assert "belongs to other weights" in capsys.readouterr().err
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "6 not decided" in told
    assert "belongs to other weights" in told


def test_safetensors_and_pushed_folders_keep_it(run, tmp_path):
    before = load_pretrained(run / "checkpoints" / "last.ckpt").calibration
    assert main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "a")]) == 0
    assert main(["push", str(run), "--out", str(tmp_path / "b")]) == 0
    for name in ("a", "b"):
        assert load_pretrained(tmp_path / name).calibration == before


def test_runs_that_hold_nothing_out_say_so(folder, tmp_path, capsys):
    arguments = ["--model", "Statistical", "--data", "Folder", "--data.root", str(folder), "--data.image_size", "32"]
    arguments += ["--data.val_fraction", "0", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *arguments, "--trainer.accelerator", "cpu"]) == 0
    run = next(tmp_path.iterdir())
    assert f"zoo calibrate --run {run} --healthy DIR" in capsys.readouterr().out
    assert main(["predict", "--run", str(run), "--input", str(folder / "test" / "normal")]) == 0
    assert "12 not decided" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_exported_graphs_decide_without_this_package(run, tmp_path, form):
    path = tmp_path / f"model.{form}"
    command = ["export", str(run), "--format", form, "--out", str(path), "--outputs", "score,map,p_value"]
    assert main(command) == 0
    model = load_pretrained(run)
    image = torch.rand(5, model.in_channels, *model.image_size)
    score = model(image).anomaly_score
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = dict(
            zip([one.name for one in session.get_outputs()], session.run(None, {"image": image.numpy()}), strict=True)
        )
        told = session.get_modelmeta().custom_metadata_map
        kept = json.loads(told["uad_zoo.calibration"])
        assert json.loads(told["uad_zoo.image_size"]) == list(model.image_size)
    else:
        extra = {"uad_zoo.json": ""}
        program = torch.export.load(path, extra_files=extra)
        values = [one.detach().numpy() for one in program.module()(image)]
        found = dict(zip(("anomaly_score", "anomaly_map", "p_value"), values, strict=True))
        kept = json.loads(extra["uad_zoo.json"])["calibration"]
    p = p_values(model.calibration.scores, score.double().numpy()).astype(np.float32)
    assert (found["p_value"] == p).all()
    assert kept["scores"] == model.calibration.scores
    assert kept["threshold"] == kept["scores"][-1]
    assert kept["digest"] == model.calibration.digest()


def test_groups_are_calibrated_and_told_by_themselves(folder, tmp_path):
    arguments = ["--model", "Statistical", "--data", "Folder", "--data.root", str(folder), "--data.image_size", "32"]
    arguments += ["--data.case_pattern", "([^/]+)_[0-9]", "--data.group_pattern", "([0-9])_[0-9]"]
    arguments += ["--test_after_fit", "true", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *arguments, "--trainer.accelerator", "cpu"]) == 0
    run = next(tmp_path.iterdir())
    assert len({*load_pretrained(run).calibration.groups}) > 1
    groups = json.loads((run / "metrics.json").read_text())["decision"]["subgroups"]
    assert [row["group"] for row in groups] == [str(digit) for digit in range(6)]
    assert groups[0]["sensitivity"]["value"] == 1
    assert main(["predict", "--run", str(run), "--input", str(folder / "test" / "anomalous")]) == 0
    cases = _rows(run / "predictions-001" / "cases.csv")
    assert cases[3]["group"] == "3"
    assert "all groups used" in cases[3]["note"]


@pytest.mark.parametrize("mode", ["slices", "volumes"])
def test_maps_of_resampled_volumes_lie_in_their_files(mode, tmp_path):
    """BrainMRI cuts, turns and resamples: percentile map and mask have the file's grid and header all the same."""
    import nibabel

    arguments = ["--model", "Statistical", "--data", "BrainMRI", "--data.mode", mode, "--data.val_fraction", "0.5"]
    arguments += ["--data.image_size", "60" if mode == "slices" else "[40,56,40]", "--panels.count", "0"]
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    assert main(["fit", *arguments]) == 0
    run = next(tmp_path.iterdir())
    assert main(["predict", "--run", str(run), "--predictions.maps", "none"]) == 0
    made = run / "predictions-001"
    masks = sorted(made.glob("nifti/**/*_mask.nii.gz"))
    assert len(masks) == len(sorted(made.glob("nifti/**/*_percentile.nii.gz"))) > 1
    from datamodules import BrainMRI

    data = BrainMRI(mode=mode)
    data.setup()
    sources = {Path(record.id).name.split(".")[0]: record.image for record in data.records if record.split == "test"}
    percentile = nibabel.load(next(made.glob("nifti/**/*_percentile.nii.gz")))
    source = nibabel.load(sources[Path(percentile.get_filename()).name.removesuffix("_percentile.nii.gz")])
    assert percentile.shape == source.shape
    assert (percentile.affine == source.affine).all()
    brain, values = source.get_fdata() != 0, percentile.get_fdata()
    assert values.max() > 99
    assert values[brain].mean() > 2 * values[~brain].mean()  # they lie on the brain


def test_images_of_a_bids_data_set_become_a_derivative(tmp_path):
    import nibabel

    rng = np.random.default_rng(0)

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(rng.random((8, 8, 3), np.float32), np.diag([1.0, 1, 2, 1])), path)

    for number in range(60):
        write(tmp_path / "data" / "train" / "normal" / f"{number:02d}.nii.gz")
    raw = tmp_path / "raw"
    for name in (
        "sub-01/anat/sub-01_T1w",
        "sub-01/anat/sub-01_T2w",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w",
        "sub-03/odd",
    ):
        write(raw / f"{name}.nii.gz")
    (raw / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.9.0"}')
    arguments = ["--model", "Statistical", "--data", "Folder", "--data.root", str(tmp_path / "data")]
    arguments += ["--data.image_size", "8", "--trainer.accelerator", "cpu"]
    assert main(["fit", *arguments, "--trainer.default_root_dir", str(tmp_path / "runs")]) == 0
    run = next((tmp_path / "runs").iterdir())
    assert main(["predict", "--run", str(run), "--input", str(raw), "--predictions.formats", "[nifti]"]) == 0
    made = run / "predictions-001"
    derived = made / "derivatives" / "uad-zoo"
    assert sorted(path.relative_to(derived).as_posix() for path in derived.rglob("*.nii.gz")) == [
        "sub-01/anat/sub-01_desc-anomalyT2w_mask.nii.gz",
        "sub-01/anat/sub-01_desc-anomaly_mask.nii.gz",
        "sub-01/anat/sub-01_desc-anomalypercentile_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-anomalypercentile_T2w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_desc-anomaly_mask.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_desc-anomalypercentile_T1w.nii.gz",
    ]
    about = json.loads((derived / "dataset_description.json").read_text())
    assert (about["DatasetType"], about["GeneratedBy"][0]["Name"]) == ("derivative", "uad-zoo")
    sidecar = json.loads((derived / "sub-02/ses-1/anat/sub-02_ses-1_desc-anomaly_mask.json").read_text())
    assert sidecar == {"Type": "Lesion", "Sources": ["bids:raw:sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz"]}
    assert len(list(made.glob("nifti/**/odd_*.nii.gz"))) == 2
