"""``zoo import``, ``zoo export`` and ``zoo push``."""

import argparse
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.files import made, write_text

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


def main(argv: list[str]) -> int:
    """Run one of the commands.

    Args:
        argv: ``import``, ``export`` or ``push`` and their arguments.

    Raises:
        UserError: a source that cannot be read, or a method that cannot be exported.
        SystemExit: usage, code 2.
    """
    arguments = _parser().parse_args(argv)
    return {"import": _import, "export": _export, "push": _push}[arguments.command](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo")
    commands = parser.add_subparsers(dest="command", required=True)
    take = commands.add_parser("import", help="make a checkpoint of this package from the original authors' file")
    take.add_argument("source", metavar="SOURCE", help="local file, https://, hf:// or wandb://")
    take.add_argument("--format", default="auto", help="auto, or a format: fae, mae, many_tasks, timm")
    take.add_argument("--model", help="method, where several read the format, or around a backbone (timm)")
    take.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="argument of the method, over the file's"
    )
    take.add_argument("--output", "--out", required=True, metavar="FILE", help="new .ckpt")
    take.add_argument("--image_size", type=int, nargs="+", help="where the file does not tell it")
    give = commands.add_parser("export", help="a trained model as ONNX, torch.export program or safetensors")
    give.add_argument("source", metavar="CKPT", help="checkpoint, run folder or any source of zoo.load_pretrained")
    give.add_argument("--format", required=True, choices=("onnx", "pt2", "safetensors"))
    give.add_argument("--outputs", default="score,map", metavar="LIST", help="score,map (default) or score,map,p_value")
    give.add_argument("--output", "--out", required=True, metavar="FILE", help="new file (safetensors: new folder)")
    push = commands.add_parser("push", help="a run as a folder in Hugging Face layout, with a model card")
    push.add_argument("source", metavar="RUN", help="run folder, or a checkpoint")
    push.add_argument("--output", "--out", required=True, metavar="DIR", help="new folder")
    for command in (give, push):
        command.add_argument(
            "--trust", action="store_true", help="import the module of a method from outside of this package"
        )
    push.add_argument("--repo", help="OWNER/NAME on the hub to upload the folder to")
    push.add_argument(
        "--licence", help="licence of the weights, for the card; default: the imported file's, or unknown"
    )
    return parser


def _import(arguments: argparse.Namespace) -> int:
    log, handler = logging.getLogger("zoo"), logging.StreamHandler(sys.stdout)
    log.setLevel(logging.INFO)
    log.addHandler(handler)  # tells which tensors were filled, new or ignored
    try:
        return _make_checkpoint(arguments)
    finally:
        log.removeHandler(handler)


def _make_checkpoint(arguments: argparse.Namespace) -> int:
    from zoo.checkpoints.importing import import_checkpoint
    from zoo.checkpoints.saving import save_checkpoint

    size = arguments.image_size
    more: dict[str, Any] = {} if size is None else {"image_size": size[0] if len(size) == 1 else tuple(size)}
    output = _new(arguments.output)
    more |= dict(_setting(text) for text in arguments.set)
    model = import_checkpoint(arguments.source, arguments.format, arguments.model, **more)
    if arguments.format != "timm":  # around a backbone the method still has to be fitted
        _try(model, arguments.source)
    save_checkpoint(model, output)
    print(f"{model.method().name}, images of {model.in_channels} x {model.image_size}: {output}")
    if arguments.format == "timm" and "weights" in model.hparams:
        print(f"only its backbone is filled; to fit the method: lightning fit ... --model.weights {arguments.source}")
    return 0


def _try(model: "AnomalyModule", source: str) -> None:
    """One blank image through the model, so that arguments that cannot be right are told before a file is written."""
    import torch

    try:
        prediction = model.eval()(torch.zeros(1, model.in_channels, *model.image_size))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        told = f"{source}: the model cannot be run with these arguments (--set, --image_size): {reason}"
        raise UserError(told) from error
    if not torch.isfinite(prediction.anomaly_score).all():
        raise UserError(f"{source}: the score of a blank image is not finite; the file or the arguments are wrong")


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"--set {text}: expected NAME=VALUE, for example --set heads=12")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is no number, word or [list]") from error
    return name, tuple(found) if isinstance(found, list) else found


def _export(arguments: argparse.Namespace) -> int:
    from zoo.checkpoints.exporting import export

    output = _new(arguments.output)
    if arguments.format == "pt2" and output.suffix != ".pt2":  # torch refuses other names when they are loaded
        raise UserError(f"--output {output}: a pt2 file's name ends in .pt2")
    card = output / "README.md" if arguments.format == "safetensors" else _new(f"{output}.md")
    model = _loaded(arguments)
    if arguments.outputs not in ("score,map", "score,map,p_value"):
        raise UserError(f"--outputs {arguments.outputs}: expected score,map or score,map,p_value")
    export(model, arguments.format, output, with_p_value=arguments.outputs.endswith("p_value"))
    _write_card(model, card, use=_USE.get(arguments.format, "").format(file=output.name))
    print(f"{model.method().name} as {arguments.format}: {output}")
    print(f"model card: {card}")
    return 0


_USE = {
    "onnx": "import onnxruntime\n\n"
    'session = onnxruntime.InferenceSession("{file}")\n'
    'score, anomaly_map = session.run(None, {{"image": images}})[:2]  # (B, C, H, W) float32 in the data\'s range',
    "pt2": "import torch\n\n"
    'program = torch.export.load("{file}").module()\n'
    "score, anomaly_map = program(images)[:2]  # (B, C, H, W) float32 in the data's range",
}


def _loaded(arguments: argparse.Namespace) -> "AnomalyModule":
    """The model, with a run's newest calibration."""
    from zoo.checkpoints.loading import load_pretrained, read_content
    from zoo.cli.calibrate import find_calibration

    model, folder = load_pretrained(arguments.source, trust=arguments.trust), Path(arguments.source)
    if (folder / "calibrations").is_dir():
        model.calibration, problem = find_calibration(read_content(arguments.source), folder)
        if problem:
            raise UserError(problem)
    return model


def _write_card(model: "AnomalyModule", path: Path, repository: str | None = None, use: str = "") -> None:
    from zoo.checkpoints.card import model_card

    write_text(path, model_card(model, repository=repository, use=use))


def _push(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from zoo.checkpoints.saving import save_safetensors

    output = _new(arguments.output)
    if arguments.licence is not None and not re.fullmatch(r"[a-z0-9.+-]{1,40}", arguments.licence):
        raise UserError(f"--licence {arguments.licence}: expected an identifier of the hub, for example cc-by-4.0")
    model = _loaded(arguments)
    if arguments.licence is not None:
        model.marks = replace(model.marks, licence=arguments.licence)
    with made(output):
        save_safetensors(model, output)
        _write_card(model, output / "README.md", arguments.repo or "OWNER/NAME")
    print(f"folder: {output}")
    if arguments.repo:
        _upload(arguments.repo, output)
    return 0


def _upload(repository: str, folder: Path) -> None:
    from huggingface_hub import HfApi, constants

    from zoo.checkpoints.sources import reachable

    again = f"the folder {folder} is complete: upload it later (hf upload {repository} {folder})"
    if not reachable(constants.ENDPOINT):
        raise UserError(f"{constants.ENDPOINT} does not answer; {again}")
    try:
        HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # the client raises many types
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{repository}: not uploaded ({type(error).__name__}: {reason}); {again}") from error
    print(f"uploaded; load it with zoo.load_pretrained('hf://{repository}')")


def _new(path: str) -> Path:
    output = Path(path)
    if output.exists():
        raise UserError(f"--output {output}: exists; nothing is overwritten, give a new name")
    return output
