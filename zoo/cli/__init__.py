"""The commands ``lightning`` and ``zoo``: one program. Only the command that was asked for is imported."""

import contextlib
import errno
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from zoo.errors import UserError

_HELP = """\
usage: lightning COMMAND [options]          (`zoo` is the same program)

train and use a method
  fit | validate | test | predict    --config models/NAME --config data/NAME [--config trainer/NAME] [--key value ...]
                                     --run runs/NAME takes configuration and checkpoint of a run; fit --run resumes it
  calibrate --run runs/NAME --healthy DIR    decide by healthy cases that training never saw; --check DIR tries them
look around
  models [NAME]                      methods: family, paper, year, needs
  data list | get | phantom | check  data sets: expected files, download, generated stand-ins, examination
compare
  benchmark CONFIG --out DIR         methods x data sets x seeds, resumable
  report DIR ...                     tables and page of benchmark folders; the page of one run
  papers [SUITE]                     the papers' tables, the suites that repeat them, settings beside the stated ones
  doctor                             versions, GPU, disk, cache, optional packages, backbones; the mend for each gap
checkpoints
  import | export | push             original authors' files; ONNX, pt2, safetensors; Hugging Face layout

start:   lightning fit --config configs/quickstart.yaml
help:    lightning COMMAND --help    lightning fit --model.help NAME    lightning --version
"""

_FIT_HELP = """\
usage: lightning fit|validate|test|predict --config FILE_OR_NAME ... [--key value ...]

  --config models/fae --config data/folder    shipped names or files, merged left to right; options win
  --model NAME, --data NAME                   without a file, for example --model FAE --data Folder
  --model.KEY V, --data.KEY V, --trainer.KEY V    their arguments
  --data.root DIR            your data; without it a phantom is generated
  --trainer.max_steps N      or max_epochs, max_time
  --trainer.accelerator gpu  --trainer.devices 2  --trainer.precision bf16-mixed
  --seed_everything N        default 0
  --test_after_fit true      fit, then test
  --run FOLDER               configuration and checkpoint of a run; fit resumes it
  --input FILE_OR_FOLDER ... predict: what to score; also 'scans/*.png', with --run or --ckpt_path alone
  --predictions.maps npy|png|none    predict: form of the maps
  --predictions.formats [png,nifti,html,seg,sr,pm,sc]    predict: files beside the tables
  --decision.level 0.05      share of healthy cases that may be flagged    --decision.confidence 0.95
  --metrics.foreground_only true     --panels.count N     --last_checkpoint.minutes N
  --trainer.logger csv|tensorboard|wandb|mlflow|comet, or [csv,wandb]
  --trainer.default_root_dir DIR     runs are made here, default: runs
  --print_config             show the merged configuration

  lightning fit --model.help NAME    arguments of a method      lightning fit --data.help NAME    of a data set
  lightning fit --help all           everything, with Lightning's own options
"""

_COMMANDS = (
    "fit",
    "validate",
    "test",
    "predict",
    "calibrate",
    "models",
    "data",
    "benchmark",
    "report",
    "papers",
    "doctor",
    "import",
    "export",
    "push",
)


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None: of the process.

    Returns:
        int: 0 all well, 1 something failed, 2 a mistake of the user, told in at most six lines.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if argv[0] == "--version":
        import zoo

        print(f"uad-zoo {zoo.__version__}")
        return 0
    if argv[0] in ("fit", "validate", "test", "predict") and argv[1:] in (["-h"], ["--help"]):
        print(_FIT_HELP, end="")
        return 0
    try:
        with _listening():
            return _run(argv)
    except UserError as error:
        return _complain(str(error))
    except BrokenPipeError:  # the reader, `head` for example, has had enough
        return 0
    except OSError as error:
        if error.filename is None:
            traceback.print_exc()
            return 1
        return _complain(f"{error.filename}: {error.strerror or error}{_room(error)}")
    except _Terminated:
        print("interrupted", file=sys.stderr)
        return 143
    except SystemExit as error:  # argparse has told the mistake
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1


class _Terminated(SystemExit):
    """SIGTERM: files in the making are removed, and the program ends with 143."""


@contextlib.contextmanager
def _listening() -> Iterator[None]:
    """Let SIGTERM end the program as Ctrl-C does, unless somebody listens to it already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated(128 + number)


def _run(argv: list[str]) -> int:
    match argv[0]:
        case "fit" | "validate" | "test" | "predict":
            from zoo.cli import early

            early.check_call(argv)  # before a second and more goes into imports
            with _told_of_broken_packages():
                from zoo.cli import running

            return running.main(argv)
        case "models":
            from zoo.cli import models

            return models.main(argv[1:])
        case "data":
            from datamodules import commands

            return commands.main(argv[1:])
        case "benchmark" | "report":
            from zoo.cli import benchmark

            return benchmark.main(argv)
        case "papers":
            from zoo.cli import papers

            return papers.main(argv[1:])
        case "doctor":
            from zoo.cli import doctor

            return doctor.main(argv[1:])
        case "calibrate":
            from zoo.cli import calibrate

            return calibrate.main(argv[1:])
        case "import" | "export" | "push":
            from zoo.cli import checkpoints

            return checkpoints.main(argv)
        case _:
            raise UserError(_unknown_command(argv[0]))


@contextlib.contextmanager
def _told_of_broken_packages() -> Iterator[None]:
    """Say in a sentence which installed package cannot be imported."""
    try:
        yield
    except Exception as error:  # what a half-installed package raises
        frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        found = [Path(name).parts for name in frames if "site-packages" in Path(name).parts]
        package = getattr(error, "name", None) or (found[-1][found[-1].index("site-packages") + 1] if found else "?")
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the package {package} is missing or broken ({type(error).__name__}: {reason}): install it again, or "
            "uninstall it where it is optional"
        ) from error


def _room(error: OSError) -> str:
    """How much is left where a disk is full, and what to do."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    place = next((one for one in Path(error.filename).absolute().parents if one.is_dir()), Path("/"))
    return f" ({shutil.disk_usage(place).free >> 10:,} KiB are free in {place} now); free space or give another place"


def _complain(message: str) -> int:
    lines = [line for line in message.strip().splitlines() if line.strip()][:6]
    print("error: " + "\n".join(lines), file=sys.stderr)
    return 2


def _unknown_command(word: str) -> str:
    from zoo.registry import nearest

    if word.startswith("-"):
        return f"options come after the command: lightning fit {word} ...; commands: {', '.join(_COMMANDS)}"
    close = nearest(word, _COMMANDS)
    return f"unknown command '{word}'; {'nearest' if close else 'known'}: {', '.join(close or _COMMANDS)}"
