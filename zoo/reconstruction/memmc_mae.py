"""Memory-augmented multi-level cross-attentional masked autoencoder (MemMC-MAE).

Tian et al., MLMI 2023 (arXiv 2203.11725 v1). The encoder's attention carries learnt memory rows (eq. 1); every decoder
block attends to the outputs of all encoder blocks and weighs them by sigmoid gates (eqs. 2, 3). The authors released no
code; what the paper leaves open follows the Meshed-Memory transformer (Cornia et al. 2020), whose operators these are.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.errors import UserError
from zoo.nn.masked_vit import MAENetwork
from zoo.nn.vit import Block, Masking, split_heads
from zoo.reconstruction.mae import MaskedAutoencoder

Gate = Literal["channel", "token"]


class MultiLevelAttention(nn.Module):
    """``sum_l sigmoid(W_l [s, c_l] + b_l) * c_l``, with ``c_l`` the cross-attention of s to level l (eqs. 2, 3).

    All levels share the projections; each has its own softmax over its own tokens, and its own gate.

    Args:
        width: channels C.
        heads: attention heads.
        levels: number of levels L.
        gate: ``channel`` = one gate for every channel, ``token`` = one for every token.
        gate_bias: initial bias; None = -ln(L - 1), so that the gates sum to 1 (6 for one level).
    """

    def __init__(self, width: int, heads: int, levels: int, gate: Gate = "channel", gate_bias: float | None = None):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        gates = width if gate == "channel" else 1
        if gate_bias is None:
            gate_bias = -math.log(levels - 1) if levels > 1 else 6.0
        self.gate_weight = nn.Parameter(torch.zeros(levels, gates, 2 * width))
        self.gate_bias = nn.Parameter(torch.full((levels, gates), gate_bias))

    def forward(self, s: Tensor, levels: Tensor) -> Tensor:
        """Fused form: one attention call with L * heads heads.

        Args:
            s: queries ``(B, N, C)``.
            levels: ``(B, L, n, C)``.

        Returns:
            ``(B, N, C)``.
        """
        count = levels.shape[1]
        q = split_heads(self.q(s), self.heads)
        q = q.unsqueeze(1).expand(-1, count, -1, -1, -1).flatten(1, 2)
        k, v = self.kv(levels).unflatten(-1, (2, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        o = F.scaled_dot_product_attention(q, k, v)
        o = o.unflatten(1, (count, self.heads)).transpose(2, 3).flatten(3)  # (B, L, N, C)
        weight_s, weight_c = self.gate_weight.chunk(2, dim=-1)
        gates = self.gate_weight.shape[1]
        logit = F.linear(s, weight_s.flatten(0, 1), self.gate_bias.flatten()).unflatten(-1, (count, gates))
        logit = logit.transpose(1, 2)
        if gates == 1:  # read the gate through the projection, sum first, project once
            through = (weight_c @ self.proj.weight).squeeze(1)
            constant = (weight_c.squeeze(1) @ self.proj.bias).view(1, count, 1)
            alpha = torch.sigmoid(logit.squeeze(-1) + torch.einsum("blnc,lc->bln", o, through.to(o.dtype)) + constant)
            summed = torch.einsum("bln,blnc->bnc", alpha.to(o.dtype), o)
            return F.linear(summed, self.proj.weight) + alpha.sum(dim=1).unsqueeze(-1) * self.proj.bias
        crossed = self.proj(o)
        logit = logit + torch.einsum("blnc,lgc->blng", crossed, weight_c.to(crossed.dtype))
        mixed: Tensor = (torch.sigmoid(logit) * crossed).sum(dim=1)
        return mixed

    def forward_loop(self, s: Tensor, levels: Tensor) -> Tensor:
        """The equations as written: one whole attention for each level; for tests and the speed comparison."""
        out = torch.zeros_like(s)
        for level, weight, bias in zip(levels.unbind(1), self.gate_weight, self.gate_bias, strict=True):
            q, k, v = (split_heads(part, self.heads) for part in (self.q(s), *self.kv(level).chunk(2, dim=-1)))
            crossed = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            out = out + torch.sigmoid(F.linear(torch.cat([s, crossed], dim=-1), weight, bias)) * crossed
        return out


class MultiLevelBlock(Block):
    """Decoder block: self-attention, multi-level cross-attention, MLP, each pre-norm and residual."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, levels: int, gate: Gate, gate_bias: float | None, light: bool
    ) -> None:
        super().__init__(width, heads, mlp_ratio)
        self.norm_cross = nn.LayerNorm(width, eps=1e-6)
        self.cross = MultiLevelAttention(width, heads, levels, gate, gate_bias)
        self.light = light

    def forward(self, y: Tensor, levels: Tensor) -> Tensor:  # type: ignore[override]
        """``(B, N, C)`` and levels ``(B, L, n, C)`` to ``(B, N, C)``."""
        y = y + self.attn(self.norm1(y))
        s = self.norm_cross(y)
        if self.light and torch.is_grad_enabled():
            y = y + checkpoint(self.cross, s, levels, use_reentrant=False)
        else:
            y = y + self.cross(s, levels)
        out: Tensor = y + self.mlp(self.norm2(y))
        return out


class MemMCNetwork(MAENetwork):
    """MAE's network with memory, levels and long skips; names of the shared parts as in MAE's checkpoints."""

    def __init__(
        self,
        *,
        num_memory: int,
        multi_level: bool,
        levels: tuple[int, ...] | None,
        level_norm: bool,
        gate: Gate,
        gate_bias_init: float | None,
        long_skip: Literal["add", "none"],
        checkpoint_cross: bool,
        **mae: Any,
    ) -> None:
        super().__init__(**mae, num_memory=num_memory)
        self.skip = long_skip == "add"
        self.chosen = tuple(range(mae["depth"])) if levels is None else tuple(levels)
        self.multi_level = multi_level
        if not multi_level:
            return
        count, width = len(self.chosen), mae["decoder_width"]
        norms = [nn.LayerNorm(mae["width"], eps=1e-6) if level_norm else nn.Identity() for _ in self.chosen]
        self.level_norms = nn.ModuleList(norms)
        heads, ratio = mae["decoder_heads"], mae["mlp_ratio"]
        self.decoder_blocks = nn.ModuleList(
            MultiLevelBlock(width, heads, ratio, count, gate, gate_bias_init, checkpoint_cross)
            for _ in range(mae["decoder_depth"])
        )
        for block in self.decoder_blocks:
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    nn.init.xavier_uniform_(part.weight)
                    nn.init.zeros_(part.bias)

    def run(self, blocks: nn.ModuleList, x: Tensor, *context: Tensor) -> list[Tensor]:
        """Outputs of all blocks; with long skips, block i's output joins the input of block depth - 1 - i.

        Neighbours are left out: there the sum would only double the residual stream.
        """
        outputs: list[Tensor] = []
        for i, block in enumerate(blocks):
            partner = len(blocks) - 1 - i
            if self.skip and partner < i - 1:
                x = x + outputs[partner]
            x = block(x, *context)
            outputs.append(x)
        return outputs

    def encode(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised encoder output ``(B, K (+ 1), width)``."""
        tokens: Tensor = self.norm(self.run(self.blocks, self.embed(images, keep))[-1])
        return tokens

    def forward(self, images: Tensor, masking: Masking) -> Tensor:
        """Predicted pixels of every patch, ``(B, N, patch * patch * C)``."""
        outputs = self.run(self.blocks, self.embed(images, masking.keep))
        y = self.spread(self.norm(outputs[-1]), masking.restore)
        if not self.multi_level:
            return self.predict(self.run(self.decoder_blocks, y)[-1])
        normed = [norm(outputs[i]) for norm, i in zip(self.level_norms, self.chosen, strict=True)]
        levels = self.decoder_embed(torch.stack(normed, dim=1))
        return self.predict(self.run(self.decoder_blocks, y, levels)[-1])


class MemMCMAE(MaskedAutoencoder):
    """Memory-augmented multi-level cross-attentional masked autoencoder (MemMC-MAE).

    The rows of the paper's ablation: ``num_memory=0, multi_level=False, long_skip="none"`` is the MAE,
    ``multi_level=False`` adds the memory, the defaults add the multi-level decoder.

    Args:
        num_memory: memory slots of each encoder layer; the paper gives no number, 40 is Meshed-Memory's.
        multi_level: cross-attention to the encoder's levels in every decoder block.
        levels: encoder blocks that serve as levels; None = all, as in the paper.
        level_norm: a LayerNorm for each level before the shared projection; Meshed-Memory's levels are normalised
            (post-norm), raw pre-norm streams are not.
        gate: ``channel`` is eq. 3 to the letter; ``token`` weighs whole tokens, is about half as costly and fits the
            paper's reported time better.
        gate_bias_init: None = the gates sum to 1 at the start; the paper's plain sum would start at L / 2 levels.
        long_skip: ``add`` = the paper's residual connections from earlier to later blocks, without parameters.
        checkpoint_cross: recompute the multi-level operator in the backward pass: less memory, more time.
        lr: peak learning rate, about 10 times MAE's base rate as in the paper.
        **mae: arguments of :class:`~zoo.reconstruction.mae.MaskedAutoencoder`.
    """

    reference = {
        "title": "Unsupervised Anomaly Detection in Medical Images with a Memory-augmented Multi-level "
        "Cross-attentional Masked Autoencoder",
        "venue": "MLMI",
        "year": 2023,
        "url": "https://arxiv.org/abs/2203.11725",
    }
    dims = (2,)
    checkpoint_format = "mae"  # the shared parts; memory, levels and gates stay new
    tiny = {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "decoder_width": 32,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "num_memory": 4,
    }

    def __init__(
        self,
        *,
        num_memory: int = 40,
        multi_level: bool = True,
        levels: tuple[int, ...] | None = None,
        level_norm: bool = True,
        gate: Gate = "channel",
        gate_bias_init: float | None = None,
        long_skip: Literal["add", "none"] = "add",
        checkpoint_cross: bool = False,
        lr: float = 1.5e-3,
        **mae: Any,
    ) -> None:
        super().__init__(lr=lr, **mae)

    def make_network(self) -> MemMCNetwork:
        """The network with its memory and levels."""
        names = ["num_memory", "multi_level", "levels", "level_norm", "gate", "gate_bias_init", "long_skip"]
        names += ["checkpoint_cross"]
        levels = self.hparams["levels"]
        if levels is not None and not (levels and all(0 <= i < self.hparams["depth"] for i in levels)):
            raise UserError(f"levels {levels} must name encoder blocks from 0 to {self.hparams['depth'] - 1}")
        return MemMCNetwork(**self.network_arguments(), **{name: self.hparams[name] for name in names})
