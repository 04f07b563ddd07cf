"""DDAD: where ensembles of autoencoders disagree, with each other or among themselves.

Cai et al. 2023, "Dual-distribution discrepancy with self-supervised refinement for anomaly detection in medical images"
(Medical Image Analysis, arXiv 2210.04227; first MICCAI 2022).
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.compact import CompactAutoencoder
from zoo.nn.memory import Memory, addressing_entropy

_LOG_VARIANCE_LIMIT = 10.0
_ENTROPY_WEIGHT = 2e-4
_SLOTS = 25


class DDAD(AnomalyModule):
    """Dual-distribution discrepancy (DDAD) of two ensembles of small autoencoders.

    The normative ensemble learns healthy images, the other one healthy and unlabelled images together. ``intra``, the
    deviation within the normative ensemble, is one-class. ``inter``, the absolute difference of the ensembles' mean
    reconstructions, is semi-supervised: it needs ``data.unlabeled``, and as unlabelled images are like those tested its
    results stand apart from one-class ones. Members differ by their initial weights only.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** len(hidden_dims)``; the paper: 64.
        in_channels: image channels.
        discrepancy: see above.
        members: ``autoencoder`` (squared error), ``mem_ae`` (memory of 25 slots on the code,
            inner products, no shrinkage), or ``ae_u`` (predicts its
            variance, whose mean over the normative ensemble divides the discrepancy).
        ensemble: members of each ensemble.
        hidden_dims: channels after each halving.
        hidden: length of the hidden layers beside the code.
        latent_dim: length of the code.
        lr: learning rate of Adam (betas 0.5 and 0.999).
    """

    reference = {
        "title": "Dual-distribution discrepancy with self-supervised refinement for anomaly detection in medical "
        "images",
        "venue": "Medical Image Analysis",
        "year": 2023,
        "url": "https://arxiv.org/abs/2210.04227",
    }
    expects = (-1.0, 1.0)
    tiny = {"image_size": 32, "hidden_dims": (4, 8), "hidden": 16, "latent_dim": 4, "ensemble": 2}
    small = {"hidden": 128, "lr": 0.001}

    normative: nn.ModuleList
    unknown: nn.ModuleList

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        discrepancy: Literal["intra", "inter"] = "intra",
        members: Literal["autoencoder", "mem_ae", "ae_u"] = "autoencoder",
        ensemble: int = 3,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 64),
        hidden: int = 2048,
        latent_dim: int = 16,
        lr: float = 5e-4,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the members.

        Raises:
            UserError: one member, which cannot disagree.
        """
        if self.hparams["ensemble"] < 2:
            raise UserError(f"model.ensemble {self.hparams['ensemble']}: a discrepancy needs at least 2 members")
        self.normative = self._make_ensemble()
        self.unknown = self._make_ensemble() if self.uses_unlabeled else nn.ModuleList()

    @property
    def uses_unlabeled(self) -> bool:
        """Whether there is an ensemble of unlabelled images."""
        return bool(self.hparams["discrepancy"] == "inter")

    def _make_ensemble(self) -> nn.ModuleList:
        hp = self.hparams
        return nn.ModuleList(
            Member(
                hp["members"],
                CompactAutoencoder(
                    self.in_channels,
                    self.image_size,
                    hidden_dims=tuple(hp["hidden_dims"]),
                    hidden=hp["hidden"],
                    latent_dim=hp["latent_dim"],
                    out_channels=2 * self.in_channels if hp["members"] == "ae_u" else None,
                ),
                hp["latent_dim"],
            )
            for _ in range(hp["ensemble"])
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """Sum of all members' losses: they share no parameter."""
        return self.train_members(batch)

    def train_members(self, batch: Batch) -> Tensor | None:
        """Losses of the normative ensemble on healthy images, of the other one on those and the unlabelled ones.

        Raises:
            UserError: no unlabelled images.
        """
        healthy = batch["image"]
        if len(healthy) < 2:
            return None  # batch norm over one image of dense layers has no variance
        losses = [member.loss(healthy) for member in _members(self.normative)]
        if self.uses_unlabeled:
            if "unlabeled" not in batch:
                raise UserError(
                    "model.discrepancy inter learns from unlabelled images too: set data.unlabeled true (data sets "
                    "that have a pool), or model.discrepancy intra, which is one-class"
                )
            mixed = torch.cat([healthy, batch["unlabeled"]])
            losses += [member.loss(mixed) for member in _members(self.unknown)]
        loss = torch.stack(losses).sum()
        self.log("train/loss", loss, batch_size=len(healthy))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"], betas=(0.5, 0.999))

    def discrepancies(self, image: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Deviation within the normative ensemble, difference of the ensembles if there are two, mean reconstruction.

        Args:
            image: ``(B, C, H, W)``.

        Returns:
            tuple: ``(B, 1, H, W)``, the same or None, ``(B, C, H, W)``, all float32.
        """
        found = [member.reconstruct(image) for member in _members(self.normative)]
        images = torch.stack([one for one, _ in found])
        variances = torch.stack([variance for _, variance in found])
        scale = variances.mean(dim=0).sqrt()
        intra = (images.std(dim=0) / scale).mean(dim=1, keepdim=True)
        mean = images.mean(dim=0)
        if not self.uses_unlabeled:
            return intra, None, mean
        other = torch.stack([member.reconstruct(image)[0] for member in _members(self.unknown)]).mean(dim=0)
        return intra, ((mean - other).abs() / scale).mean(dim=1, keepdim=True), mean

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """The chosen discrepancy and its mean."""
        intra, inter, mean = self.discrepancies(image)
        anomaly_map = intra if inter is None else inter
        return Prediction(anomaly_map.mean(dim=(1, 2, 3)), anomaly_map, mean)


class Member(nn.Module):
    """One autoencoder of an ensemble.

    Args:
        kind: see :class:`DDAD`.
        network: the autoencoder.
        latent_dim: length of its code.
    """

    def __init__(self, kind: str, network: CompactAutoencoder, latent_dim: int) -> None:
        super().__init__()
        self.kind, self.network = kind, network
        self.memory = Memory(_SLOTS, latent_dim, addressing="inner", threshold=0.0) if kind == "mem_ae" else None

    def loss(self, image: Tensor) -> Tensor:
        """Squared error; plus the entropy of the memory's addresses; or the Gaussian negative log likelihood."""
        if self.kind == "ae_u":
            reconstruction, variance = self.reconstruct(image)
            return ((reconstruction - image).square() / variance + variance.log()).mean()
        if self.memory is None:
            error: Tensor = (self.network(image).float() - image).square().mean()
            return error
        recall = self.memory(self.network.encode(image))
        error = (self.network.decode(recall.code).float() - image).square().mean()
        return error + _ENTROPY_WEIGHT * addressing_entropy(recall.weights)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and predicted variance (1 where none is predicted), both ``(B, C, H, W)`` float32."""
        if self.memory is not None:
            reconstruction = self.network.decode(self.memory(self.network.encode(image)).code).float()
        else:
            reconstruction = self.network(image).float()
        if self.kind != "ae_u":
            return reconstruction, torch.ones_like(reconstruction)
        reconstruction, log_variance = reconstruction.chunk(2, dim=1)
        return reconstruction, log_variance.clamp(-_LOG_VARIANCE_LIMIT, _LOG_VARIANCE_LIMIT).exp()


def _members(ensemble: nn.ModuleList) -> list[Member]:
    return [member for member in ensemble if isinstance(member, Member)]
