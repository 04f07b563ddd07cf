"""MemMC-MAE: the two operators equal their equations and their limits; the ablation's switches; import."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.errors import UserError
from zoo.nn.vit import Attention, Block, random_masking, split_heads
from zoo.reconstruction.mae import MaskedAutoencoder
from zoo.reconstruction.memmc_mae import MemMCMAE, MultiLevelAttention, MultiLevelBlock


def operator(gate="channel", levels=3, bias=None, width=16, heads=4):
    torch.manual_seed(0)
    module = MultiLevelAttention(width, heads, levels, gate, bias)
    torch.nn.init.normal_(module.gate_weight, std=0.3)
    torch.nn.init.normal_(module.proj.bias)
    return module


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["channel", "token"]), st.integers(1, 5), st.integers(1, 9), st.integers(1, 7))
def test_fused_equals_loop_with_gradients(gate, levels, queries, keys):
    module = operator(gate, levels)
    s, x = torch.randn(2, queries, 16, requires_grad=True), torch.randn(2, levels, keys, 16, requires_grad=True)
    inputs = [s, x, *module.parameters()]
    weight = torch.randn(2, queries, 16)
    fused, loop = module(s, x), module.forward_loop(s, x)
    torch.testing.assert_close(fused, loop, atol=1e-6, rtol=1e-5)
    for a, b in zip(
        torch.autograd.grad((fused * weight).sum(), inputs),
        torch.autograd.grad((loop * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("gate", ["channel", "token"])
def test_fused_equals_loop_in_float64(gate):
    module = operator(gate, 12).double()
    s, x = torch.randn(2, 9, 16).double(), torch.randn(2, 12, 5, 16).double()
    torch.testing.assert_close(module(s, x), module.forward_loop(s, x), atol=1e-13, rtol=0)


@pytest.mark.parametrize("gate", ["channel", "token"])
def test_levels_and_their_tokens_may_be_permuted(gate):
    module, s, x = operator(gate), torch.randn(1, 5, 16), torch.randn(1, 3, 6, 16)
    before = module(s, x)
    torch.testing.assert_close(module(s, x[:, :, torch.randperm(6)]), before, atol=1e-6, rtol=1e-5)
    order = torch.tensor([2, 0, 1])
    for parameter in (module.gate_weight, module.gate_bias):
        parameter.data = parameter.data[order]
    torch.testing.assert_close(module(s, x[:, order]), before, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("gate", ["channel", "token"])
def test_closed_gates_give_the_plain_block(gate):
    block = MultiLevelBlock(16, 4, 4.0, 3, gate, -1e4, False)
    plain = Block(16, 4)
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if "cross" not in k})
    y = torch.randn(2, 5, 16)
    torch.testing.assert_close(block(y, torch.randn(2, 3, 4, 16)), plain(y), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gate", ["channel", "token"])
def test_one_open_level_is_plain_cross_attention(gate):
    module, s, x = operator(gate, 1, 1e4), torch.randn(2, 5, 16), torch.randn(2, 1, 6, 16)
    q, (k, v) = module.q(s), module.kv(x[:, 0]).chunk(2, -1)
    expected = F.scaled_dot_product_attention(*(split_heads(part, 4) for part in (q, k, v))).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(s, x), module.proj(expected), atol=1e-6, rtol=1e-5)


def test_gates_sum_to_one_at_the_start():
    module = MultiLevelAttention(16, 4, 12)
    torch.testing.assert_close(torch.sigmoid(module.gate_bias).sum(0), torch.ones(16))


def test_memory_is_extra_rows_of_keys_and_values():
    torch.manual_seed(0)
    attention, x = Attention(16, 4, num_memory=3), torch.randn(2, 5, 16)
    q, k, v = attention.qkv(x).chunk(3, -1)
    k = torch.cat([k, attention.memory_key.expand(2, -1, -1)], 1)
    v = torch.cat([v, attention.memory_value.expand(2, -1, -1)], 1)
    q, k, v = (part.view(2, -1, 4, 4).transpose(1, 2) for part in (q, k, v))
    out = ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 16)
    torch.testing.assert_close(attention(x), attention.proj(out), atol=1e-6, rtol=1e-5)
    order = torch.randperm(5)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], atol=1e-6, rtol=1e-5)


def build(cls=MemMCMAE, **arguments):
    torch.manual_seed(0)
    model = cls(**{**cls.tiny, **arguments})
    model.configure_model()
    return model.eval()


def test_all_switches_off_is_the_mae():
    mae = build(MaskedAutoencoder)
    off = build(num_memory=0, multi_level=False, long_skip="none", decoder_depth=1)
    off.network.load_state_dict(mae.network.state_dict())
    image, noise = torch.rand(2, 1, 32, 32), torch.rand(2, 16)
    assert torch.equal(off.loss(image, noise), mae.loss(image, noise))
    assert torch.equal(off(image).anomaly_map, mae(image).anomaly_map)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"gate": "token"}, {"multi_level": False}, {"levels": (1,)}, {"level_norm": False}, {"cls_token": False}],
)
def test_every_variant_trains_all_its_parameters(arguments):
    model = build(depth=4, **arguments)
    model.loss(torch.rand(2, 1, 32, 32), torch.rand(2, 16)).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert torch.isfinite(model(torch.zeros(1, 1, 32, 32)).anomaly_score).all()


def test_recomputing_the_operator_changes_nothing():
    plain, light = build(), build(checkpoint_cross=True)
    image, noise = torch.rand(2, 1, 32, 32), torch.rand(2, 16)
    for model in (plain, light):
        model.loss(image, noise).backward()
    for a, b in zip(plain.parameters(), light.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_long_skips_add_outer_blocks_only():
    model = build(depth=4)
    masking = random_masking(torch.rand(1, 16), 0.75)
    network, x = model.network, model.network.embed(torch.rand(1, 1, 32, 32), masking.keep)
    b = network.blocks
    first = b[0](x)
    expected = b[3](b[2](b[1](first)) + first)
    torch.testing.assert_close(network.run(b, x)[-1], expected)


def test_mae_weights_fill_the_shared_parts():
    source = build(MaskedAutoencoder, image_size=32, in_channels=3, decoder_depth=2)
    model = MemMCMAE.from_original(
        {"model": source.network.state_dict()}, **{k: v for k, v in MemMCMAE.tiny.items() if k != "decoder_depth"}
    )
    own = model.network.state_dict()
    for key, value in source.network.state_dict().items():
        assert torch.equal(own[key], value), key
    assert any("cross" in key for key in own)


def test_mae_files_become_either_method_by_name(tmp_path):
    source = build(MaskedAutoencoder, image_size=32, in_channels=3)
    torch.save({"model": source.network.state_dict()}, tmp_path / "mae.pth")
    heads = {"heads": 2, "decoder_heads": 2, "image_size": 32}
    assert type(zoo.import_checkpoint(tmp_path / "mae.pth", **heads)) is MaskedAutoencoder
    model = zoo.import_checkpoint(tmp_path / "mae.pth", format="mae", model="memmc_mae", num_memory=3, **heads)
    assert type(model) is MemMCMAE
    assert torch.equal(model.network.blocks[1].mlp.fc1.weight, source.network.blocks[1].mlp.fc1.weight)
    assert torch.isfinite(model.eval()(torch.rand(2, 3, 32, 32)).anomaly_score).all()


def test_levels_outside_the_encoder_are_refused():
    with pytest.raises(UserError, match="encoder blocks from 0 to 1"):
        build(levels=(0, 5))


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(index))}


def test_training_recipe_and_reload(tmp_path):
    model = MemMCMAE(**MemMCMAE.tiny)
    trainer = L.Trainer(
        max_epochs=6,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    with pytest.warns(UserWarning, match="10 times MAE's base rate"):
        trainer.fit(model, torch.utils.data.DataLoader(Images(), batch_size=4))
    optimizer = trainer.optimizers[0]
    free = {id(p) for p in optimizer.param_groups[1]["params"]}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    for name, parameter in model.network.named_parameters():
        assert (id(parameter) in free) == (parameter.ndim == 1 or "memory" in name or name.endswith("bias")), name
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)  # the end of the cosine
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = MemMCMAE.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    image = torch.rand(2, 1, 32, 32)
    assert again.hparams["num_memory"] == 4
    torch.testing.assert_close(again.eval()(image).anomaly_map, model.eval()(image).anomaly_map)
