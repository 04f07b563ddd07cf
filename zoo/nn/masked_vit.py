"""Masked autoencoder: network, target, loss and crop (He et al. 2022), with the names of its checkpoints."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.crops import crop_transform, draw_crops
from zoo.nn.vit import Block, Masking, PatchEmbedding, init_transformer, sincos_positions, take_tokens


class MAENetwork(nn.Module):
    """Encoder on visible patches, decoder on all; parameter names are those of MAE's checkpoints.

    Args:
        image_size: (H, W) in pixels, multiples of ``patch_size``.
        in_channels: image channels.
        patch_size: side of a patch in pixels.
        width, depth, heads: encoder.
        decoder_width, decoder_depth, decoder_heads: decoder.
        mlp_ratio: hidden width of the MLPs over the width.
        cls_token: prepend a class token.
        num_memory: memory slots of every encoder layer.
    """

    pos_embed: Tensor
    decoder_pos_embed: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        in_channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        mlp_ratio: float,
        cls_token: bool,
        num_memory: int = 0,
    ) -> None:
        super().__init__()
        grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.extra = int(cls_token)
        self.patch_embed = PatchEmbedding(in_channels, patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if cls_token else None
        self.blocks = nn.ModuleList([Block(width, heads, mlp_ratio, num_memory) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_blocks = nn.ModuleList(
            [Block(decoder_width, decoder_heads, mlp_ratio) for _ in range(decoder_depth)]
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * in_channels)
        for name, channels in (("pos_embed", width), ("decoder_pos_embed", decoder_width)):
            table = sincos_positions(channels, grid, cls_token)
            self.register_buffer(name, table.unsqueeze(0), persistent=False)
        init_transformer(self)
        for token in (self.cls_token, self.mask_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Visible tokens with positions, class token first: ``(B, K (+ 1), width)``; all patches without ``keep``."""
        tokens: Tensor = self.patch_embed(images) + self.pos_embed[:, self.extra :]
        if keep is not None:
            tokens = take_tokens(tokens, keep)
        if self.cls_token is None:
            return tokens
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        return torch.cat([cls, tokens], dim=1)

    def encode(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised encoder output ``(B, K (+ 1), width)`` in the order of ``keep``."""
        x = self.embed(images, keep)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def spread(self, latent: Tensor, restore: Tensor) -> Tensor:
        """Decoder input ``(B, N (+ 1), decoder_width)``: projected visible tokens and mask tokens in raster order."""
        x = self.decoder_embed(latent)
        cls, visible = x[:, : self.extra], x[:, self.extra :]
        missing = restore.shape[1] - visible.shape[1]
        masked = self.mask_token.to(x.dtype).expand(x.shape[0], missing, -1)
        tokens = take_tokens(torch.cat([visible, masked], dim=1), restore)
        return torch.cat([cls, tokens], dim=1) + self.decoder_pos_embed

    def predict(self, y: Tensor) -> Tensor:
        """Pixels ``(B, N, patch * patch * C)`` of the decoder's last tokens."""
        pixels: Tensor = self.decoder_pred(self.decoder_norm(y))[:, self.extra :]
        return pixels

    def forward(self, images: Tensor, masking: Masking) -> Tensor:
        """Predicted pixels of every patch, ``(B, N, patch * patch * C)``, from the kept patches of ``(B, C, H, W)``."""
        y = self.spread(self.encode(images, masking.keep), masking.restore)
        for block in self.decoder_blocks:
            y = block(y)
        return self.predict(y)


def normalise_patches(target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each patch ``(B, N, P)`` by its own mean and unbiased variance; returns (normalised, mean, deviation)."""
    mean = target.mean(dim=-1, keepdim=True)
    deviation = (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    return (target - mean) / deviation, mean, deviation


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the removed patches, in float32.

    Args:
        prediction: ``(B, N, P)``.
        target: ``(B, N, P)``.
        mask: ``(B, N)``, True = removed.
    """
    error = (prediction.float() - target.float()).square().mean(dim=-1)
    return (error * mask).sum() / mask.sum()


def random_resized_crop(images: Tensor, scale: tuple[float, float]) -> Tensor:
    """Crop each image to a random share of its area (:func:`~zoo.nn.crops.draw_crops`) and stretch it back, bicubic.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        scale: smallest and largest share of the area.
    """
    boxes = draw_crops(len(images), scale, device=images.device)
    grid = F.affine_grid(crop_transform(boxes), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bicubic", "reflection", align_corners=False).clamp(0, 1)


def schedule(step: float, warmup: float, total: float) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine to 0; units are steps or epochs alike."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1e-12, total - warmup))))
