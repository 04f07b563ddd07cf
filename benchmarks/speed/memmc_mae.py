"""Speed of MemMC-MAE: fused operators against the loop, the MAE step against timm's blocks, training and inference.

On a GPU at ViT-B/16, 224 pixels, bf16; on a CPU at reduced size. ``python -m benchmarks.speed.memmc_mae``. Candidates
are interleaved in one process; ratios are medians over rounds of ratios within a round, in CPU seconds on a CPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import zoo
from zoo.nn.masked_vit import masked_mse
from zoo.nn.vit import patchify, random_masking
from zoo.reconstruction.mae import MaskedAutoencoder
from zoo.reconstruction.memmc_mae import Gate, MultiLevelAttention

# GFLOP of one training image (forward and backward, multiply-add = 2) at ViT-B/16 and 224 pixels
TRAINING_GFLOP = {"mae": 58.7, "token": 86.2, "channel": 172.8}
H100_TFLOPS = 800.0


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Duration of one call: CPU seconds on a CPU, wall seconds with synchronisation on a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def interleave(
    candidates: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Durations of each candidate in every round, after one warm-up call."""
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(seconds(run, device))
    return times


def ratio_line(title: str, times: dict[str, list[float]]) -> str:
    """Median and range of slow / fast over the rounds; the first candidate is the slow one."""
    slow, fast = times.values()
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    names = " / ".join(times)
    return f"{title}: {names} = {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def operator(gate: Gate, device: torch.device, batch: int, rounds: int) -> str:
    """Forward and backward of one multi-level operator of ViT-B size: loop against fused."""
    module = MultiLevelAttention(512, 16, 12, gate).to(device)
    nn.init.normal_(module.gate_weight, std=0.02)
    s = torch.randn(batch, 197, 512, device=device, requires_grad=True)
    levels = torch.randn(batch, 12, 50, 512, device=device, requires_grad=True)

    def step(form: Callable[[Tensor, Tensor], Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            form(s, levels).float().square().mean().backward()

    forms: dict[str, Callable[[], object]] = {"loop": lambda: step(module.forward_loop), "fused": lambda: step(module)}
    return ratio_line(f"operator, {gate} gate, batch {batch}", interleave(forms, device, rounds))


def against_timm(device: torch.device, batch: int, rounds: int) -> str:
    """MAE training step with our blocks and with timm's, everything else shared."""
    from timm.models.vision_transformer import Block as TimmBlock

    size, arguments = (224, {}) if device.type == "cuda" else (112, {"depth": 4, "decoder_depth": 2})
    ours = zoo.create_model("mae", image_size=size, in_channels=3, **arguments).to(device)
    theirs = zoo.create_model("mae", image_size=size, in_channels=3, **arguments).to(device)
    assert isinstance(theirs, MaskedAutoencoder)
    network = theirs.network
    network.blocks = nn.ModuleList(TimmBlock(768, 12, qkv_bias=True) for _ in network.blocks).to(device)
    network.decoder_blocks = nn.ModuleList(TimmBlock(512, 16, qkv_bias=True) for _ in network.decoder_blocks).to(device)
    steps: dict[str, Callable[[], object]] = {"timm": training_step(theirs, batch), "ours": training_step(ours, batch)}
    return ratio_line(f"MAE step, {size} px, batch {batch}", interleave(steps, device, rounds))


def training_step(model: zoo.AnomalyModule, batch: int) -> Callable[[], None]:
    """One optimiser step on fixed random images under bf16 on a GPU, float32 on a CPU."""
    assert isinstance(model, MaskedAutoencoder)
    device = model.mean.device
    images = torch.rand(batch, model.in_channels, *model.image_size, device=device)
    noise = torch.rand(batch, model.test_noise.shape[1], device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    patch = model.hparams["patch_size"]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            masking = random_masking(noise, 0.75)
            loss = masked_mse(model.network(images, masking), patchify(images, patch), masking.mask)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def gpu(batch: int, rounds: int) -> None:
    """Training and inference rates of the full models, memory and the profile's top entries."""
    device = torch.device("cuda")
    for name, arguments in (("mae", {}), ("token", {"gate": "token"}), ("channel", {"gate": "channel"})):
        method = "mae" if name == "mae" else "memmc_mae"
        model = zoo.create_model(method, image_size=224, in_channels=3, compile_network=True, **arguments).to(device)
        torch.cuda.reset_peak_memory_stats()
        step = training_step(model, batch)
        took = statistics.median(interleave({name: step}, device, rounds)[name])
        rate, floor = batch / took, H100_TFLOPS * 1e3 / TRAINING_GFLOP[name]
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"{name}: {rate:,.0f} training images/s, floor {floor:,.0f}, share {rate / floor:.0%}, {peak:.1f} GiB")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            step()
        print(profile.key_averages().table(sort_by="self_device_time_total", row_limit=8))
        images, model = torch.rand(64, 3, 224, 224, device=device), model.eval()
        with torch.autocast("cuda", torch.bfloat16):
            took = statistics.median(interleave({name: lambda m=model, x=images: m(x)}, device, rounds)[name])  # type: ignore[misc]
        print(f"{name}: {took / 64 * 1e3:.2f} ms per image at test time, ten masks, batch 64")


def memory() -> None:
    """Bytes that autograd keeps for one step of the small model, with and without recomputing the operator."""
    for gate in ("token", "channel"):
        for light in (False, True):
            arguments = {"patch_size": 8, "width": 192, "depth": 6, "heads": 6, "decoder_width": 128}
            model = zoo.create_model(
                "memmc_mae", image_size=64, gate=gate, checkpoint_cross=light, decoder_depth=4, **arguments
            )
            assert isinstance(model, MaskedAutoencoder)
            kept: dict[int, int] = {}

            def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = model.loss(torch.rand(16, 1, 64, 64), torch.rand(16, 64))
            print(f"{gate} gate, recompute {light}: {sum(kept.values()) / 2**20:.0f} MiB kept for backward")
            loss.backward()


def main() -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256, help="of the GPU part")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    small = 2 if device.type == "cpu" else 32
    print(f"device {device}, torch {torch.__version__}")
    for gate in ("channel", "token"):
        print(operator(gate, device, small, arguments.rounds))
    print(against_timm(device, 4 * small, arguments.rounds))
    memory()
    if device.type == "cuda":
        gpu(arguments.batch, arguments.rounds)


if __name__ == "__main__":
    main()
