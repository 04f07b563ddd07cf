"""Runs the stages of a method under one plain ``Trainer.fit``: a callback that each method brings along.

The trainer's limits are the budget of the ``optimise`` stages; collecting passes come on top. A stage begins where the
one before ended, a ``collect`` stage with an epoch. What asks to stop ends the ``optimise`` stages only: without the
collecting ones a method could not predict. Validation waits until everything is collected.

Several processes collect as one would: each takes its own images, none twice, and what they found is put together when
the stage finishes (:mod:`zoo.nn.processes`).
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from zoo.callbacks.attached import attached
from zoo.callbacks.resume_point import at_batch_end, at_epoch_end, count_epoch, end_epoch, settle
from zoo.errors import UserError
from zoo.nn.processes import alike, differing, without_repeats
from zoo.sample import Sample, data_of

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


class Stage(NamedTuple):
    """One part of a method's training.

    Attributes:
        kind: ``optimise`` takes gradient steps; ``collect`` passes once over the training set, without gradients and
            in evaluation mode.
        step: called like ``training_step(batch, batch_idx)``; returns the loss, or None (manual optimisation, collect).
        finish: run once after the last batch of a ``collect`` stage, before validation: put the statistics of the
            processes together and finalise them.
        share: an ``optimise`` stage's share of the trainer's ``max_steps`` / ``max_epochs``, relative to the others.
    """

    kind: Literal["optimise", "collect"]
    step: Callable[[Sample, int], Tensor | None]
    finish: Callable[[], None] | None = None
    share: float = 1.0


class Progress(NamedTuple):
    """Where a fit stands.

    Attributes:
        stage: number of the current stage, from 1.
        stages: how many there are.
        done: training batches that were begun, over the whole fit.
        total: training batches of the whole fit.
    """

    stage: int
    stages: int
    done: int
    total: int


class _Span(NamedTuple):
    """A stage and the range of training batches, counted over the whole fit, that belong to it."""

    stage: Stage
    start: int
    end: int


class Staging(Callback):
    """Seeds the batches and runs the stages of one method.

    Args:
        module: the method.

    Attributes:
        batch_seed: from which and the batch's number each batch is seeded; checkpoints keep it.
        stopped: the batch before which a request to stop ended the ``optimise`` stages; checkpoints keep it.
    """

    def __init__(self, module: "AnomalyModule") -> None:
        self.module = module
        self.batch_seed: int | None = None
        self._changed = False  # the weights, by this fit
        self.stopped: int | None = None
        self._plan: list[_Span] = []
        self._limits: tuple[int, int] | None = None
        self._withheld: int | float | None = None  # the trainer's limit_val_batches while there is nothing to validate

    def attach(self, trainer: Trainer) -> None:
        """Join the trainer's callbacks in the place of an earlier method's, before what writes checkpoints."""
        callbacks = attached(trainer)
        callbacks[:] = [one for one in callbacks if not isinstance(one, Staging)]
        first = next((number for number, one in enumerate(callbacks) if isinstance(one, Checkpoint)), len(callbacks))
        callbacks.insert(first, self)

    # ---- several processes --------------------------------------------------------------------------------------

    def spread(self, trainer: Trainer) -> None:
        """Prepare the built module for a fit in several processes.

        Raises:
            UserError: statistics are to be collected and the strategy is not DDP.
        """
        module, strategy = self.module, trainer.strategy
        if not any(stage.kind == "collect" for stage in module.stages()):
            return
        if not isinstance(strategy, DDPStrategy):
            raise UserError(f"{type(module).__name__} collects statistics: several processes need trainer.strategy ddp")
        statistics = [name for name, _ in module.own_buffers()]
        # DDP would overwrite them with the first process's at every step
        module._ddp_params_and_buffers_to_ignore = statistics  # type: ignore[assignment]
        if not any(parameter.requires_grad for parameter in module.parameters()):
            # DDP refuses what trains nothing
            strategy.configure_ddp = partial(alike, module, statistics)  # type: ignore[method-assign]

    def shares(self) -> list[dict[str, Tensor]]:
        """Each process's statistics in the middle of a collecting stage, for a checkpoint; else empty."""
        trainer, span = self.module._trainer, self._current_span() if self._plan else None
        if trainer is None or trainer.world_size == 1 or span is None or span.stage.kind == "optimise":
            return []
        if self._batch_number == span.end - 1:
            return []
        kept = self.module.state_dict()
        own = {name: kept[name].cpu() for name, _ in self.module.own_buffers() if name in kept}
        found: list[dict[str, Tensor]] = [{}] * trainer.world_size
        torch.distributed.all_gather_object(found, own)
        return found

    def take_share(self, checkpoint: dict[str, Any], shares: list[dict[str, Tensor]] | None) -> None:
        """Put this process's statistics into a checkpoint that is about to be loaded.

        Raises:
            UserError: as many processes as wrote it are needed.
        """
        trainer = self.module._trainer
        if not shares or trainer is None or trainer.state.fn != "fit":
            return
        if trainer.world_size != len(shares):
            raise UserError(
                f"the checkpoint was written in the middle of collecting statistics in {len(shares)} processes: resume "
                f"with as many (trainer.devices {len(shares)})"
            )
        checkpoint["state_dict"].update(shares[trainer.global_rank])

    # ---- what others may ask ------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """Where the running fit stands."""
        done = self._batch_number + 1
        number = next((n for n, span in enumerate(self._plan, 1) if done <= span.end), max(1, len(self._plan)))
        return Progress(number, max(1, len(self._plan)), done, self.fit_batches)

    @property
    def optimise_batches(self) -> int:
        """Training batches in all ``optimise`` stages of the fit."""
        stages = self.module.stages()
        return sum(self._length(one) for one in stages if one.kind == "optimise") if stages else self._budget()

    @property
    def fit_batches(self) -> int:
        """Training batches of the whole fit, collecting passes included."""
        plan = self._plan or (self._make_plan() if self.module.stages() else [])
        return plan[-1].end if plan else self.optimise_batches

    @property
    def optimising(self) -> bool:
        """False while statistics are collected."""
        span = self._current_span()
        return not self._plan or (span is not None and span.stage.kind == "optimise")

    def step(self, batch: Sample, batch_idx: int) -> Tensor | None:
        """The current stage's step."""
        span = self._current_span()
        if span is None:  # the next stage starts with the next epoch
            return None
        if span.stage.kind == "optimise":
            return span.stage.step(batch, batch_idx)
        with torch.no_grad(), _evaluating(self.module):
            own: Any = without_repeats({**batch}, self.module.trainer.train_dataloader, batch_idx)
            if own is not None:
                span.stage.step(own, batch_idx)
            if self._batch_number == span.end - 1:
                if span.stage.finish is not None:
                    span.stage.finish()
                if name := differing(dict(self.module.own_buffers())):
                    raise RuntimeError(
                        f"{type(self.module).__name__}: {name} differs between processes after its collect stage; the "
                        "stage's finish has to put them together (zoo.nn.processes)"
                    )
        return None

    # ---- Lightning ----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the trainer's limits as the budget, and let the method look at the data."""
        if self.module.stages():
            loop = trainer.fit_loop
            self._limits = (-1 if loop.max_epochs is None else loop.max_epochs, loop.epoch_loop.max_steps)
            loop.max_epochs, loop.epoch_loop.max_steps = -1, -1
            trainer.num_sanity_val_steps = 0  # before its stages a method has nothing to predict with
        if trainer.ckpt_path is None:  # not resumed
            self.module.begin_fit()
        self._changed = False
        self.module.prepare_fit(data_of(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay out the stages over the batches of the fit."""
        if self.batch_seed is None:
            self.batch_seed = torch.initial_seed()
        if self._batch_number < 0:  # not resumed
            self.stopped = None
        if self.module.stages():
            self._lay_out()
            sampler = getattr(trainer.train_dataloader, "sampler", None)
            if isinstance(sampler, DistributedSampler) and len(sampler.dataset) < sampler.num_replicas:  # type: ignore[arg-type]
                raise UserError(f"{len(sampler.dataset)} training images for {sampler.num_replicas} processes")  # type: ignore[arg-type]
            if self._batch_number >= self._plan[-1].end - 1:  # resumed after the end
                trainer.should_stop = True
            self._withhold_validation()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """What goes on from here shall do what would have been done."""
        loops = checkpoint.get("loops", {}).get("fit_loop")
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or loops is None:
            return
        loop = trainer.fit_loop.epoch_loop
        if trainer.training and at_epoch_end(loops):
            end_epoch(loops, counted_again=self._validates_before(trainer))
        if not (trainer.validating or at_batch_end(loops)):
            return
        seen: Any = loop.val_loop.batch_progress
        fetcher = trainer.fit_loop._data_fetcher
        validated = trainer.validating and seen.is_last_batch and seen.current.completed == seen.current.processed
        due = not validated and fetcher is not None and loop._should_check_val_fx(fetcher)
        settle(loops, last=loop._num_ready_batches_reached(), validation_due=due)

    @staticmethod
    def _validates_before(trainer: Trainer) -> bool:
        """Whether Lightning's test for a validation holds before the first batch of the next epoch."""
        every, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch or math.inf
        if not trainer.enable_validation or batches == math.inf:
            return False
        if every is None:
            return bool(trainer.fit_loop.epoch_loop.batch_progress.total.ready % batches == 0)
        return (trainer.current_epoch + 2) % every == 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Files of earlier versions may have lost count of the epochs."""
        loops = checkpoint.get("loops", {}).get("fit_loop")
        if loops and at_batch_end(loops):
            count_epoch(loops)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the batch; before the first one, say of the weights what they will have been trained on."""
        if not self._changed:
            self.module.marks = self.module.marks.trained_on(data_of(trainer))
            self._changed = True
        assert self.batch_seed is not None
        own = trainer.global_rank << 40  # processes draw apart
        torch.manual_seed((self.batch_seed * 1_000_003 + self._batch_number + own) % 2**63)
        self._allow_validation()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop after the last stage; skip validation while a collecting stage is to come or has not finished."""
        if self._plan and self._batch_number >= self._plan[-1].end - 1:
            trainer.should_stop = True
        else:
            self._skip_to_collecting()
        self._withhold_validation()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A callback may have asked to stop at the end of an epoch."""
        self._skip_to_collecting()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the trainer its own limits back."""
        self._allow_validation()
        if self._limits is not None:
            trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = self._limits
            self._limits = None
        self._plan = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A fit that fails gives the trainer its limits back as one that ends does."""
        self.on_fit_end(trainer, pl_module)

    # ---- the plan -----------------------------------------------------------------------------------------------

    @property
    def _batch_number(self) -> int:
        """Number of the current training batch, counted from 0 over the whole fit; kept by Lightning's loops."""
        return self.module.trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1

    def _current_span(self) -> _Span | None:
        return next((span for span in self._plan if span.start <= self._batch_number < span.end), None)

    def _skip_to_collecting(self) -> None:
        trainer = self.module.trainer
        left = any(span.stage.kind == "collect" and self._batch_number < span.end - 1 for span in self._plan)
        if left and trainer.should_stop and trainer.fit_loop._can_stop_early:
            trainer.should_stop = False
            if self.stopped is None:
                self.stopped = self._batch_number + 1
                self._lay_out()

    def _lay_out(self) -> None:
        trainer = self.module.trainer
        self._plan = self._make_plan()
        trainer.fit_loop.max_epochs = math.ceil(self._plan[-1].end / int(trainer.num_training_batches))

    def _withhold_validation(self) -> None:
        """There is nothing to predict with while a collecting stage is to come or has not finished."""
        trainer = self.module.trainer
        collected = max((span.end for span in self._plan if span.stage.kind == "collect"), default=0)
        if self._batch_number < collected - 1 and self._withheld is None:
            due = trainer.val_check_batch or math.inf
            if self._batch_number == 0 and trainer.enable_validation and collected > due:
                name = type(self.module).__name__
                rank_zero_info(f"{name} is validated once all its statistics have been collected")
            self._withheld, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def _allow_validation(self) -> None:
        if self._withheld is not None:
            self.module.trainer.limit_val_batches, self._withheld = self._withheld, None

    def _make_plan(self) -> list[_Span]:
        trainer = self.module.trainer
        trainer.fit_loop.setup_data()
        per_epoch = trainer.num_training_batches
        if not math.isfinite(per_epoch):
            name = type(self.module).__name__
            raise UserError(f"{name} trains in stages and needs a training set of known length")
        plan: list[_Span] = []
        start = 0
        for stage in self.module.stages():
            if stage.kind == "collect":
                start = math.ceil(start / per_epoch) * int(per_epoch)
                end = start + int(per_epoch)
            else:
                end = start + self._length(stage)
                end = end if self.stopped is None else min(end, max(start, self.stopped))
            plan.append(_Span(stage, start, end))
            start = end
        return plan

    def _length(self, stage: Stage) -> int:
        """Batches of an ``optimise`` stage: its share of the trainer's budget."""
        shares = sum(one.share for one in self.module.stages() if one.kind == "optimise")
        return max(1, round(self._budget() * stage.share / shares))

    def _budget(self) -> int:
        """Batches that the trainer's ``max_steps`` and ``max_epochs`` allow.

        The trainer's own estimate would set up the training data, which must not happen before a checkpoint's position
        in them has been restored.
        """
        trainer = self.module.trainer
        loop = trainer.fit_loop
        limits = (-1 if loop.max_epochs is None else loop.max_epochs, loop.epoch_loop.max_steps)
        max_epochs, max_steps = limits if self._limits is None else self._limits
        budgets = [max_epochs * self._epoch_length()] if max_epochs > 0 else []
        budgets += [max_steps * trainer.accumulate_grad_batches] if max_steps > 0 else []
        if not budgets:
            raise UserError("training needs an end: set trainer.max_steps or trainer.max_epochs")
        return min(budgets)

    def _epoch_length(self) -> int:
        trainer = self.module.trainer
        data, limit = data_of(trainer), trainer.limit_train_batches
        if data is None or trainer.fit_loop._combined_loader is not None:
            trainer.fit_loop.setup_data()
            return int(trainer.num_training_batches)
        count = len(data.train_dataloader())
        return min(count, limit) if isinstance(limit, int) else max(1, int(count * limit))


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode
