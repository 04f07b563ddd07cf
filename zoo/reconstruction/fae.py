"""Structural feature autoencoder: reconstruct feature maps of a fixed ResNet and compare them by SSIM.

Meissen, Paetzold, Kaissis, Rueckert 2022, "Unsupervised anomaly localization with structural feature-autoencoders"
(arXiv 2208.10992).
"""

import logging
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checkpoints.reading import state_dict_of
from zoo.checkpoints.transfer import transfer
from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import check_divisible, conv_decoder, conv_encoder
from zoo.nn.features import FeatureExtractor, Statistics, weights_follow
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import ResidualKind, residual_loss, residual_map

_STRIDE = 4  # of the grid on which all feature maps are compared
_WINDOW = 5
_AT_ONCE = 8  # images
_log = logging.getLogger(__name__)


class FeatureAutoencoder(AnomalyModule):
    """Structural feature autoencoder (FAE).

    1 or 3 channels, centred inside to [-1, 1] (the original uses no ImageNet mean and deviation).

    Args:
        image_size: (H, W) in pixels, multiples of ``4 * 2 ** len(hidden_dims)`` (64 with the paper's four levels).
        in_channels: 1 or 3.
        backbone: a ResNet-like timm model.
        layers: its layers, in order; ``layer0`` is the stem with max-pool.
        weights: ``imagenet`` (the paper), ``random``, or the path of a state dict of torchvision or timm.
        extractor_stats: ``batch`` = the authors' behaviour: batch norms of the backbone use batch statistics in
            training and move their running statistics to the training images; ``frozen`` = evaluation mode throughout.
            The paper calls the extractor frozen, its code (and so its figures) does not; the first is the default.
        keep_features: share of the feature channels that are kept, drawn once when the network is built.
        hidden_dims: channels after each halving of the feature grid.
        dropout: probability of dropping a channel after each block.
        loss: ``ssim`` (minus the structural similarity, window 5) or ``mse``, also the anomaly map.
        score: pooling of the map; ``top_q`` with 0.1 is the paper's.
        score_fraction: share of pixels that ``top_q`` averages.
        score_foreground: pool over the foreground only (the paper: pixels above 0); images without are pooled whole.
        lr: learning rate of Adam.
        channels_last: lay tensors out channels last; with ``trainer.precision=bf16-mixed`` the fastest on recent CPUs.
    """

    reference = {
        "title": "Unsupervised Anomaly Localization with Structural Feature-Autoencoders",
        "venue": "BrainLes, MICCAI Workshop",
        "year": 2022,
        "url": "https://arxiv.org/abs/2208.10992",
    }
    checkpoint_format = "fae"
    tiny = {"image_size": 32, "weights": "random", "layers": ("layer0", "layer1"), "hidden_dims": (8, 16)}
    small = {"backbone": "tf_efficientnet_lite0", "layers": ("bn1", "blocks.1", "blocks.2"), "lr": 0.001}

    extractor: FeatureExtractor
    encoder: nn.Sequential
    decoder: nn.Sequential
    kept_features: Tensor

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        backbone: str = "resnet18",
        layers: tuple[str, ...] = ("layer0", "layer1", "layer2"),
        weights: str = "imagenet",
        extractor_stats: Statistics = "batch",
        keep_features: float = 1.0,
        hidden_dims: tuple[int, ...] = (100, 150, 200, 300),
        dropout: float = 0.1,
        loss: Literal["ssim", "mse"] = "ssim",
        score: PoolingRule = "top_q",
        score_fraction: float = 0.1,
        score_foreground: bool = True,
        lr: float = 2e-4,
        channels_last: bool = False,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create extractor and autoencoder.

        Raises:
            UserError: image size that does not divide, or a share of features outside (0, 1].
        """
        hp = self.hparams
        widths = tuple(hp["hidden_dims"])
        check_divisible(self.image_size, _STRIDE * 2 ** len(widths), f"a feature autoencoder of {len(widths)} levels")
        self.grid = tuple(side // _STRIDE for side in self.image_size)
        self.extractor = FeatureExtractor(
            hp["backbone"],
            tuple(hp["layers"]),
            weights=hp["weights"],
            statistics=hp["extractor_stats"],
            normalisation="centre",
            in_channels=self.in_channels,
        )
        self.register_buffer("kept_features", _draw_features(sum(self.extractor.channels), hp["keep_features"]))
        channels = int(self.kept_features.sum())
        self.encoder = nn.Sequential(
            *conv_encoder(channels, widths, kernel=5, dropout=hp["dropout"]),
            nn.Conv2d(widths[-1], widths[-1], 5, padding=2, bias=False),
        )
        self.decoder = nn.Sequential(
            *conv_decoder((*widths[::-1], channels), kernel=6, dropout=hp["dropout"]),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        if hp["channels_last"]:
            self.to(memory_format=torch.channels_last)

    def features(self, image: Tensor) -> Tensor:
        """Kept channels of all layers on one grid: ``(B, C, H, W)`` -> ``(B, K, H / 4, W / 4)``."""
        if self.hparams["channels_last"]:
            image = image.contiguous(memory_format=torch.channels_last)
        maps = [
            values
            if values.shape[2:] == self.grid
            else F.interpolate(values, size=self.grid, mode="bilinear", align_corners=True)
            for values in self.extractor(image)
        ]
        features = torch.cat(maps, dim=1)
        return features if self.hparams["keep_features"] == 1.0 else features[:, self.kept_features]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss between features and their reconstruction, in float32 even under autocast."""
        features = self.features(batch["image"])
        loss = residual_loss(self.decoder(self.encoder(features)), features, self._residual, _WINDOW)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate over the autoencoder."""
        return torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()], lr=self.hparams["lr"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Loss of every feature pixel, averaged over channels and resized to the image; its top share as score."""
        # on a CPU the memory of a whole batch would be mapped and cleared anew by every layer
        whole = image.device.type != "cpu" or torch.compiler.is_exporting()
        small_map = torch.cat([self._feature_map(part) for part in ((image,) if whole else image.split(_AT_ONCE))])
        anomaly_map = F.interpolate(small_map, size=image.shape[2:], mode="bilinear", align_corners=True)
        return Prediction(None, anomaly_map)

    def _feature_map(self, image: Tensor) -> Tensor:
        features = self.features(image)
        return residual_map(self.decoder(self.encoder(features)), features, self._residual, _WINDOW)

    @property
    def _residual(self) -> ResidualKind:
        return "ssim" if self.hparams["loss"] == "ssim" else "l2"

    @staticmethod
    def recognises(checkpoint: Mapping[str, Any]) -> bool:
        """True for files of the authors' code: ``model_state_dict`` with its names and ``config``."""
        return {"extractor.feature_mask", "ae.enc.encoder_conv_final.weight"} <= state_dict_of(checkpoint).keys()

    @classmethod
    def from_original(cls, checkpoint: Mapping[str, Any], **init_args: Any) -> Self:
        """Import a checkpoint of the authors' code.

        Widths, kept features and loss come from the file; layers and image size from its ``config``.

        Args:
            checkpoint: content of ``last.pt``: ``model_state_dict`` and ``config`` (namespace or dict).
            **init_args: arguments of this class, over those of the file.

        Raises:
            UserError: tensors are missing or do not fit.
        """
        tensors = state_dict_of(checkpoint)
        found = checkpoint.get("config", {})
        config: Mapping[str, Any] = found if isinstance(found, Mapping) else vars(found)
        try:
            arguments = {**_read_arguments(tensors, config, init_args), **init_args}
        except KeyError as error:
            raise UserError(
                f"FAE checkpoint: tensor or option {error} is missing; expected the authors' last.pt"
            ) from error
        with weights_follow():
            model = cls(**arguments)
            model.configure_model()
        report = transfer(
            model, {_own_name(key, len(arguments["hidden_dims"])): value for key, value in tensors.items()}
        )
        _log.info("FAE checkpoint: %s", report)
        return model


def _draw_features(channels: int, share: float) -> Tensor:
    if not 0.0 < share <= 1.0:
        raise UserError(f"keep_features must lie in (0, 1], found {share}")
    kept = torch.zeros(channels, dtype=torch.bool)
    # a fixed count (the original tosses a coin a channel) makes the widths follow from the arguments alone
    kept[torch.randperm(channels)[: max(1, round(share * channels))]] = True
    return kept


def _read_arguments(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the file tells of the arguments; what the user gives need not be in it."""
    widths: list[int] = []
    while (key := f"ae.enc.encoder_layer_{len(widths)}.encoder_conv_{len(widths)}.weight") in tensors:
        widths.append(tensors[key].shape[0])
    kept = tensors["extractor.feature_mask"]
    return {
        "image_size": given["image_size"] if "image_size" in given else config["image_size"],
        "in_channels": 1,
        "layers": given["layers"] if "layers" in given else tuple(config["extractor_cnn_layers"]),
        "hidden_dims": tuple(widths),
        "dropout": float(config.get("dropout", 0.1)),
        "loss": config.get("loss_fn", "ssim"),
        "keep_features": int(kept.sum()) / kept.numel(),
        "weights": "random" if config.get("random_extractor") else "imagenet",
    }


def _own_name(key: str, levels: int) -> str:
    """Our name of a tensor of the authors' state dict."""
    fixed = {
        "extractor.feature_mask": "kept_features",
        "ae.enc.encoder_conv_final.weight": f"encoder.{levels}.weight",
        "ae.dec.decoder_conv_final.weight": f"decoder.{levels}.weight",
    }
    if key in fixed:
        return fixed[key]
    for theirs, ours in (("layer0.0.", "conv1."), ("layer0.1.", "bn1.")):
        key = key.replace(f"extractor.backbone.{theirs}", f"extractor.backbone.{ours}")
    block = re.fullmatch(r"ae\.(enc|dec)\.\w+_layer_(\d+)\.\w+?_(t?conv|norm)_\d+\.(.+)", key)
    if block is None:
        return key
    part, level, layer, rest = block.groups()
    # the original counts the decoder's blocks down to 1
    place = f"encoder.{level}" if part == "enc" else f"decoder.{levels - int(level)}"
    return f"{place}.{'norm' if layer == 'norm' else 'conv'}.{rest}"
