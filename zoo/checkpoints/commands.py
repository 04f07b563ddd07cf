"""``zoo import``, ``zoo export`` and ``zoo push``."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    take.add_argument("--backbone", help="name of the backbone (timm), where it is not the method's default")
    take.add_argument("--output", "--out", required=True, metavar="FILE", help="new .ckpt")
    take.add_argument("--image_size", type=int, nargs="+", help="where the file does not tell it")
    give = commands.add_parser("export", help="a trained model as ONNX, torch.export program or safetensors")
    give.add_argument("source", metavar="CKPT", help="checkpoint, run folder or any source of zoo.load_pretrained")
    give.add_argument("--format", required=True, choices=("onnx", "pt2", "safetensors"))
    give.add_argument("--output", "--out", required=True, metavar="FILE", help="new file (safetensors: new folder)")
    push = commands.add_parser("push", help="a run as a folder in Hugging Face layout, with a model card")
    push.add_argument("source", metavar="RUN", help="run folder, or a checkpoint")
    push.add_argument("--output", "--out", required=True, metavar="DIR", help="new folder")
    push.add_argument("--repo", help="OWNER/NAME on the hub to upload the folder to")
    push.add_argument("--licence", default="unknown", help="licence of the weights, for the card")
    return parser


def _import(arguments: argparse.Namespace) -> int:
    from zoo.checkpoints.importing import import_checkpoint
    from zoo.checkpoints.saving import save_checkpoint

    log = logging.getLogger("zoo")  # tells which tensors were filled, new or ignored
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    size = arguments.image_size
    more: dict[str, Any] = {} if size is None else {"image_size": size[0] if len(size) == 1 else tuple(size)}
    output = _new(arguments.output)
    if arguments.backbone is not None:
        more["backbone"] = arguments.backbone
    model = import_checkpoint(arguments.source, arguments.format, arguments.model, **more)
    save_checkpoint(model, output)
    print(f"{model.method().name}, images of {model.in_channels} x {model.image_size}: {output}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from zoo.checkpoints.loading import load_pretrained
    from zoo.checkpoints.saving import export

    output = _new(arguments.output)
    model = load_pretrained(arguments.source)
    export(model, arguments.format, output)
    print(f"{model.method().name} as {arguments.format}: {output}")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from zoo.checkpoints.loading import load_pretrained
    from zoo.checkpoints.saving import save_safetensors

    output = _new(arguments.output)
    model = load_pretrained(arguments.source)
    save_safetensors(model, output)
    metrics = Path(arguments.source) / "metrics.json"
    found = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    (output / "README.md").write_text(card(model, found, arguments.licence), encoding="utf-8")
    if arguments.repo:
        from huggingface_hub import HfApi

        HfApi().upload_folder(repo_id=arguments.repo, folder_path=str(output))
        print(f"uploaded to {arguments.repo}; load it with zoo.load_pretrained('hf://{arguments.repo}')")
    print(f"folder: {output}")
    return 0


def _new(path: str) -> Path:
    from zoo.errors import UserError

    output = Path(path)
    if output.exists():
        raise UserError(f"--output {output}: exists; nothing is overwritten, give a new name")
    return output


def card(model: "AnomalyModule", content: dict[str, Any], licence: str) -> str:
    """Model card with method, paper, data, metrics, intended use and licence.

    Args:
        model: trained.
        content: the run's ``metrics.json``, or empty.
        licence: of the weights.
    """
    method = model.method()
    paper = method.reference
    lines = [
        "---",
        "library_name: uad-zoo",
        "tags: [anomaly-detection, medical-imaging]",
        f"license: {licence}",
        "---",
        "",
    ]
    lines += [
        f"# {method.name}: {method.summary}",
        "",
        f"Paper: [{paper['title']}]({paper['url']}), {paper['venue']} {paper['year']}.",
    ]
    lines += ["", f"Images: {model.in_channels} channels, {' x '.join(map(str, model.image_size))} pixels.", ""]
    if content:
        kind = "PHANTOM data (generated; no statement on real images)" if content.get("phantom") else "the data set"
        lines += [f"Trained and tested on {kind} `{content.get('dataset')}`, seed {content.get('seed')}.", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in content["metrics"].items() if value is not None]
    else:
        lines += ["No test results are known."]
    lines += ["", "Intended use: research on anomaly detection. Not a medical device; not for diagnosis.", ""]
    lines += ["```python", "import zoo", "model = zoo.load_pretrained('hf://OWNER/NAME')", "```", ""]
    return "\n".join(lines)
