"""Autoencoder with a memory: the decoder sees mixtures of stored healthy codes only, never the code itself.

Gong et al. 2019, "Memorizing normality to detect anomaly" (arXiv 1904.02639).
"""

from typing import Any, Literal

from torch import Tensor

from zoo.module import Prediction
from zoo.nn.convolutional import DenseAutoencoder, SpatialAutoencoder
from zoo.nn.memory import Addressing, Memory, Recall, addressing_entropy
from zoo.reconstruction._reconstructor import Reconstructor
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_loss, residual_map


class MemoryAutoencoder(Reconstructor):
    """Memory-augmented autoencoder (MemAE).

    Loss: squared error plus the entropy of the addressing.

    Args:
        hidden_dims: channels after each halving of the image; three halvings where the paper's image networks have
            them.
        latent_dim: length of the code and of a slot.
        memory: ``spatial`` addresses the memory at every position of the code's map, as the paper; ``dense`` once an
            image, as MedIAnomaly's comparison (there with 25 slots and a code of 16).
        slots: number of slots.
        addressing: see :class:`zoo.nn.memory.Memory`.
        temperature: see there; not given by the paper, whose cosines over 2000 slots would all fall to the shrinkage.
        threshold: see there.
        entropy_weight: weight of the entropy.
        score: pooling of the squared error to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
        **autoencoder: arguments of :class:`~zoo.reconstruction._reconstructor.Reconstructor`.
    """

    reference = {
        "title": "Memorizing Normality to Detect Anomaly: Memory-augmented Deep Autoencoder",
        "venue": "ICCV",
        "year": 2019,
        "url": "https://arxiv.org/abs/1904.02639",
    }
    tiny = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8, "slots": 10}
    small = {"lr": 1e-3}

    network: DenseAutoencoder | SpatialAutoencoder

    def __init__(
        self,
        *,
        hidden_dims: tuple[int, ...] = (32, 64, 128),
        latent_dim: int = 64,
        memory: Literal["spatial", "dense"] = "spatial",
        slots: int = 2000,
        addressing: Addressing = "cosine",
        temperature: float | None = None,
        threshold: float | None = None,
        entropy_weight: float = 2e-4,
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        lr: float = 1e-4,
        **autoencoder: Any,
    ) -> None:
        super().__init__(hidden_dims=hidden_dims, latent_dim=latent_dim, lr=lr, **autoencoder)

    def build(self) -> None:
        """Create the network and the memory."""
        hp = self.hparams
        self.network = self.spatial() if hp["memory"] == "spatial" else self.dense()
        self.memory = Memory(
            hp["slots"],
            hp["latent_dim"],
            addressing=hp["addressing"],
            temperature=hp["temperature"],
            threshold=hp["threshold"],
        )

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Recall]:
        """Reconstruction ``(B, C, H, W)`` and the memory's answer, whose last axis is the code's or the slots'."""
        recall = self.memory(self.network.encode(image).movedim(1, -1))
        return self.network.decode(recall.code.movedim(-1, 1)).float(), recall

    def losses(self, image: Tensor) -> dict[str, Tensor]:
        """Squared error plus the weighted entropy."""
        reconstruction, recall = self.reconstruct(image)
        error, entropy = residual_loss(reconstruction, image, "l2"), addressing_entropy(recall.weights)
        loss = error + self.hparams["entropy_weight"] * entropy
        return {"loss": loss, "reconstruction": error, "entropy": entropy}

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Squared error and its pooled value."""
        reconstruction, _ = self.reconstruct(image)
        anomaly_map = residual_map(reconstruction, image, "l2")
        return Prediction(None, anomaly_map, reconstruction)
