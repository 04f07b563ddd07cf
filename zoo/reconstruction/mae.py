"""Masked autoencoder: reconstruct the removed patches of an image from the visible ones; score what was not expected.

He et al. 2022, "Masked autoencoders are scalable vision learners", as row 1 of the ablation of Tian et al. 2023
(arXiv 2203.11725) uses it: raw pixels as target, MS-SSIM over ten fixed masks as score.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from zoo.checkpoints.transfer import transfer
from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.masked_vit import MAENetwork, masked_mse, normalise_patches, random_resized_crop, schedule
from zoo.nn.schedules import each_step
from zoo.nn.vit import Masking, patchify, random_masking, unpatchify
from zoo.scoring.ms_ssim import ms_ssim, ms_ssim_error_map

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEADS = {768: 12, 1024: 16, 1280: 16, 512: 16}  # the released encoders' widths, and the decoders'
_log = logging.getLogger(__name__)


class MaskedAutoencoder(AnomalyModule):
    """Masked autoencoder (MAE).

    ImageNet mean and deviation are applied inside (their channel means for other than 3 channels).

    Deviations from the text of Tian et al.: AdamW instead of Adam (see ``optimizer``), without decay of biases, norms
    and memory, as MAE's recipe has it; a decoder of 512 channels and 8 blocks, MAE's own, because the text has a
    projection between the widths; random crops are taken from images that are stored at ``image_size``, so that a
    small crop is enlarged (a side of 0.45 at the smallest share) where one of the original file would not be: files
    of 299 pixels and 224 stored ones make that a loss of a quarter of the resolution, and a cache half as large.

    Args:
        image_size: (H, W) in pixels, multiples of ``patch_size``.
        in_channels: image channels.
        patch_size: side of a patch in pixels.
        width: encoder channels (ViT-B).
        depth: encoder blocks.
        heads: encoder heads.
        decoder_width: decoder channels.
        decoder_depth: decoder blocks.
        decoder_heads: decoder heads.
        mlp_ratio: hidden width of the MLPs over the width.
        cls_token: keep MAE's class token (the paper does not mention it; pretrained weights have it).
        mask_ratio: share of removed patches, in training and in testing.
        norm_pix_loss: patch-normalised target; undone at test time with the target's own mean and deviation, which
            hides intensity anomalies.
        crop_scale: share of the area that RandomResizedCrop keeps, or None for no crop. No flips: they swap the heart.
        num_masks: fixed masks at test time, one for each seed 0, 1, ...
        score: ``patch`` averages the anomaly map, ``global`` is the mean of 1 - MS-SSIM over the masks.
        pool: ``masked`` averages each pixel over the masks that removed it, ``all`` over all masks.
        composite: score the prediction at removed patches and the input elsewhere (the loss never trains visible
            outputs).
        l1_weight: share of the absolute difference in map and score (IGD uses 0.15).
        lr: peak learning rate, absolute.
        optimizer: ``adamw``, MAE's recipe; ``adam`` is the paper's word, with ``weight_decay`` added to the gradient.
        weight_decay: not on biases, norms and memory.
        warmup_epochs: linear warm-up, at most half of the training.
        compile_network: run the network through torch.compile.
    """

    reference = {
        "title": "Masked Autoencoders Are Scalable Vision Learners",
        "venue": "CVPR",
        "year": 2022,
        "url": "https://arxiv.org/abs/2111.06377",
    }
    dims = (2,)
    checkpoint_format = "mae"
    tiny = {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "decoder_width": 32,
        "decoder_depth": 1,
        "decoder_heads": 2,
    }

    network: MAENetwork
    mean: Tensor
    std: Tensor
    test_noise: Tensor

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mlp_ratio: float = 4.0,
        cls_token: bool = True,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = False,
        crop_scale: tuple[float, float] | None = (0.2, 1.0),
        num_masks: int = 10,
        score: Literal["patch", "global"] = "patch",
        pool: Literal["masked", "all"] = "masked",
        composite: bool = True,
        l1_weight: float = 0.0,
        lr: float = 1.5e-4,
        optimizer: Literal["adamw", "adam"] = "adamw",
        weight_decay: float = 0.05,
        warmup_epochs: float = 5.0,
        compile_network: bool = False,
    ) -> None:
        super().__init__()

    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the network, from the hyperparameters."""
        names = ["in_channels", "patch_size", "width", "depth", "heads", "mlp_ratio", "cls_token"]
        names += ["decoder_width", "decoder_depth", "decoder_heads"]
        return {"image_size": self.image_size, **{name: self.hparams[name] for name in names}}

    def make_network(self) -> MAENetwork:
        """The network of this method."""
        return MAENetwork(**self.network_arguments())

    def build(self) -> None:
        """Networks, normalisation and the fixed test masks."""
        patch, ratio = self.hparams["patch_size"], self.hparams["mask_ratio"]
        if any(side % patch for side in self.image_size):
            raise UserError(f"image_size {self.image_size} is no multiple of patch_size {patch}: change one of them")
        self.grid = (self.image_size[0] // patch, self.image_size[1] // patch)
        kept = int(self.grid[0] * self.grid[1] * (1 - ratio))
        if not 0 < kept < self.grid[0] * self.grid[1]:
            raise UserError(f"mask_ratio {ratio} keeps {kept} of {self.grid[0] * self.grid[1]} patches: some, not all")
        self.network = self.make_network()
        if self.hparams["compile_network"]:
            self.network.compile()
        rgb = self.in_channels == 3
        for name, values in (("mean", _MEAN), ("std", _STD)):
            per_channel = values if rgb else (sum(values) / 3,) * self.in_channels
            self.register_buffer(name, torch.tensor(per_channel).view(1, -1, 1, 1), persistent=False)
        seeds = range(self.hparams["num_masks"])
        count = self.grid[0] * self.grid[1]
        noise = [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.register_buffer("test_noise", torch.stack(noise), persistent=False)

    def loss(self, image: Tensor, noise: Tensor) -> Tensor:
        """Squared error on removed patches.

        Args:
            image: ``(B, C, H, W)`` in [0, 1].
            noise: ``(B, N)``; the patches of smallest noise stay visible.
        """
        normalised = (image - self.mean) / self.std
        masking = random_masking(noise, self.hparams["mask_ratio"])
        target = patchify(normalised, self.hparams["patch_size"])
        if self.hparams["norm_pix_loss"]:
            target = normalise_patches(target)[0]
        return masked_mse(self.network(normalised, masking), target, masking.mask)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a randomly cropped batch under random masks."""
        image = batch["image"]
        if self.hparams["crop_scale"] is not None:
            image = random_resized_crop(image, self.hparams["crop_scale"])
        loss = self.loss(image, torch.rand(len(image), self.grid[0] * self.grid[1], device=image.device))
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam or AdamW (0.9, 0.95) and the cosine schedule, stepped per iteration."""
        lr = self.hparams["lr"]
        if lr >= 1e-3:
            rank_zero_warn(f"lr {lr:g} is about 10 times MAE's base rate at batch 256; lower it if the loss diverges")
        parameters = list(self.network.named_parameters())
        free = {name for name, p in parameters if p.ndim <= 1 or name.endswith("bias") or "memory_" in name}
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in parameters if name not in free]},
            {"params": [p for name, p in parameters if name in free], "weight_decay": 0.0},
        ]
        kind = torch.optim.Adam if self.hparams["optimizer"] == "adam" else torch.optim.AdamW
        optimizer = kind(groups, lr=lr, betas=(0.9, 0.95), weight_decay=self.hparams["weight_decay"])
        total = self.optimise_batches / self.trainer.accumulate_grad_batches
        per_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup = min(self.hparams["warmup_epochs"] * per_epoch, total / 2)
        # counted from 1: the first step must not be lost to a rate of 0
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step + 1, warmup, total + 1))
        return each_step(optimizer, scheduler)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions under the fixed masks, seeds on the batch axis of one forward pass.

        Args:
            image: ``(B, C, H, W)`` in [0, 1].

        Returns:
            float32 ``(B, S, C, H, W)`` in [0, 1], and the masks ``(S, 1, H, W)``, 1 = removed.
        """
        patch, seeds = self.hparams["patch_size"], len(self.test_noise)
        one = random_masking(self.test_noise, self.hparams["mask_ratio"])
        normalised = (image - self.mean) / self.std
        masking = Masking(*(part.repeat(image.shape[0], 1) for part in one))
        pixels = self.network(normalised.repeat_interleave(seeds, dim=0), masking).float()
        if self.hparams["norm_pix_loss"]:
            _, mean, deviation = normalise_patches(patchify(normalised, patch).repeat_interleave(seeds, dim=0))
            pixels = pixels * deviation + mean
        images = (unpatchify(pixels, patch, self.grid) * self.std + self.mean).clamp(0, 1)
        removed = one.mask.float().view(seeds, 1, *self.grid)
        removed = removed.repeat_interleave(patch, dim=-2).repeat_interleave(patch, dim=-1)
        return images.unflatten(0, (image.shape[0], seeds)), removed

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Multi-scale SSIM error under the fixed masks; see the class for the choices."""
        image = image.float()
        images, removed = self.reconstruct(image)
        original = image.unsqueeze(1)
        candidate = torch.where(removed.bool(), images, original) if self.hparams["composite"] else images
        share = self.hparams["l1_weight"]
        errors = ms_ssim_error_map(image, candidate)
        if share:
            errors = (1 - share) * errors + share * (candidate - original).abs().mean(dim=2, keepdim=True)
        counted = removed if self.hparams["pool"] == "masked" else torch.ones_like(removed)
        times = counted.sum(dim=0)
        anomaly_map = (errors * counted).sum(dim=1) / times.clamp(min=1)
        covered = (times > 0).float()
        score = (anomaly_map * covered).sum(dim=(1, 2, 3)) / covered.sum()
        if self.hparams["score"] == "global":
            repeated = image.repeat_interleave(candidate.shape[1], dim=0)
            similarity = ms_ssim(repeated, candidate.flatten(0, 1), floor=1e-12).unflatten(0, candidate.shape[:2])
            score = (1 - share) * (1 - similarity.mean(dim=1))
            score = score + share * (candidate - original).abs().mean(dim=(1, 2, 3, 4))
        seen = removed.sum(dim=0)
        mean_image = (images * removed).sum(dim=1) / seen.clamp(min=1)
        return Prediction(score, anomaly_map, torch.where(seen > 0, mean_image, image))

    @staticmethod
    def recognises(checkpoint: Mapping[str, Any]) -> bool:
        """True for MAE's full and encoder-only files."""
        keys = checkpoint.get("model", checkpoint)
        return isinstance(keys, Mapping) and {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias"} <= set(
            keys
        )

    @classmethod
    def from_original(cls, checkpoint: Mapping[str, Any], **init_args: Any) -> Self:
        """Import a checkpoint of the original MAE, full (254 tensors) or encoder only (150).

        Positions are recomputed for the image size; for other than 3 channels the patch embedding is summed over the
        colours and the predicted colours are averaged. What was filled and what stays new is logged.

        Args:
            checkpoint: the loaded file, with or without its top level ``model``.
            **init_args: arguments of this class, over those read from the shapes.

        Raises:
            UserError: shapes that do not fit the arguments.
        """
        source = dict(checkpoint.get("model", checkpoint))
        model = cls(**{**_read_shapes(source, init_args), **init_args})
        model.configure_model()
        own = model.network.state_dict()
        fixed = ("pos_embed", "decoder_pos_embed")  # recomputed
        tensors = {key: value for key, value in source.items() if key not in fixed}
        tensors |= {key: _adapt(key, tensors[key], own[key]) for key in own if key in tensors}
        _log.info("MAE checkpoint: %s", transfer(model.network, tensors, allow_new=True))
        return model


def _read_shapes(source: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that the shapes tell; the numbers of heads, which none tells, only where they are not given."""
    width, _, patch, _ = source["patch_embed.proj.weight"].shape
    side = patch * math.isqrt(source["pos_embed"].shape[1] - 1) if "pos_embed" in source else 224
    found: dict[str, Any] = {"image_size": side, "in_channels": 3, "patch_size": patch, "width": width}
    found["depth"] = len({key.split(".")[1] for key in source if key.startswith("blocks.")})
    if "heads" not in given:
        found["heads"] = _heads("heads", width, 64)
    if "decoder_embed.weight" in source:
        decoder = source["decoder_embed.weight"].shape[0]
        found["decoder_width"] = decoder
        if "decoder_heads" not in given:
            found["decoder_heads"] = _heads("decoder_heads", decoder, 32)
        found["decoder_depth"] = len({key.split(".")[1] for key in source if key.startswith("decoder_blocks.")})
    return found


def _heads(name: str, width: int, of_head: int) -> int:
    """Attention heads of the released model of this width; others are guessed, and said, for no tensor tells them."""
    if width in _HEADS:
        return _HEADS[width]
    guess = max(1, width // of_head)
    _log.warning("MAE checkpoint: no released model is %d wide; guessed %s=%d (--set %s=N)", width, name, guess, name)
    return guess


def _adapt(key: str, value: Tensor, own: Tensor) -> Tensor:
    if value.shape == own.shape:
        return value
    if key == "patch_embed.proj.weight" and own.shape[1] != value.shape[1]:
        channels = own.shape[1]
        return value.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
    if key.startswith("decoder_pred.") and len(value) % 3 == 0:
        pixels = len(value) // 3
        grey = value.unflatten(0, (pixels, 3)).mean(dim=1, keepdim=True)
        spread: Tensor = grey.expand(-1, len(own) // pixels, *value.shape[1:]).flatten(0, 1)
        return spread
    return value
