"""Cells survive anything: crashes, time, memory, kills, damage, changes; nothing finished is lost or run twice."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.plan import Cell
from benchmarks.resources import gpus_wanted, kill, memory_gb, process_tree, take_gpus, visible_gpus
from benchmarks.runner import Limits, exclusive, finish, is_done, prepare, read_status, run_local
from zoo.errors import UserError

GOOD = (
    "import json, sys; json.dump({'metrics': {'image_auroc': 0.5}}, open(sys.argv[1] + '/metrics.json', 'w')); "
    "open(sys.argv[1] + '/scores.csv', 'w').write('id,subject,label,score\\na,,0,0.5\\nb,,1,0.7\\n')"
)
ROOT = Path(__file__).parents[2]


def cell(name, seed=0, fingerprint="same"):
    return Cell(name, "data", seed, {"seed_everything": seed}, fingerprint)


def python(programs):
    """A command per cell: the program of its method, with the folder as argument."""

    def command(folder):
        return [sys.executable, "-c", textwrap.dedent(programs[folder.name.split("--")[0]]), str(folder)]

    return command


def run(cells, out, programs, limits=Limits(), workers=2):  # noqa: B008
    events = []
    failed = run_local(cells, out, limits, workers, lambda *event: events.append(event), python(programs))
    return failed, events


def test_failures_stay_in_their_cell(tmp_path):
    programs = {
        "good": GOOD,
        "raises": "raise ValueError('3 of 9 scores are NaN or infinite')",
        "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "eaten": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "silent": "pass",
        "hangs": "import time; time.sleep(60)",
        "hoards": "import time; x = bytearray(400_000_000); time.sleep(60)",
    }
    failed, _ = run([cell(name) for name in programs], tmp_path, programs, Limits(3.0, 0.3), 3)
    assert sorted(failed) == sorted(f"{name}--data--0" for name in programs if name != "good")
    reasons = {name: read_status(tmp_path / "cells" / f"{name}--data--0") for name in programs}
    assert reasons["good"]["status"] == "done"
    for name, words in {
        "raises": "3 of 9 scores",
        "crashes": "SIGSEGV",
        "eaten": "out of memory?",
        "silent": "without metrics",
        "hangs": "took longer",
        "hoards": "0.3 GB",
    }.items():
        assert reasons[name]["status"] == "failed"
        assert words in reasons[name]["reason"], name
    assert "Traceback" in (tmp_path / "cells/raises--data--0/log.txt").read_text()


def test_done_means_same_fingerprint_and_readable_metrics(tmp_path):
    one = cell("good")
    run([one], tmp_path, {"good": GOOD})
    folder = tmp_path / "cells" / one.name
    assert is_done(folder, one)
    assert not is_done(folder, one._replace(fingerprint="other"))
    content = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(content[:5])
    assert not is_done(folder, one)
    (folder / "metrics.json").write_text(content)
    assert is_done(folder, one)
    scores = (folder / "scores.csv").read_text()
    for damage in ("", scores[:-4], scores.replace("0.7", "nan"), scores.replace("id,", "name,"), "id\x00"):
        (folder / "scores.csv").write_text(damage)
        assert not is_done(folder, one), damage
    (folder / "scores.csv").write_text(scores)
    (folder / "status.json").write_text("{")
    assert not is_done(folder, one)


def test_interrupted_cells_keep_their_checkpoint_unless_changed_or_damaged(tmp_path):
    import torch

    one, folder = cell("good"), tmp_path / "cells" / "good--data--0"
    prepare(folder, one)
    (folder / "checkpoints").mkdir()
    checkpoint = folder / "checkpoints" / "last.ckpt"
    torch.save({"step": 3}, checkpoint)
    prepare(folder, one)
    assert checkpoint.exists()
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    prepare(folder, one)
    assert not checkpoint.exists()
    (folder / "checkpoints").mkdir()
    torch.save({"step": 3}, checkpoint)
    prepare(folder, one._replace(fingerprint="other"))
    assert not checkpoint.exists()
    (folder / "checkpoints").mkdir()
    torch.save({"weights": torch.zeros(4000)}, checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1  # the archive is whole, a tensor in it is not
    checkpoint.write_bytes(content)
    prepare(folder, one._replace(fingerprint="other"))
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("reason", "resumed"),
    [("took longer than 5 minutes", True), ("killed by SIGKILL", True), ("ValueError: loss is NaN", False)],
)
def test_a_retried_cell_resumes_unless_it_failed_by_itself(tmp_path, reason, resumed):
    import torch

    one, folder = cell("good"), tmp_path / "cells" / "good--data--0"
    prepare(folder, one)
    (folder / "checkpoints").mkdir()
    torch.save({"step": 3}, folder / "checkpoints" / "last.ckpt")
    finish(folder, one, reason)
    prepare(folder, one)
    assert (folder / "checkpoints" / "last.ckpt").exists() == resumed


def test_two_runners_and_unwritable_folders(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from benchmarks.runner import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lb")], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"in use by process {other.pid}"), exclusive(tmp_path / "lb"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with exclusive(tmp_path / "lb"):  # the lock goes with its owner
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), exclusive(tmp_path / "file"):
        pass


def test_a_killed_runner_takes_its_workers_along(tmp_path):
    """The worker module dies with its parent, so that a second runner does not meet it."""
    (tmp_path / "cell").mkdir()
    code = (
        "import ctypes, signal, sys, subprocess, time\n"
        "worker = 'import time; from zoo.cli.cell import die_with_parent; die_with_parent(); "
        "print(1, flush=True); time.sleep(60)'\n"
        "p = subprocess.Popen([sys.executable, '-c', worker], start_new_session=True)\n"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    lines = {runner.stdout.readline().strip(), runner.stdout.readline().strip()}
    worker = max(int(line) for line in lines)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived its runner")


def test_full_disk_fails_the_cell_alone(tmp_path):
    programs = {
        "full": "open('/dev/full', 'w').write('x' * 10_000_000)",
        "good": GOOD,
    }
    failed, _ = run([cell("full"), cell("good")], tmp_path, programs)
    assert list(failed) == ["full--data--0"]
    assert "No space left" in failed["full--data--0"]


def test_cells_share_the_workers(tmp_path):
    programs = {"slow": f"import time; time.sleep(0.5); {GOOD}"}
    cells = [cell("slow", seed) for seed in range(4)]
    start = time.monotonic()
    failed, events = run(cells, tmp_path, programs, workers=4)
    assert not failed
    assert time.monotonic() - start < 1.9  # one after the other would take two seconds
    assert [event[1] for event in events].count("done") == 4
    assert json.loads((tmp_path / "cells/slow--data--0/status.json").read_text())["fingerprint"] == "same"


def test_ensemble_of_a_failed_member_is_not_made(tmp_path):
    member = cell("half")
    ensemble = cell("good")._replace(method="ensemble", needs=(member.name,))
    programs = {"half": "raise ValueError('stopped')", "ensemble": GOOD}
    failed, _ = run([member, ensemble], tmp_path, programs)
    assert list(failed) == [member.name, ensemble.name]
    assert member.name in read_status(tmp_path / "cells" / ensemble.name)["reason"]


def test_runner_survives_a_full_disk(tmp_path):
    """The runner's own status.json does not fit: the cell is named as failed, and is run again when there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    fill = "from pathlib import Path; Path(sys.argv[1], '../../fill').open('wb', 0).write(b'x' * 10_000_000)"
    try:
        programs = {"good": GOOD, "greedy": f"{GOOD}\n{fill}"}
        failed, events = run([cell("good"), cell("greedy"), cell("good", 1)], disk, programs, workers=1)
        assert set(failed) == {"greedy--data--0", "good--data--1"}
        assert all("No space left" in reason for reason in failed.values())
        assert [event[1] for event in events if event[1] != "running"] == ["done", "failed", "failed"]
        assert is_done(disk / "cells/good--data--0", cell("good"))
        assert not is_done(disk / "cells/greedy--data--0", cell("greedy"))
        assert not list(disk.glob("cells/*/*.partial"))
        (disk / "fill").unlink()
        programs["greedy"] = GOOD
        assert run([cell("greedy"), cell("good", 1)], disk, programs, workers=1)[0] == {}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_runner_survives_a_cell_that_it_cannot_write(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "blocked--data--0").write_text("a file where the folder should be")
    failed, events = run([cell("blocked"), cell("good")], tmp_path, {"good": GOOD, "blocked": GOOD})
    assert list(failed) == ["blocked--data--0"]
    assert "cannot write" in failed["blocked--data--0"]
    assert [event[1] for event in events if event[0].method == "good"][-1] == "done"


def test_read_only_folder_is_told(tmp_path):
    (tmp_path / "lb").mkdir(mode=0o555)
    before = os.geteuid()
    if before == 0:  # the superuser may write anywhere
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="cannot be written"), exclusive(tmp_path / "lb"):
            pass
    finally:
        os.seteuid(before)


def test_memory_of_all_processes_counts(tmp_path):
    child = "import time; x = bytearray(150_000_000); time.sleep(60)"
    programs = {"parent": f"import subprocess, sys; p = [subprocess.Popen([sys.executable, '-c', {child!r}], "
                          "start_new_session=n == 1) for n in range(3)]; [one.wait() for one in p]"}  # fmt: skip
    failed, _ = run([cell("parent")], tmp_path, programs, Limits(30.0, 0.3))
    assert "0.3 GB" in failed["parent--data--0"]
    leftover = subprocess.run(["pgrep", "-f", "bytearray.150_000_000"], capture_output=True, text=True, check=False)
    assert leftover.stdout == ""


def test_shared_memory_counts_once():
    code = (
        "import os, time; x = bytearray(os.urandom(1)) * 120_000_000\n"
        "for _ in range(3): os.fork() or time.sleep(60)\nprint(1, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline() == b"1\n"
        assert len(process_tree(process.pid)) == 4
        assert memory_gb(process.pid, limit=100) > 0.45
        assert memory_gb(process.pid, limit=0.1) < 0.25
    finally:
        kill(process)


def test_what_a_dead_cell_leaves_behind_is_ended(tmp_path):
    child = "import time; time.sleep(61.25)"
    programs = {"crash": f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); os.abort()"}
    failed, _ = run([cell("crash")], tmp_path, programs)
    assert "SIGABRT" in failed["crash--data--0"]
    time.sleep(0.1)
    leftover = subprocess.run(["pgrep", "-f", "sleep.61.25"], capture_output=True, text=True, check=False)
    assert leftover.stdout == ""


def test_cells_get_only_the_gpus_that_were_left(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({}, 1),
        ({"accelerator": "cpu", "devices": 4}, 0),
        ({"accelerator": "gpu", "devices": 2}, 2),
        ({"accelerator": "cuda", "devices": "2"}, 2),
        ({"devices": [0, 1, 2]}, 3),
        ({"devices": -1}, 4),
        ({"devices": "auto"}, 1),
    ],
)
def test_gpus_that_a_cell_wants(trainer, wanted):
    assert gpus_wanted(trainer, 4) == wanted


def test_gpus_are_shared_by_small_cells_and_held_by_large_ones():
    four = ["0", "1", "2", "3"]
    assert take_gpus(1, four, [["0"], ["1"]]) == ["2"]
    assert take_gpus(1, ["0", "1"], [["0"], ["1"], ["0"]]) == ["1"]
    assert take_gpus(2, four, [["0"]]) == ["1", "2"]
    assert take_gpus(3, four, [["0"], ["1"]]) is None
    assert take_gpus(1, ["0", "1"], [["0", "1"]]) is None
    assert take_gpus(0, four, [["0", "1", "2", "3"]]) == []


@pytest.mark.parametrize(("wanted", "threads"), [("", "5"), ("3", "3"), ("9", "5")])
def test_each_cell_sees_its_gpus_cores_and_no_slurm_ranks(tmp_path, monkeypatch, wanted, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    told = "import os, time; time.sleep(0.3); print(*(os.environ[k] for k in " \
           "('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'SLURM_JOB_NAME')), flush=True)\n" + GOOD  # fmt: skip
    cells = [cell("one"), cell("two"), cell("cpu"), cell("many")]
    for one, devices in zip(cells, (1, 2, 1, 4), strict=True):
        one.config["trainer"] = {"accelerator": "cpu" if one.method == "cpu" else "gpu", "devices": devices}
    events = []
    failed = run_local(
        cells, tmp_path, Limits(), 3, lambda *event: events.append(event), python(dict.fromkeys(
            ("one", "two", "cpu", "many"), told)), cores=5,
    )  # fmt: skip
    assert failed == {"many--data--0": "asks for 4 GPUs (trainer.devices), there are 3"}
    seen = {one.method: (tmp_path / "cells" / one.name / "log.txt").read_text().split() for one in cells[:3]}
    expected = {"one": ["4", threads], "two": ["5,6", threads], "cpu": [threads]}
    assert seen == {name: [*words, "interactive"] for name, words in expected.items()}


def test_stopping_lets_cells_save(tmp_path):
    saver = (
        "import signal, sys, time\n"
        "def save(*_): open(sys.argv[1] + '/saved', 'w').close(); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, save); open(sys.argv[1] + '/ready', 'w').close(); time.sleep(60)"
    )
    folder = tmp_path / "cells" / "saver--data--0"

    def interrupt(*_):
        for _ in range(200):
            if (folder / "ready").exists():
                raise KeyboardInterrupt
            time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt):
        run_local([cell("saver")], tmp_path, Limits(), 1, interrupt, python({"saver": saver}))
    assert (folder / "saved").exists()
    assert read_status(folder)["status"] == "running"  # the next runner resumes it


def test_progress_reaches_the_runner(tmp_path):
    told = "import json, sys, time; open(sys.argv[1] + '/progress.json', 'w').write(json.dumps({'stage': 'fit'})); " \
           "time.sleep(1.2)\n" + GOOD  # fmt: skip
    failed, events = run([cell("told")], tmp_path, {"told": told})
    assert not failed
    assert {"stage": "fit"} in [event[2] for event in events]
    assert not (tmp_path / "cells/told--data--0/progress.json").exists()


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_a_cell_killed_from_outside_goes_on(tmp_path, signal_name):
    """Twice killed, then well; a third time would be its end."""
    killed = (
        "import os, signal, sys\nfrom pathlib import Path\nseen = Path(sys.argv[1], 'seen')\n"
        "count = len(seen.read_text()) if seen.exists() else 0\nseen.write_text('x' * (count + 1))\n"
        f"if count < int({{0}}): os.kill(os.getpid(), signal.{signal_name})\n"
    )
    programs = {"twice": killed.format(2) + textwrap.dedent(GOOD), "always": killed.format(9)}
    failed, _ = run([cell("twice"), cell("always")], tmp_path, programs)
    assert failed == {"always--data--0": read_status(tmp_path / "cells" / "always--data--0")["reason"]}
    assert failed["always--data--0"].startswith(f"killed by {signal_name}")
    assert (tmp_path / "cells" / "always--data--0" / "seen").read_text() == "xxx"
