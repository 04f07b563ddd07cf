"""Batches gathered straight from the cache, in an order that depends on seed and epoch alone and can be resumed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from datamodules.cache import Store
from datamodules.reading import Array

Batch = dict[str, Any]


class CachedImages(Dataset[Batch]):
    """Images of one split; a list of positions becomes one batch with a single gather.

    Args:
        store: the cache entry.
        indices: positions in the store that belong to the split.
        ids: one per index.
        subjects: one per index.
        labels: ``(n,)`` one per index, 1 = anomalous.
        with_mask: add the ground truth.
        sources: absolute paths, one per index, added as ``source``; None leaves the key out.
        groups: scanner, site, ... of each index, added as ``group``.
        volumes: records that they come from, one per index, added as ``volume`` with ``case`` and ``slice``.
    """

    def __init__(
        self,
        store: Store,
        indices: Array,
        ids: Sequence[str],
        subjects: Sequence[str],
        labels: Array,
        *,
        with_mask: bool,
        sources: Sequence[str] | None = None,
        volumes: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.store = store
        self.indices = np.asarray(indices, np.int64)
        self.ids, self.subjects, self.sources = list(ids), list(subjects), None if sources is None else list(sources)
        self.volumes = None if volumes is None else list(volumes)
        self.groups = None if groups is None else list(groups)
        self.labels = np.asarray(labels, np.int64)
        self.with_mask = with_mask
        self._with_spacing = not np.isnan(store.spacing).any()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def slices(self) -> Array:
        """Number of each image's slice in its volume, ``(n,)``; -1 for images that are none."""
        return np.asarray(self.store.slices[self.indices])

    def names(self, chosen: Array) -> Batch:
        """What says which images these positions are: ``id``, ``subject``, and of volumes ``volume, case, slice``."""
        named: Batch = {
            "id": [self.ids[position] for position in chosen],
            "subject": [self.subjects[position] for position in chosen],
        }
        if self.volumes is not None:
            named["volume"] = [self.volumes[position] for position in chosen]
            named["case"] = [self.subjects[position] or self.volumes[position] for position in chosen]
            named["slice"] = torch.from_numpy(self.store.slices[self.indices[chosen]].astype(np.int64))
        return named

    def __getitem__(self, index: int) -> Batch:
        batch = self.__getitems__([index])
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions, see :class:`~datamodules.base.Sample`."""
        chosen = np.asarray(positions, np.int64)
        where = self.indices[chosen]
        batch: Batch = {
            "image": torch.from_numpy(self.store.image(where)),
            "label": torch.from_numpy(self.labels[chosen]),
            "foreground": torch.from_numpy(self.store.foreground(where)),
            **self.names(chosen),
        }
        if self.groups is not None:
            batch["group"] = [self.groups[position] for position in chosen]
        if self.with_mask:
            batch["mask"] = torch.from_numpy(self.store.mask(where))
        if self._with_spacing:
            batch["spacing"] = torch.from_numpy(self.store.spacing[where])
        if self.sources is not None and self.volumes is not None and not np.isnan(self.store.to_file[where]).all():
            batch["to_file"] = torch.from_numpy(self.store.to_file[where])
        if self.sources is not None:
            batch["source"] = [self.sources[position] for position in chosen]
        return batch


class EpochOrder(DistributedSampler[int]):
    """A permutation that is a pure function of seed and epoch, dealt out to the ranks.

    A DistributedSampler in name, so that Lightning leaves it in place and sets its epoch. Every rank gets the same
    number of images; the permutation is continued from its start where that needs a few more.
    """

    def __init__(self, length: int, seed: int, ranks: int = 1, rank: int = 0) -> None:
        super().__init__(range(length), num_replicas=ranks, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.length = length

    def __iter__(self) -> Iterator[int]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.epoch])))
        order = np.resize(generator.permutation(self.length), self.total_size)
        return iter(order[self.rank :: self.num_replicas].tolist())


class ResumableLoader(DataLoader[Batch]):
    """A DataLoader over :class:`EpochOrder` that a checkpoint resumes at the next batch, in the middle of an epoch.

    :attr:`augment` alters a batch as a function of the epoch and its number. Lightning calls :meth:`state_dict` and
    :meth:`load_state_dict`. Iteration starts at the first ``next``, because Lightning asks for the iterator before it
    tells the epoch.
    """

    augment: Callable[[Batch, int, int], Batch] | None = None
    _next_batch = 0
    _resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch = getattr(self.sampler, "epoch", 0)  # Lightning puts a plain sampler for overfit_batches
        skip = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        self._next_batch = skip
        for batch in self._batches_from(skip):
            number = self._next_batch
            self._next_batch += 1
            yield batch if self.augment is None else self.augment(batch, epoch, number)

    def _batches_from(self, skip: int) -> Iterator[Batch]:
        if skip == 0:
            yield from super().__iter__()
            return
        rest = [positions for number, positions in enumerate(self.batch_sampler or []) if number >= skip]
        yield from DataLoader(
            self.dataset, batch_sampler=rest, num_workers=self.num_workers, collate_fn=self.collate_fn
        )

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of the next batch."""
        return {"epoch": getattr(self.sampler, "epoch", 0), "next_batch": self._next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration over the saved epoch start at the saved batch."""
        self._resume = (state["epoch"], state["next_batch"])
        self._next_batch = state["next_batch"]


def keep_batch(batch: Any) -> Any:
    """Collate function for batches that are gathered already."""
    return batch
