"""What methods and data sets say to each other: a batch, and what a method may ask of a DataModule."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from torch import Tensor

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

from zoo.errors import UserError


class Sample(TypedDict, total=False):
    """A batch of B images with C channels and the spatial size ``*S``: ``H, W`` or ``D, H, W``.

    Attributes:
        image: ``(B, C, *S)`` float32 in the DataModule's ``value_range``.
        mask: ``(B, 1, *S)`` bool, the ground truth; absent where none is known.
        unlabeled: like ``image``, of the unlabelled pool; training batches under ``data.unlabeled`` only.
        label: ``(B,)`` int64, 1 = anomalous.
        foreground: ``(B, 1, *S)`` bool: brain, body or field of view.
        id: B names, unique in the split; ``path#012`` for slice 12 of a volume.
        subject: B patients, empty where unknown.
        spacing: ``(B, len(S))`` float32 mm; absent where unknown.
        source: B absolute paths.
        volume: B files or members that the images come from: the slices of a volume share it.
        case: B units that statistics count: the patient where known, else the volume or file.
        group: B scanners, sites, ... that are calibrated and told by themselves, empty where unknown.
        slice: ``(B,)`` int64, the slice of its volume, -1 for images that are none.
        to_file: ``(B, 4, 4)`` float32 from ``(slice, row, column, 1)``, or of 3-D images ``(z, y, x, 1)``, to voxel
            indices of the file; NaN where unknown. Not in training batches.
    """

    image: Tensor
    unlabeled: Tensor
    mask: Tensor
    label: Tensor
    foreground: Tensor
    id: list[str]
    subject: list[str]
    spacing: Tensor
    source: list[str]
    volume: list[str]
    case: list[str]
    group: list[str]
    slice: Tensor
    to_file: Tensor


class DataSource(Protocol):
    """What a method may ask of a DataModule; every one of this package answers, outside ones may leave things out.

    Attributes:
        value_range: smallest and largest value of ``image``; of z-scores the usual ones.
        standardised: the images are z-scores, without bounds.
        foreground_rule: how the foreground follows from an image alone, see :mod:`zoo.foreground`.
    """

    value_range: tuple[float, float]
    foreground_rule: str

    @property
    def standardised(self) -> bool:
        """See above."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(C, *S)``."""

    @property
    def phantom(self) -> bool:
        """True when the data are generated."""

    def dataset(self, split: str) -> Any:
        """The images of ``train``, ``val`` or ``test``; ``__getitems__`` gives a :class:`Sample`."""

    def train_dataloader(self) -> Any:
        """Batches to train on."""

    def healthy_groups(self) -> list[list[str]]:
        """Ids of all healthy images to train on and to validate with, grouped by subject."""

    def assign(self, train: Iterable[str] | None = None, val: Iterable[str] | None = None) -> None:
        """Train on and validate with these; None: the split's own again."""


def cases_of(batch: Any, names: list[str]) -> list[str]:
    """The unit that statistics count, of each image: as the batch tells, else the patient, the volume, the image.

    Args:
        batch: of a loader.
        names: of its images.
    """
    volumes = batch.get("volume") or names
    subjects = batch.get("subject") or [""] * len(names)
    return batch.get("case") or [subject or volume for subject, volume in zip(subjects, volumes, strict=True)]


def as_sample(batch: Any, built_for: tuple[int, ...]) -> Any:
    """A batch as the methods take it: a dictionary as it is, a tensor as its ``image``, a pair with its ``label``.

    Args:
        batch: of a loader.
        built_for: ``(C, *S)`` of the method.

    Raises:
        UserError: there is no image, it holds no floats, or its channels or dimensions are others.
    """
    if isinstance(batch, Tensor):
        batch = {"image": batch}
    elif isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        label = next((one for one in batch[1:] if isinstance(one, Tensor) and one.shape == batch[0].shape[:1]), None)
        batch = {"image": batch[0]} if label is None else {"image": batch[0], "label": label.long()}
    image = batch.get("image") if isinstance(batch, dict) else None
    if not isinstance(image, Tensor):
        raise UserError(f"a batch is a dictionary with 'image' (B, C, *S), see zoo.sample.Sample; found {_told(batch)}")
    if not image.is_floating_point():
        raise UserError(f"batches of {image.dtype}: images are float32 in the data's range, such as [0, 1]")
    if image.ndim != len(built_for) + 1 or image.shape[1] != built_for[0]:
        raise UserError(f"images {tuple(image.shape[1:])} reach a method built for {built_for} (channels, sides)")
    return batch


def _told(batch: Any) -> str:
    keys = f" with {', '.join(map(str, list(batch)[:6]))}" if isinstance(batch, dict) else ""
    return f"{type(batch).__name__}{keys}"


def data_of(trainer: "Trainer") -> DataSource | None:
    """The trainer's DataModule, which Lightning does not declare; None where it was given plain loaders."""
    data: DataSource | None = getattr(trainer, "datamodule", None)
    return data
