"""IGD: interpolated Gaussian descriptor, an autoencoder whose codes of healthy images gather around one centre.

Chen, Tian et al. 2022, "Deep one-class classification via interpolated Gaussian descriptor" (AAAI, arXiv 2101.10043).
The original has two models, of whole images and of patches, whose scores are averaged; here both are trained in one fit
and share no parameter. Without descriptor and interpolation it is the "MS-SSIM autoencoder" of the tables.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import AnomalyModule, Batch, Prediction, Stage
from zoo.nn.adversarial import player_step
from zoo.nn.convolutional import check_divisible
from zoo.nn.described_autoencoder import PATCH, BackboneEncoder, DescribedAutoencoder, patch_encoder
from zoo.nn.patches import cut_patches, join_patches

_STRIDE = 16
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GREY_MEAN, _GREY_STD = 0.449, 0.226  # their averages
_ADVERSARIAL = 0.1  # weight of the interpolation in the autoencoder's loss
_PATCHES_AT_ONCE = 1024
_AUTOENCODER, _CRITIC = range(2)


class IGD(AnomalyModule):
    """Interpolated Gaussian descriptor (IGD), on whole images, on patches of 32 pixels, or both.

    Autoencoder: reconstruction error ``0.85 (1 - MS-SSIM) + 0.15 L1 / range``, plus ``mean(1 - exp(-|z - c|^2 / s))``
    around the mean code c of the training set, plus a tenth of what a critic finds in images of codes that are mixed
    with another image's; the critic estimates the share of that mixture. c and s are collected before the training and
    again in the course of it. Deviations: the patches' encoder is trained from scratch, for the release's first part of
    it is an unpublished distilled network; s is the mean squared distance over images (at least 1), not over batches;
    entries of c that are exactly 0 are pushed away too; the signed difference of the release's patch score is absolute.

    Args:
        image_size: (H, W) in pixels, multiples of 16 with patches and divisible until below 8 for whole images; the
            paper: 256.
        in_channels: 1 or 3.
        scales: ``both`` averages the scores and adds the maps; ``global`` or ``local`` alone.
        gaussian: with the descriptor.
        interpolation: with the critic of mixed codes.
        backbone: of the encoder of whole images, a timm model.
        layer: its last layer, averaged over all places.
        weights: of the backbone: ``imagenet``, ``random``, or a path, for example a checkpoint of ``ccd``.
        train_backbone: let the backbone learn too, as "CCD + IGD" does.
        latent_dim: length of both codes.
        width: base width of the generator and critic of whole images.
        local_width: the same for patches.
        patch_images: images of a batch whose patches are trained on (the release: batches of 2).
        refreshes: how often centre and width are collected, the first time before the training (the release: every 10
            of 256 epochs).
        lr: of both Adams (betas 0 and 0.9), falling to 0 by a power of 0.9.
        weight_decay: of the autoencoder.
    """

    reference = {
        "title": "Deep One-Class Classification via Interpolated Gaussian Descriptor",
        "venue": "AAAI",
        "year": 2022,
        "url": "https://arxiv.org/abs/2101.10043",
    }
    tiny = {
        "image_size": 32,
        "backbone": "resnet10t",
        "weights": "random",
        "latent_dim": 8,
        "width": 4,
        "local_width": 4,
        "refreshes": 1,
    }
    small = {"backbone": "resnet10t", "weights": "random", "width": 8, "local_width": 4, "refreshes": 2, "lr": 0.001}

    scale: nn.ModuleDict

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        scales: Literal["both", "global", "local"] = "both",
        gaussian: bool = True,
        interpolation: bool = True,
        backbone: str = "resnet18",
        layer: str = "layer4",
        weights: str = "imagenet",
        train_backbone: bool = False,
        latent_dim: int = 128,
        width: int = 64,
        local_width: int = 32,
        patch_images: int = 2,
        refreshes: int = 25,
        lr: float = 1e-4,
        weight_decay: float = 1e-6,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False

    def build(self) -> None:
        """Create encoder, generator, critic and descriptor of each scale."""
        hp = self.hparams
        self.scale = nn.ModuleDict()
        if hp["scales"] != "local":
            encoder: nn.Module = BackboneEncoder(
                hp["backbone"], hp["layer"], hp["weights"], hp["train_backbone"], self.in_channels, hp["latent_dim"]
            )
            self.scale["whole"] = DescribedAutoencoder(
                encoder, self.in_channels, self.image_size, hp["width"], hp["latent_dim"], whole=True
            )
        if hp["scales"] != "global":
            check_divisible(self.image_size, _STRIDE, "IGD's grid of patches", minimum=PATCH)
            size = (PATCH, PATCH)
            encoder = patch_encoder(self.in_channels, hp["local_width"], hp["latent_dim"])
            self.scale["patch"] = DescribedAutoencoder(
                encoder, self.in_channels, size, hp["local_width"], hp["latent_dim"]
            )
        grey = self.in_channels == 1
        mean, deviation = ((_GREY_MEAN,), (_GREY_STD,)) if grey else (_MEAN, _STD)
        self.mean, self.deviation = (
            nn.Buffer(torch.tensor(values).view(-1, 1, 1), persistent=False) for values in (mean, deviation)
        )

    @property
    def scales(self) -> dict[str, DescribedAutoencoder]:
        """What works on whole images (``whole``) and on patches (``patch``)."""
        return {name: scale for name, scale in self.scale.items() if isinstance(scale, DescribedAutoencoder)}

    def stages(self) -> tuple[Stage, ...]:
        """Collect centre and width, optimise, and so on; without the descriptor only optimise."""
        if not self.hparams["gaussian"]:
            return (Stage("optimise", self._play),)
        refreshes: int = self.hparams["refreshes"]
        return (Stage("collect", self._collect, self._finish), Stage("optimise", self._play)) * refreshes

    def configure_optimizers(self) -> Any:
        """Adam for the autoencoders and for the critics, both with a polynomial fall to 0."""
        hp = self.hparams
        critics = [parameter for one in self.scales.values() for parameter in one.critic.parameters()]
        of_critics = {id(parameter) for parameter in critics}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in of_critics]
        betas = (0.0, 0.9)
        optimisers = [
            torch.optim.Adam(others, lr=hp["lr"], betas=betas, weight_decay=hp["weight_decay"]),
            torch.optim.Adam(critics, lr=hp["lr"], betas=betas),
        ]
        steps = max(self.optimise_batches, 1)
        return optimisers, [torch.optim.lr_scheduler.PolynomialLR(one, steps, power=0.9) for one in optimisers]

    def _parts(self, image: Tensor) -> dict[str, Tensor]:
        """What each scale trains on: normalised images, or the patches of the first few."""
        normal = (image - self.mean) / self.deviation
        parts = {"whole": normal, "patch": cut_patches(normal[: self.hparams["patch_images"]], PATCH, _STRIDE)}
        return {name: parts[name] for name in self.scale}

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        normal = (batch["image"] - self.mean) / self.deviation
        for name, scale in self.scales.items():
            for part in (normal if name == "whole" else cut_patches(normal, PATCH, _STRIDE)).split(_PATCHES_AT_ONCE):
                scale.collect(part)

    def _finish(self) -> None:
        for scale in self.scales.values():
            scale.settle()

    def _play(self, batch: Batch, batch_idx: int) -> None:
        """A step of the autoencoders, a step of the critics."""
        hp, parts = self.hparams, self._parts(batch["image"])
        shares = {name: 0.5 * torch.rand(len(part), 1).to(part.device) for name, part in parts.items()}
        made: dict[str, tuple[Tensor, Tensor]] = {}

        def autoencode() -> Tensor:
            total = batch["image"].new_zeros(())
            for name, part in parts.items():
                scale = self.scales[name]
                code = scale.encoder(part)
                reconstruction = scale.generator(code).float()
                error = scale.error(reconstruction, part).mean()
                total = total + error
                self.log(f"train/{name}_reconstruction", error.detach())
                if hp["gaussian"]:
                    total = total + scale.distance(code).mean()
                if hp["interpolation"]:
                    mixed = scale.generator(shares[name] * code + (1 - shares[name]) * code.flip(0)).float()
                    total = total + _ADVERSARIAL * scale.realism(mixed).square().mean()
                    made[name] = (reconstruction.detach(), mixed.detach())
            return total

        def criticise() -> Tensor:
            total = batch["image"].new_zeros(())
            for name, (reconstruction, mixed) in made.items():
                realism = self.scales[name].realism
                nearly = reconstruction + 0.2 * (parts[name] - reconstruction)
                total = total + (realism(mixed) - shares[name]).square().mean() + realism(nearly).square().mean()
            return total

        self.log("train/loss", player_step(self, _AUTOENCODER, autoencode))
        if hp["interpolation"]:
            self.log("train/critic_loss", player_step(self, _CRITIC, criticise))
        schedules: Any = self.lr_schedulers()
        for schedule in schedules if hp["interpolation"] else schedules[:1]:
            schedule.step()

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mean of both scales' scores, sum of their maps.

        Raises:
            UserError: centre and width were not collected yet.
        """
        normal = (image - self.mean) / self.deviation
        found = []
        reconstruction = None
        if "whole" in self.scale:
            scale = self.scales["whole"]
            code = scale.encoder(normal)
            restored = scale.generator(code).float()
            found.append((self._score(scale, restored, normal, code, 0.1), scale.error_map(restored, normal)))
            reconstruction = restored * self.deviation + self.mean
        if "patch" in self.scale:
            found.append(self._detect_patches(normal))
        scores, maps = zip(*found, strict=True)
        return Prediction(torch.stack(scores).mean(dim=0), torch.stack(maps).sum(dim=0), reconstruction)

    def _detect_patches(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        scale, scores, maps = self.scales["patch"], [], []
        patches = cut_patches(normal, PATCH, _STRIDE)
        for part in (patches,) if torch.compiler.is_compiling() else patches.split(_PATCHES_AT_ONCE):
            code = scale.encoder(part)
            restored = scale.generator(code).float()
            scores.append(self._score(scale, restored, part, code, 0.9))
            maps.append(scale.error_map(restored, part))
        score = torch.cat(scores).view(normal.shape[0], -1).amax(dim=1)
        return score, join_patches(torch.cat(maps), normal.shape[0], self.image_size, _STRIDE)

    def _score(
        self, scale: DescribedAutoencoder, restored: Tensor, image: Tensor, code: Tensor, share: float
    ) -> Tensor:
        error = scale.error(restored, image)
        if self.hparams["gaussian"] and not scale.descriptor.fitted:
            raise UserError("IGD has no centre yet: run fit, or load a checkpoint of a fit that has collected one")
        return share * error + (1 - share) * scale.distance(code) if self.hparams["gaussian"] else error
