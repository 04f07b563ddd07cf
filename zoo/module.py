"""What a method must be: :class:`AnomalyModule` and its output :class:`Prediction`."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

import zoo
from zoo.checkpoints import CHECKPOINT_FORMAT
from zoo.checkpoints.marks import Marks, read_marks
from zoo.decision.calibration import Calibration, from_plain
from zoo.errors import UserError
from zoo.foreground import foreground_of, settle_rule
from zoo.registry import Method, arguments, is_outside, methods, outside
from zoo.sample import DataSource, Sample, as_sample, data_of
from zoo.scoring.pooling import pool_map
from zoo.staging import Stage, Staging

__all__ = ["CHECKPOINT_FORMAT", "AnomalyModule", "Batch", "Prediction", "Stage"]

Batch = Sample
OF_THE_DATA = ("value_range", "foreground_rule")  # hyperparameters that are settled with the data, not by the user


class Prediction(NamedTuple):
    """Anomaly score and maps of a batch, all float32; larger means more anomalous, the range is free.

    Attributes:
        anomaly_score: ``(B,)``. :meth:`AnomalyModule.detect` may leave it None: the map is then pooled.
        anomaly_map: ``(B, 1, *S)`` at the input's spatial size, or None for methods that do not localise.
        reconstruction: like the input, or None.
        uncertainty_map: ``(B, 1, *S)`` or None.
    """

    anomaly_score: Tensor | Any  # whoever reads one gets a Tensor; "| None" would make every reader check
    anomaly_map: Tensor | None = None
    reconstruction: Tensor | None = None
    uncertainty_map: Tensor | None = None


class AnomalyModule(LightningModule):
    """Base of all methods.

    A subclass writes :meth:`build`, ``training_step`` with ``configure_optimizers`` (or :meth:`stages`), and
    :meth:`detect`. Its constructor takes keyword-only plain values, calls ``super().__init__()`` and finds
    them in ``self.hparams``; nothing is allocated or downloaded before :meth:`configure_model`.

    A method never asks what the data are. It says in :attr:`expects` which values it takes; the base converts images
    before ``training_step``, stages, :meth:`log_validation` and :meth:`detect`, and reconstructions back, gives every
    one of them the foreground, and pools the map to the score by the hyperparameters ``score``, ``score_fraction``
    and ``score_foreground``, where the method has them. The hyperparameter ``clip`` limits the gradient's norm, unless
    the trainer has a limit of its own.

    Randomness in training comes from torch's global generator, which is seeded from the run's seed and the number of
    the batch before each batch: a resumed run draws what the uninterrupted one would have drawn.

    Class attributes:
        reference: title, venue, year and url of the paper (a literal: the registry reads it without importing).
        dims: spatial dimensions that the method works in, a subset of (2, 3).
        fitting: ``gradient`` or ``single_pass``.
        tiny: constructor arguments that fit in a second on CPU (a literal).
        small: constructor arguments for 64 pixels and minutes on a CPU, over the method's configuration (a literal).
        expects: range of values that the method takes; the data's range is mapped to it, values outside are not cut.
            ``z_scores``: takes z-scores as they are, and [-1, 1] where the data have bounds; ``any``: no conversion.
        before: arguments that files from before them lack, with the values that they meant then.
        scores_with_gradient: True when :meth:`detect` needs gradients; it then gets a cloned input.
    """

    reference: ClassVar[dict[str, Any]]
    dims: ClassVar[tuple[int, ...]] = (2,)
    fitting: ClassVar[Literal["gradient", "single_pass"]] = "gradient"
    tiny: ClassVar[dict[str, Any]] = {}
    small: ClassVar[dict[str, Any]] = {}
    expects: ClassVar[tuple[float, float] | Literal["z_scores", "any"]] = (0.0, 1.0)
    before: ClassVar[dict[str, Any]] = {}
    scores_with_gradient: bool = False

    __call__: Callable[..., Prediction]  # nn.Module leaves it open
    image_size: tuple[int, ...]
    in_channels: int

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        for key in [key for key in self.hparams if key.startswith("_")]:  # LightningCLI adds its own
            del self.hparams[key]
        self._built = False
        # a class from before the base converted predicts by itself, from the data's values
        self._converts = self.expects != "any" and type(self).predict_anomaly is AnomalyModule.predict_anomaly
        self.staging = Staging(self)
        self.calibration: Calibration | None = None  # of exactly these weights
        self.marks = Marks()  # of these weights

    # ---- what a method writes -------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the networks from ``self.hparams``, ``self.image_size`` and ``self.in_channels``; called once."""

    def stages(self) -> tuple[Stage, ...]:
        """The ordered stages of the training; a method that only writes ``training_step`` has one."""
        return ()

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Score and localise, for :meth:`predict_anomaly`.

        Deterministic, independent of batch size and order, in evaluation mode, without touching global random state.

        Args:
            image: ``(B, C, *S)`` float32 in the range that the method expects.
            foreground: ``(B, 1, *S)`` bool.

        Returns:
            Prediction: without a score where the map is to be pooled; the reconstruction in the range of ``image``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define detect")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the settings leave out or replace of the method's paper, a sentence each; results carry them."""
        return ()

    def prepare_fit(self, data: DataSource | None) -> None:
        """Look at the data once before a fit begins.

        Args:
            data: the DataModule, None where the trainer was given plain loaders.
        """

    def log_validation(self, batch: Sample, batch_idx: int) -> None:
        """Log what the method itself wants to know at validation; predicting and metrics are not its business.

        Args:
            batch: of the validation loader, the image in the range that the method expects.
            batch_idx: number of the batch.
        """

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Tasks of ``zoo.synthetic.folds.TASK_NAMES`` that the method trains on, or much like them.

        Label-free validation leaves them out.
        """
        return ()

    # ---- predicting -----------------------------------------------------------------------------------------------

    def predict_anomaly(self, image: Tensor, foreground: Tensor | None = None) -> Prediction:
        """Score and localise.

        Deterministic, independent of batch size and order, in evaluation mode, without touching global random state.

        Args:
            image: ``(B, C, *S)`` float32 in the range of the data that the method was trained on (hyperparameter
                ``value_range``); [0, 1] where no DataModule said otherwise.
            foreground: ``(B, 1, *S)`` bool; None: by the rule of the data (hyperparameter ``foreground_rule``).

        Returns:
            Prediction: see there.
        """
        if foreground is None:
            foreground = foreground_of(image, self.hparams["foreground_rule"])
        found = self.detect(self.to_expected(image), foreground)
        if found.anomaly_score is None:
            assert found.anomaly_map is not None
            found = found._replace(anomaly_score=self.pooled_score(found.anomaly_map, foreground))
        if found.reconstruction is not None:
            found = found._replace(reconstruction=self.to_data(found.reconstruction))
        return found

    def forward(self, image: Tensor, foreground: Tensor | None = None) -> Prediction:
        """:meth:`predict_anomaly`, with gradients where the method's score needs them."""
        # classes from before the base converted images predict from the image alone
        takes_it = foreground is not None and "foreground" in inspect.signature(self.predict_anomaly).parameters
        given = {"foreground": foreground} if takes_it else {}
        if not self.scores_with_gradient:
            with torch.no_grad():
                return self.predict_anomaly(image, **given)
        with torch.inference_mode(False), torch.enable_grad():
            given = {name: value.clone() for name, value in given.items() if value is not None}
            prediction = self.predict_anomaly(image.clone(), **given)
        return Prediction._make(value if value is None else value.detach() for value in prediction)

    def pooled_score(self, anomaly_map: Tensor, foreground: Tensor) -> Tensor:
        """Score ``(B,)`` of a map by the method's hyperparameters; over the foreground if ``score_foreground``."""
        chosen = self.hparams
        counted = foreground if chosen.get("score_foreground", False) else None
        return pool_map(anomaly_map, chosen.get("score", "mean"), chosen.get("score_fraction", 0.1), counted)

    # ---- the data's values ----------------------------------------------------------------------------------------

    @property
    def _expected(self) -> tuple[float, float]:
        return (-1.0, 1.0) if isinstance(self.expects, str) else self.expects

    def to_expected(self, image: Tensor) -> Tensor:
        """The data's values as the method expects them; values outside the range are not cut."""
        return _rescale(image, self.hparams["value_range"], self._expected) if self._converts else image

    def to_data(self, image: Tensor) -> Tensor:
        """What the method expects as the data's values: the inverse of :meth:`to_expected`."""
        return _rescale(image, self._expected, self.hparams["value_range"]) if self._converts else image

    def as_expected(self, batch: Sample) -> Sample:
        """A copy of the batch with the image in the range that the method expects, and with a foreground."""
        foreground = batch.get("foreground")
        if foreground is None:
            foreground = foreground_of(batch["image"], self.hparams["foreground_rule"])
        found: Sample = {**batch, "image": self.to_expected(batch["image"]), "foreground": foreground}
        if "unlabeled" in batch:
            found["unlabeled"] = self.to_expected(batch["unlabeled"])
        return found

    def settle(self, data: DataSource | None) -> None:
        """Fix range and foreground rule: the data's, else those of the checkpoint, else [0, 1] and all above 0.

        Z-scores that the method takes as they are have no range of their own: it is the expected one.

        Raises:
            UserError: unknown rule.
        """
        value_range = getattr(data, "value_range", None) or self.hparams.get("value_range") or (0.0, 1.0)
        low, high = (float(bound) for bound in value_range)
        given = getattr(data, "foreground_rule", None) or self.hparams.get("foreground_rule") or "above_minimum"
        rule = settle_rule(given, (low, high))
        if self.expects == "z_scores" and getattr(data, "standardised", False):
            low, high = self._expected
        self.hparams.update(value_range=(low, high), foreground_rule=rule)

    # ---- building -------------------------------------------------------------------------------------------------

    @classmethod
    def method(cls) -> Method:
        """The registry's entry of this class, or what it says of itself where it lives elsewhere."""
        for method in methods().values():
            if method.class_path == f"{cls.__module__}.{cls.__qualname__}":
                return method
        return outside(cls)

    @classmethod
    def stored_name(cls) -> str:
        """The class as checkpoints name it: its name, or its whole path where it is outside of this package."""
        path = f"{cls.__module__}.{cls.__qualname__}"
        return path if is_outside(path) else cls.__name__

    @classmethod
    def from_hparams(cls, hparams: Mapping[str, Any]) -> Self:
        """A model from constructor arguments together with what is otherwise settled with the data.

        Raises:
            UserError: the range is no pair of increasing numbers, or the rule is unknown.
        """
        make: Callable[..., Self] = cls
        own = arguments(cls)  # a class from before may have a value_range of its own
        model = make(**{key: value for key, value in hparams.items() if key not in OF_THE_DATA or key in own})
        model._take_settled(hparams)
        return model

    def _take_settled(self, hparams: Mapping[str, Any]) -> None:
        value_range = hparams.get("value_range") or (0.0, 1.0)
        rule = hparams.get("foreground_rule") or "above_minimum"
        try:
            low, high = (float(bound) for bound in value_range)
            if not -1e9 < low < high < 1e9:
                raise ValueError
        except (TypeError, ValueError):
            raise UserError(f"value_range {value_range}: expected two numbers, the smaller one first") from None
        self.hparams.update(value_range=(low, high), foreground_rule=settle_rule(str(rule), (low, high)))

    def configure_model(self) -> None:
        """Settle what follows from the data, and build the networks once.

        Image size and channels are set by the user or taken from the DataModule; range and foreground rule are always
        those of the DataModule, if there is one.

        Raises:
            UserError: neither set nor to be had, set and different from the data, or dimensions the method has not.
        """
        trainer = self._trainer
        if trainer is not None and trainer.state.fn == "fit":
            self.staging.attach(trainer)
        data = self._data()
        if data is None:  # a hook of the loaders; with a DataModule Lightning would warn of it
            self.on_before_batch_transfer = self._take_plain  # type: ignore[method-assign]
        else:
            vars(self).pop("on_before_batch_transfer", None)
        if data is not None or not self._built:
            self.settle(data)
        if self._built:
            return
        shape = getattr(data, "image_shape", None)
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
        with torch.device("cpu"):  # Lightning would build on the GPU: other initial weights from the same seed
            self.build()
        self._modes = {module: module.training for module in self.modules()}
        self._empty = {name: buffer.clone() for name, buffer in self.own_buffers() if not buffer.any()}
        self._built = True
        if trainer is not None and trainer.state.fn == "fit" and trainer.world_size > 1:
            self.staging.spread(trainer)

    def begin_fit(self) -> None:
        """Be as after building: in training mode, and with nothing collected; the weights stay.

        A loaded or fitted model is in evaluation mode and full of statistics; a new fit collects them anew. What starts
        as zeros, or empty, is taken for a statistic.
        """
        self.marks = self.marks.as_start()
        if not self.training:
            for module, mode in self._modes.items():
                module.training = mode
        if any(stage.kind == "collect" for stage in self.stages()):
            for name, empty in self._empty.items():
                owner, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(owner), leaf, empty.clone().to(self.device))

    def own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers of the method's own modules: statistics and constants, not those of normalisation layers."""
        for prefix, module in self.named_modules():
            if not type(module).__module__.startswith(("torch.nn", "timm.")):
                for name, buffer in module.named_buffers(recurse=False):
                    yield (f"{prefix}.{name}" if prefix else name), buffer

    def _take_plain(self, batch: Any, dataloader_idx: int) -> Any:
        return as_sample(batch, (self.in_channels, *self.image_size))

    def _data(self) -> DataSource | None:
        """The DataModule of the trainer that the model is attached to."""
        return None if self._trainer is None else data_of(self._trainer)

    # ---- training -------------------------------------------------------------------------------------------------

    @property
    def optimise_batches(self) -> int:
        """Training batches in all ``optimise`` stages of the fit: the horizon of learning-rate schedules."""
        return self.staging.optimise_batches

    def configure_optimizers(self) -> Any:
        """No optimiser: right for methods that only collect statistics."""
        return None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Convert the batch that ``training_step`` gets; validation and test keep the data's values for the metrics."""
        if isinstance(batch, dict):
            batch.update(self.as_expected(cast(Sample, batch)))
        return None

    def training_step(self, batch: Sample, batch_idx: int) -> STEP_OUTPUT:
        """Run the current stage's step; a method without :meth:`stages` replaces this one."""
        loss = self.staging.step(batch, batch_idx)
        if loss is None and self.automatic_optimization and self.trainer.world_size > 1:
            return torch.zeros((), device=self.device)  # Lightning refuses to skip a step; backward and optimiser do
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward, except while statistics are collected."""
        if self.staging.optimising:
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step, except while statistics are collected."""
        if self.staging.optimising:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Limit the gradient's norm to the hyperparameter ``clip``, where there is one and the trainer has no limit."""
        limit = self.hparams.get("clip") if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step, except while statistics are collected."""
        if self.staging.optimising:
            super().lr_scheduler_step(scheduler, metric)

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Sample, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Log what the method wants to, and predict; metrics belong to the callback."""
        self.log_validation(self.as_expected(batch), batch_idx)
        return self(batch["image"], batch.get("foreground"))

    def test_step(self, batch: Sample, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Predict; metrics belong to the callback."""
        return self(batch["image"], batch.get("foreground"))

    def predict_step(self, batch: Sample, batch_idx: int) -> Prediction:
        """Predict."""
        return self(batch["image"], batch.get("foreground"))

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add method, format and project version, and what the stages need to go on.

        What was settled with the data goes there too: ``hyper_parameters`` are the constructor's arguments alone.
        """
        for key in OF_THE_DATA:
            checkpoint.get("hyper_parameters", {}).pop(key, None)
        checkpoint["uad_zoo"] = {
            "format": CHECKPOINT_FORMAT,
            "version": zoo.__version__,
            "method": self.stored_name(),
            "seed": self.staging.batch_seed,
            "stopped": self.staging.stopped,
            "shares": self.staging.shares(),
            "marks": self.marks.plain(),
            **{key: self.hparams[key] for key in OF_THE_DATA if key in self.hparams},
        }
        # weights that are being trained have none yet
        if self.calibration is not None and (self._trainer is None or self._trainer.state.fn != "fit"):
            checkpoint["uad_zoo"]["calibration"] = self.calibration.plain()
        recipe = getattr(self._data(), "recipe", None)
        if recipe is not None:  # predicting needs no training data
            checkpoint["uad_zoo"]["data"] = recipe()

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
        if header["method"] not in (self.stored_name(), type(self).__name__):
            raise UserError(
                f"the checkpoint holds a {header['method']}, the configuration asks for a {self.stored_name()}: "
                "give the checkpoint's own configuration (--run FOLDER does) or another checkpoint"
            )
        if self._data() is None:
            # files from before: five methods had the range as an argument; pixels above 0 were the foreground
            own = checkpoint.get("hyper_parameters", {}).get("value_range")
            self._take_settled({"value_range": own, "foreground_rule": "above 0.0", **header})
        self.marks = read_marks(header, "the checkpoint")
        found = header.get("calibration")
        self.calibration = None if found is None else from_plain(found, "the checkpoint")
        self.staging.take_share(checkpoint, header.get("shares"))
        self.staging.batch_seed = header["seed"]
        stopped = header.get("stopped")  # not in older files
        self.staging.stopped = stopped if isinstance(stopped, int) else None


def batch_generator() -> np.random.Generator:
    """NumPy's randomness of the current batch, from torch's."""
    return np.random.default_rng(int(torch.randint(2**62, ())))


def _rescale(image: Tensor, source: tuple[float, float], target: tuple[float, float]) -> Tensor:
    """Map one range of values to another; exactly nothing happens where they are the same."""
    if tuple(source) == tuple(target):
        return image
    unit = image if tuple(source) == (0.0, 1.0) else (image - source[0]) / (source[1] - source[0])
    return unit if tuple(target) == (0.0, 1.0) else unit * (target[1] - target[0]) + target[0]


def _agree(name: str, set_by_user: Any, of_data: Any) -> Any:
    if set_by_user is not None and set_by_user != of_data:
        raise UserError(
            f"model.{name} is {set_by_user}, the data have {of_data}: leave model.{name} unset (it follows the data) "
            f"or set data.{'image_size' if name == 'image_size' else 'channels'} accordingly"
        )
    return of_data
