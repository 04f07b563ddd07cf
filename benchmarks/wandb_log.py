"""Finished cells as runs of one Weights & Biases group."""

from pathlib import Path

from benchmarks.leaderboard import read_results


def log_cells(out: Path, name: str, *, offline: bool) -> None:
    """Log metrics, settings and the panel of every finished cell.

    Args:
        out: the benchmark's folder; files go to its ``wandb`` folder.
        name: of the group.
        offline: keep the files for ``wandb sync``; no network, no account.
    """
    import wandb
    import yaml

    for result in read_results([out]):
        run = wandb.init(
            project="uad-zoo",
            group=name,
            name=result.folder.name,
            dir=str(out),
            mode="offline" if offline else "online",
            config=yaml.safe_load((result.folder / "config.yaml").read_text(encoding="utf-8")),
            settings=wandb.Settings(silent=True),
        )
        kept = {key: value for key, value in result.content.items() if isinstance(value, int | float | str | bool)}
        run.summary.update({**result.content["metrics"], **kept})
        if (result.folder / "panel.png").exists():
            run.log({"panel": wandb.Image(str(result.folder / "panel.png"))})
        run.finish()
