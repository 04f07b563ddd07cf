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
from benchmarks.runner import Limits, exclusive, is_done, prepare, read_status, run_local, visible_gpus
from zoo.errors import UserError

GOOD = "import json, sys; json.dump({'metrics': {'image_auroc': 0.5}}, open(sys.argv[1] + '/metrics.json', 'w'))"
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
    return [one.name for one in failed], events


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
        "worker = 'import time; from benchmarks.cell import die_with_parent; die_with_parent(); "
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
    assert failed == ["full--data--0"]
    assert "No space left" in read_status(tmp_path / "cells/full--data--0")["reason"]


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
    assert failed == [member.name, ensemble.name]
    assert member.name in read_status(tmp_path / "cells" / ensemble.name)["reason"]


def test_cells_get_only_the_gpus_that_were_left(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
