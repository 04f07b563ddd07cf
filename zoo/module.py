"""What a method must be: :class:`AnomalyModule`, its output :class:`Prediction` and its training :class:`Stage`."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

import zoo
from zoo.checkpoints import CHECKPOINT_FORMAT
from zoo.errors import UserError
from zoo.registry import Method, methods

Batch = dict[str, Any]


class Prediction(NamedTuple):
    """Anomaly score and maps of a batch, all float32; larger means more anomalous, the range is free.

    Attributes:
        anomaly_score: ``(B,)``.
        anomaly_map: ``(B, 1, *S)`` at the input's spatial size, or None for methods that do not localise.
        reconstruction: like the input, or None.
        uncertainty_map: ``(B, 1, *S)`` or None.
    """

    anomaly_score: Tensor
    anomaly_map: Tensor | None = None
    reconstruction: Tensor | None = None
    uncertainty_map: Tensor | None = None


class Stage(NamedTuple):
    """One part of a method's training.

    Attributes:
        kind: ``optimise`` takes gradient steps; ``collect`` passes once over the training set, without gradients and
            in evaluation mode.
        step: called like ``training_step(batch, batch_idx)``; returns the loss, or None (manual optimisation, collect).
        finish: run once after the last batch of a ``collect`` stage, before validation: finalise the statistics.
        share: an ``optimise`` stage's share of the trainer's ``max_steps`` / ``max_epochs``, relative to the others.
    """

    kind: Literal["optimise", "collect"]
    step: Callable[[Batch, int], Tensor | None]
    finish: Callable[[], None] | None = None
    share: float = 1.0


class _Span(NamedTuple):
    """A stage and the range of training batches, counted over the whole fit, that belong to it."""

    stage: Stage
    start: int
    end: int


class AnomalyModule(LightningModule):
    """Base of all methods.

    A subclass writes :meth:`build`, ``training_step`` with ``configure_optimizers`` (or :meth:`stages`), and
    :meth:`predict_anomaly`. Its constructor takes keyword-only plain values, calls ``super().__init__()`` and finds
    them in ``self.hparams``; nothing is allocated or downloaded before :meth:`configure_model`.

    Randomness in training comes from torch's global generator, which is seeded from the run's seed and the number of
    the batch before each batch: a resumed run draws what the uninterrupted one would have drawn.

    Class attributes:
        reference: title, venue, year and url of the paper (a literal: the registry reads it without importing).
        dims: spatial dimensions that the method works in, a subset of (2, 3).
        fitting: ``gradient`` or ``single_pass``.
        tiny: constructor arguments that fit in a second on CPU (a literal).
        scores_with_gradient: True when :meth:`predict_anomaly` needs gradients; it then gets a cloned input.
    """

    reference: ClassVar[dict[str, Any]]
    dims: ClassVar[tuple[int, ...]] = (2,)
    fitting: ClassVar[Literal["gradient", "single_pass"]] = "gradient"
    tiny: ClassVar[dict[str, Any]] = {}
    scores_with_gradient: ClassVar[bool] = False

    image_size: tuple[int, ...]
    in_channels: int

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        for key in [key for key in self.hparams if key.startswith("_")]:  # LightningCLI adds its own
            del self.hparams[key]
        self._built = False
        self._plan: list[_Span] = []
        self._limits: tuple[int, int] | None = None
        self._withheld: int | float | None = None  # the trainer's limit_val_batches while there is nothing to validate
        self._batch_seed: int | None = None
        self._stopped: int | None = None  # the batch before which a request to stop ended the optimise stages

    # ---- what a method writes -------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the networks from ``self.hparams``, ``self.image_size`` and ``self.in_channels``; called once."""

    def stages(self) -> tuple[Stage, ...]:
        """The ordered stages of the training; a method that only writes ``training_step`` has one."""
        return ()

    def predict_anomaly(self, image: Tensor) -> Prediction:
        """Score and localise.

        Deterministic, independent of batch size and order, in evaluation mode, without touching global random state.

        Args:
            image: ``(B, C, *S)`` float32 in the DataModule's value range.

        Returns:
            Prediction: see there.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define predict_anomaly")

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Tasks of ``zoo.synthetic.folds.TASK_NAMES`` that the method trains on, or much like them.

        Label-free validation leaves them out.
        """
        return ()

    def forward(self, image: Tensor) -> Prediction:
        """:meth:`predict_anomaly`, with gradients where the method's score needs them."""
        if not self.scores_with_gradient:
            with torch.no_grad():
                return self.predict_anomaly(image)
        with torch.inference_mode(False), torch.enable_grad():
            prediction = self.predict_anomaly(image.clone())
        return Prediction._make(value if value is None else value.detach() for value in prediction)

    # ---- building -------------------------------------------------------------------------------------------------

    @classmethod
    def method(cls) -> Method:
        """The registry's entry of this class.

        Raises:
            UserError: the class does not live in a family folder.
        """
        for method in methods().values():
            if method.class_path == f"{cls.__module__}.{cls.__qualname__}":
                return method
        raise UserError(f"{cls.__name__} is no registered method: its file belongs in a family folder of `zoo/`")

    def configure_model(self) -> None:
        """Resolve image size and channels (set by the user or taken from the DataModule) and build the networks once.

        Raises:
            UserError: neither set nor to be had, set and different from the data, or dimensions the method has not.
        """
        if self._built:
            return
        shape = self._data_shape()
        size, channels = self.hparams.get("image_size"), self.hparams.get("in_channels")
        if size is None and shape is None:
            raise UserError("image_size is not set and no DataModule is attached; give --model.image_size")
        if isinstance(size, int) and shape is not None:
            size = (size,) * (len(shape) - 1)
        elif isinstance(size, int):
            size = (size,) * min(self.dims)
        if shape is not None:
            size = _agree("image_size", None if size is None else tuple(size), tuple(shape[1:]))
            channels = _agree("in_channels", channels, shape[0])
        assert size is not None
        self.image_size = tuple(int(side) for side in size)
        self.in_channels = 1 if channels is None else int(channels)
        if len(self.image_size) not in self.dims:
            wanted = " or ".join(f"{d}-D" for d in self.dims)
            raise UserError(f"{type(self).__name__} works on {wanted} images, the data are {len(self.image_size)}-D")
        self.hparams.update(image_size=self.image_size, in_channels=self.in_channels)
        fitting = self._trainer is not None and self.trainer.state.fn == "fit" and self.trainer.world_size > 1
        if fitting and any(stage.kind == "collect" for stage in self.stages()):
            raise UserError(
                f"{type(self).__name__} collects statistics, which several processes would each do for their part: set "
                "trainer.devices 1"
            )
        with torch.device("cpu"):  # Lightning would build on the GPU: other initial weights from the same seed
            self.build()
        self._built = True

    def _data_shape(self) -> tuple[int, ...] | None:
        if self._trainer is None:  # not attached to a trainer
            return None
        return getattr(getattr(self.trainer, "datamodule", None), "image_shape", None)

    def settle_value_range(self) -> None:
        """Fix the hyperparameter ``value_range``: as set, else the DataModule's, else (0, 1); checkpoints keep it."""
        if self.hparams["value_range"] is None:
            data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
            self.hparams["value_range"] = tuple(getattr(data, "value_range", (0.0, 1.0)))

    def to_unit_range(self, image: Tensor) -> Tensor:
        """Map the data's ``value_range`` to [0, 1]; values outside are not cut."""
        low, high = self.hparams["value_range"]
        return image if (low, high) == (0.0, 1.0) else (image - low) / (high - low)

    # ---- training: the stages of one plain Trainer.fit ------------------------------------------------------------

    @property
    def optimise_batches(self) -> int:
        """Training batches in all ``optimise`` stages of the fit: the horizon of learning-rate schedules."""
        lengths = [self._length(stage) for stage in self.stages() if stage.kind == "optimise"]
        return sum(lengths) if self.stages() else self._budget()

    @property
    def fit_batches(self) -> int:
        """Training batches of the whole fit, collecting passes included."""
        plan = self._make_plan() if self.stages() else []
        return plan[-1].end if plan else self.optimise_batches

    def configure_optimizers(self) -> Any:
        """No optimiser: right for methods that only collect statistics."""
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Run the current stage's step; a method without :meth:`stages` replaces this one."""
        span = self._current_span()
        if span is None:  # the next stage starts with the next epoch
            return None
        if span.stage.kind == "optimise":
            return span.stage.step(batch, batch_idx)
        with torch.no_grad(), _evaluating(self):
            span.stage.step(batch, batch_idx)
            if self._batch_number == span.end - 1 and span.stage.finish is not None:
                span.stage.finish()
        return None

    def on_fit_start(self) -> None:
        """Take the trainer's limits as the budget of the ``optimise`` stages; collecting passes come on top."""
        if self.stages():
            loop = self.trainer.fit_loop
            self._limits = (-1 if loop.max_epochs is None else loop.max_epochs, loop.epoch_loop.max_steps)
            loop.max_epochs, loop.epoch_loop.max_steps = -1, -1
            callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
            if not any(isinstance(callback, _GiveLimitsBack) for callback in callbacks):
                callbacks.append(_GiveLimitsBack())
            self.trainer.num_sanity_val_steps = 0  # before its stages a method has nothing to predict with

    def on_train_start(self) -> None:
        """Lay out the stages over the batches of the fit."""
        if self._batch_seed is None:
            self._batch_seed = torch.initial_seed()
        if self._batch_number < 0:  # not resumed
            self._stopped = None
        if self.stages():
            self._lay_out()
            if self._batch_number >= self._plan[-1].end - 1:  # resumed after the end
                self.trainer.should_stop = True

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Seed the batch."""
        assert self._batch_seed is not None
        torch.manual_seed((self._batch_seed * 1_000_003 + self._batch_number) % 2**63)
        self._allow_validation()
        return None

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int) -> None:
        """Stop after the last stage; skip validation while a collecting stage is to come or has not finished."""
        if self._plan and self._batch_number >= self._plan[-1].end - 1:
            self.trainer.should_stop = True
        else:
            self._skip_to_collecting()
        collected = max((span.end for span in self._plan if span.stage.kind == "collect"), default=0)
        if self._batch_number < collected - 1:
            due = self.trainer.val_check_batch or math.inf
            if self._batch_number == 0 and self.trainer.enable_validation and collected > due:
                rank_zero_info(f"{type(self).__name__} is validated once all its statistics have been collected")
            self._withheld, self.trainer.limit_val_batches = self.trainer.limit_val_batches, 0

    def on_train_epoch_end(self) -> None:
        """A callback may have asked to stop at the end of an epoch."""
        self._skip_to_collecting()

    def _skip_to_collecting(self) -> None:
        """What asks to stop ends the ``optimise`` stages; without the collecting ones the method could not predict."""
        left = any(span.stage.kind == "collect" and self._batch_number < span.end - 1 for span in self._plan)
        if left and self.trainer.should_stop and self.trainer.fit_loop._can_stop_early:
            self.trainer.should_stop = False
            if self._stopped is None:
                self._stopped = self._batch_number + 1
                self._lay_out()

    def _lay_out(self) -> None:
        self._plan = self._make_plan()
        self.trainer.fit_loop.max_epochs = math.ceil(self._plan[-1].end / int(self.trainer.num_training_batches))

    def _allow_validation(self) -> None:
        if self._withheld is not None:
            self.trainer.limit_val_batches, self._withheld = self._withheld, None

    def on_fit_end(self) -> None:
        """Give the trainer its own limits back."""
        self._allow_validation()
        if self._limits is not None:
            self.trainer.fit_loop.max_epochs, self.trainer.fit_loop.epoch_loop.max_steps = self._limits
            self._limits = None

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step, except while statistics are collected."""
        if self._optimising():
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step, except while statistics are collected."""
        if self._optimising():
            super().lr_scheduler_step(scheduler, metric)

    @property
    def _batch_number(self) -> int:
        """Number of the current training batch, counted from 0 over the whole fit; kept by Lightning's loops."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1

    def _optimising(self) -> bool:
        if not self._plan:
            return True
        span = self._current_span()
        return span is not None and span.stage.kind == "optimise"

    def _current_span(self) -> _Span | None:
        return next((span for span in self._plan if span.start <= self._batch_number < span.end), None)

    def _make_plan(self) -> list[_Span]:
        trainer = self.trainer
        trainer.fit_loop.setup_data()
        per_epoch = trainer.num_training_batches
        if not math.isfinite(per_epoch):
            raise UserError(f"{type(self).__name__} trains in stages and needs a training set of known length")
        plan: list[_Span] = []
        start = 0
        for stage in self.stages():
            if stage.kind == "collect":
                start = math.ceil(start / per_epoch) * int(per_epoch)
                end = start + int(per_epoch)
            else:
                end = start + self._length(stage)
                end = end if self._stopped is None else min(end, max(start, self._stopped))
            plan.append(_Span(stage, start, end))
            start = end
        return plan

    def _length(self, stage: Stage) -> int:
        """Batches of an ``optimise`` stage: its share of the trainer's budget."""
        shares = sum(one.share for one in self.stages() if one.kind == "optimise")
        return max(1, round(self._budget() * stage.share / shares))

    def _budget(self) -> int:
        """Batches that the trainer's ``max_steps`` and ``max_epochs`` allow.

        The trainer's own estimate would set up the training data, which must not happen before a checkpoint's position
        in them has been restored.
        """
        loop = self.trainer.fit_loop
        limits = (-1 if loop.max_epochs is None else loop.max_epochs, loop.epoch_loop.max_steps)
        max_epochs, max_steps = limits if self._limits is None else self._limits
        budgets = [max_epochs * self._epoch_length()] if max_epochs > 0 else []
        budgets += [max_steps * self.trainer.accumulate_grad_batches] if max_steps > 0 else []
        if not budgets:
            raise UserError("training needs an end: set trainer.max_steps or trainer.max_epochs")
        return min(budgets)

    def _epoch_length(self) -> int:
        data, limit = getattr(self.trainer, "datamodule", None), self.trainer.limit_train_batches
        if data is None or self.trainer.fit_loop._combined_loader is not None:
            self.trainer.fit_loop.setup_data()
            return int(self.trainer.num_training_batches)
        count = len(data.train_dataloader())
        return min(count, limit) if isinstance(limit, int) else max(1, int(count * limit))

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Predict; metrics belong to the callback."""
        return self(batch["image"])

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Predict; metrics belong to the callback."""
        return self(batch["image"])

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Predict."""
        return self(batch["image"])

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add method, format and project version, the batches' seed, and where a request to stop cut the stages."""
        checkpoint["uad_zoo"] = {
            "format": CHECKPOINT_FORMAT,
            "version": zoo.__version__,
            "method": type(self).__name__,
            "seed": self._batch_seed,
            "stopped": self._stopped,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints of another method or of a later format.

        Raises:
            UserError: see above.
        """
        header = checkpoint.get("uad_zoo")
        if header is None:
            raise UserError(
                "this checkpoint was not written by uad-zoo; `zoo import` reads the original authors' files"
            )
        if header["format"] > CHECKPOINT_FORMAT:
            raise UserError(
                f"the checkpoint has format {header['format']} (uad-zoo {header['version']}), this installation reads "
                f"up to {CHECKPOINT_FORMAT}: update uad-zoo"
            )
        if header["method"] != type(self).__name__:
            raise UserError(
                f"the checkpoint holds a {header['method']}, the configuration asks for a {type(self).__name__}: "
                "give the checkpoint's own configuration (--run FOLDER does) or another checkpoint"
            )
        self._batch_seed = header["seed"]
        stopped = header.get("stopped")  # not in older files
        self._stopped = stopped if isinstance(stopped, int) else None


class _GiveLimitsBack(Callback):
    """A fit that fails gives the trainer its limits back as one that ends does."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(pl_module, AnomalyModule):
            pl_module.on_fit_end()


def _agree(name: str, set_by_user: Any, of_data: Any) -> Any:
    if set_by_user is not None and set_by_user != of_data:
        raise UserError(
            f"model.{name} is {set_by_user}, the data have {of_data}: leave model.{name} unset (it follows the data) "
            f"or set data.{'image_size' if name == 'image_size' else 'channels'} accordingly"
        )
    return of_data


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode
