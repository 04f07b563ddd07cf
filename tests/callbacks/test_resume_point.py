"""Whatever a training was stopped at, and however often: going on equals not having stopped."""

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from datamodules import Folder
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.callbacks.last_checkpoint import LastCheckpoint
from zoo.registry import load_class

STEPS = 9  # three epochs of three batches
MONITOR = {"monitor": "val/synthetic_pixel_ap", "mode": "max"}


class Killed(RuntimeError):
    """As a SIGKILL would: nothing is saved when it comes."""


class Witness(Checkpoint):
    """Keeps what was done, and kills at a place: ``(batch, "batch" | "validation")``, after its checkpoint.

    Checkpoints come last among the callbacks, in their order: so does this one, after ``LastCheckpoint``.
    """

    def __init__(self, place):
        self.place, self.seen = place, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        number = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        self.seen.append(("batch", trainer.current_epoch, batch_idx, number, tuple(batch["id"])))
        if self.place == (number, "batch"):
            raise Killed

    def on_validation_batch_end(self, trainer, *_):
        if self.place == (trainer.fit_loop.epoch_loop.batch_progress.total.ready, "validation"):
            raise Killed

    def on_validation_end(self, trainer, module):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        self.seen.append(("validation", trainer.current_epoch, step, metrics))

    def on_train_epoch_end(self, trainer, module):
        self.seen.append(("epoch", trainer.current_epoch))


def fit(name, root, folder, quiet_trainer, place=None, resume=None, **options):
    torch.manual_seed(0)
    data = Folder(root=str(root), image_size=32, batch_size=3, val_fraction=0.2, seed=0)
    tiny = {key: value for key, value in load_class(name).tiny.items() if key not in ("image_size", "in_channels")}
    witness = Witness(place)
    best = ModelCheckpoint(dirpath=folder, filename="best", **MONITOR, save_top_k=1)
    stopping = EarlyStopping(**MONITOR, patience=100, strict=False, check_on_train_epoch_end=False)
    callbacks = [AnomalyMetrics(), LastCheckpoint(str(folder), minutes=0), best, stopping, witness]
    trainer = quiet_trainer(max_steps=STEPS, callbacks=callbacks, enable_checkpointing=True, **options)
    model = load_class(name)(**tiny)
    try:
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    except Killed:
        return witness.seen, None
    score = None if best.best_model_score is None else float(best.best_model_score)
    return witness.seen, (model.state_dict(), score, stopping.wait_count, trainer.global_step, trainer.current_epoch)


def chain(name, root, folder, quiet_trainer, places, **options):
    seen, resume = [], None
    for place in [*places, None]:
        more, end = fit(name, root, folder, quiet_trainer, place, resume, **options)
        seen += more
        resume = str(folder / "last.ckpt")
    return seen, end


def assert_same(found, wanted):
    assert found[0] == wanted[0]
    assert found[1][1:] == wanted[1][1:]
    assert all(torch.equal(value, found[1][0][key]) for key, value in wanted[1][0].items())


PLACES = [
    [(3, "batch"), (6, "batch")],  # twice at an epoch's last batch: this trained an epoch again
    [(3, "batch"), (6, "batch"), (8, "batch")],
    [(3, "validation"), (6, "batch")],
    [(3, "batch"), (6, "validation")],
    [(2, "batch"), (3, "batch"), (4, "batch")],
    [(3, "batch"), (3, "validation"), (6, "validation")],
    [(1, "batch"), (6, "validation"), (7, "batch")],
]


@pytest.mark.parametrize("name", ["autoencoder", "f_anogan", "padim", "fpi"])
def test_any_chain_of_kills(name, image_folder, tmp_path, quiet_trainer):
    wanted = chain(name, image_folder, tmp_path / "whole", quiet_trainer, [])
    # f-AnoGAN has 8 batches in its two stages, PaDiM one epoch; the last batch is saved once it is validated
    places = {
        "autoencoder": PLACES,
        "f_anogan": [*PLACES[:1], *PLACES[2:]],
        "padim": [[(1, "batch"), (2, "batch")]],
    }.get(name, PLACES[:1])
    for number, killed in enumerate(places):
        assert_same(chain(name, image_folder, tmp_path / str(number), quiet_trainer, killed), wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 2, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"accumulate_grad_batches": 2},
    ],
)
def test_other_rhythms(options, image_folder, tmp_path, quiet_trainer):
    options = {**options, "max_epochs": 3} if "accumulate_grad_batches" in options else options
    wanted = chain("autoencoder", image_folder, tmp_path / "whole", quiet_trainer, [], **options)
    for number, killed in enumerate(PLACES[:5]):
        found = chain("autoencoder", image_folder, tmp_path / str(number), quiet_trainer, killed, **options)
        if "accumulate_grad_batches" in options:  # goes on from a batch before: some batches are seen twice
            assert all(torch.equal(value, found[1][0][key]) for key, value in wanted[1][0].items())
        else:
            assert_same(found, wanted)


def test_going_on_from_the_best_checkpoint(image_folder, tmp_path, quiet_trainer):
    wanted = fit("autoencoder", image_folder, tmp_path / "whole", quiet_trainer)
    fit("autoencoder", image_folder, tmp_path / "killed", quiet_trainer, (4, "batch"))
    best = str(tmp_path / "killed" / "best.ckpt")  # written when the first epoch's validation ended
    given = ("autoencoder", image_folder, tmp_path / "killed", quiet_trainer)
    seen, _ = fit(*given, (6, "batch"), best)
    more, end = fit(*given, None, str(tmp_path / "killed" / "last.ckpt"))
    before = wanted[0].index(("epoch", 0)) + 1
    assert_same((wanted[0][:before] + seen + more, end), wanted)
