"""DRAEM: an autoencoder removes pasted textures, and a U-Net that sees the image and its reconstruction marks them.

Zavrtanik et al. 2021, "DRAEM: a discriminatively trained reconstruction embedding for surface anomaly detection".
"""

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.module import Batch, Prediction, batch_generator
from zoo.nn.convolutional import pooled_autoencoder
from zoo.nn.losses import focal_loss
from zoo.nn.schedules import drops, trained
from zoo.nn.unet import UNet
from zoo.sample import DataSource
from zoo.scoring.pooling import largest_average
from zoo.scoring.ssim import ssim_loss
from zoo.self_supervised._segmenter import Altered, SyntheticSegmenter, beside
from zoo.synthetic.perlin import paste_textures
from zoo.synthetic.strategy import rated_batch
from zoo.synthetic.textures import read_textures, turned


class Draem(SyntheticSegmenter):
    """Discriminatively trained reconstruction embedding (DRAEM).

    Half of the training images stay clean. The U-Net is this package's (instance norm, GELU; the original: batch norm,
    ReLU). Without a texture set the texture is Perlin noise over another image of the batch.

    Args:
        reconstruction_width: channels of the autoencoder's first stage; the paper: 128.
        width: channels of the U-Net's first stage; the paper: 64.
        depth: halvings of the U-Net; the paper: 5.
        textures: folder of texture images, the paper: DTD; None: see above.
        alter_textures: change each by three of ten operations (:mod:`zoo.synthetic.textures`), as the original.
        turned: share of training images that are turned by up to 90 degrees, black outside, as the original.
        strategy: the confidence-aware one (:mod:`zoo.synthetic.strategy`): raters' discs, anomalous above 0.1.
        smoothing: side of the average whose largest value is the score; the paper: 21.
        lr: of Adam; times 0.2 after 80 % and 90 % of the fit.
        **segmenter: arguments of :class:`~zoo.self_supervised._segmenter.SyntheticSegmenter`.
    """

    reference = {
        "title": "DRAEM: A Discriminatively Trained Reconstruction Embedding for Surface Anomaly Detection",
        "venue": "ICCV",
        "year": 2021,
        "url": "https://arxiv.org/abs/2108.07610",
    }
    tiny = {"image_size": 32, "reconstruction_width": 4, "width": 4, "depth": 3, "smoothing": 5}
    small = {"reconstruction_width": 8, "width": 8, "depth": 3, "smoothing": 5, "lr": 0.001}
    before: ClassVar[dict[str, Any]] = {"alter_textures": False, "turned": 0.0}

    def __init__(
        self,
        *,
        reconstruction_width: int = 128,
        width: int = 64,
        depth: int = 5,
        textures: str | None = None,
        alter_textures: bool = True,
        turned: float = 0.3,
        strategy: bool = False,
        smoothing: int = 21,
        lr: float = 1e-4,
        **segmenter: Any,
    ) -> None:
        super().__init__(lr=lr, **segmenter)

    def build(self) -> None:
        """Create both networks."""
        hp = self.hparams
        self.reconstruction = pooled_autoencoder(self.in_channels, self.image_size, hp["reconstruction_width"])
        sizes = {"depth": hp["depth"], "width": hp["width"], "max_width": 8 * hp["width"]}
        self.segmentation = UNet(self.image_size, 2 * self.in_channels, positions=0, out_channels=2, **sizes)

    def prepare_fit(self, data: DataSource | None) -> None:
        """Read the textures: what is wrong with them is told before the first batch."""
        read_textures(self.hparams["textures"], self.image_size, self.in_channels)

    def make_anomalies(self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None) -> Altered:
        """Corrupted images and bool masks, wherever the foreground is; images are cut to [0, 1]."""
        image = image.clamp(0, 1)
        if self.hparams["strategy"]:
            replaced, label, _ = rated_batch(image, rng, task="linear", clean=0.5)
            return replaced, label > 0.1
        textures = read_textures(self.hparams["textures"], self.image_size, self.in_channels)
        return beside(image, *paste_textures(image.cpu().numpy(), rng, textures, self.hparams["alter_textures"]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Squared error and SSIM of the reconstruction, focal loss of the segmentation."""
        rng = batch_generator()
        image = turned(self.prepare(batch["image"]).clamp(0, 1), rng, self.hparams["turned"])
        altered, mask = self.make_anomalies(image, rng)
        restored, logits = self.segment(altered)
        loss = F.mse_loss(restored, image) + ssim_loss(restored, image) + focal_loss(logits, mask[:, 0].long())
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

    def locate(self, prepared: Tensor) -> Tensor:
        """Probability of the anomalous class."""
        return self.segment(prepared)[1].softmax(dim=1)[:, 1:]

    def segment(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction of a prepared image, and the logits ``(B, 2, H, W)`` of "untouched" and "anomalous"."""
        restored = self.reconstruction(image)
        return restored.float(), self.segmentation(torch.cat([restored, image], dim=1)).float()

    def configure_optimizers(self) -> Any:
        """Adam, times 0.2 at 80 % and 90 % of the fit."""
        return drops(torch.optim.Adam(trained(self), lr=self.hparams["lr"]), self.optimise_batches, (0.8, 0.9), 0.2)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Map: probability of the anomalous class; score: largest value of its average over ``smoothing`` pixels."""
        restored, logits = self.segment(self.prepare(image))
        anomaly_map = logits.softmax(dim=1)[:, 1:]
        return Prediction(largest_average(anomaly_map, self.hparams["smoothing"]), anomaly_map, restored)
