"""Couplings: exact inverses and determinants, nearly the identity at first, parameter counts of the papers' flows."""

import pytest
import torch
from torch import nn

from zoo.nn.flows import Flow
from zoo.pretrained.cs_flow import _CrossCoupling


def dense(source, target):
    return nn.Sequential(nn.Linear(source, 8), nn.Tanh(), nn.Linear(8, target))


def convolution(source, target):
    return nn.Conv2d(source, target, 3, padding=1)


def shaken(module):
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return module.double()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("condition", [0, 3])
def test_inverse_and_determinant_are_exact(soft, condition):
    flow = shaken(Flow(5, [dense] * 3, clamp=1.9, condition_channels=condition, soft=soft))
    x = torch.randn(6, 5, dtype=torch.float64)
    code = torch.randn(6, condition, dtype=torch.float64) if condition else None
    z, determinant = flow(x, code)
    # the permutation is kept in single precision
    assert torch.allclose(flow.inverse(z, code), x, atol=1e-5 if soft else 1e-10)
    for number in range(6):
        given = None if code is None else code[number : number + 1]
        jacobian = torch.autograd.functional.jacobian(lambda row, given=given: flow(row[None], given)[0][0], x[number])
        assert torch.allclose(jacobian.det().abs().log(), determinant[number], atol=1e-5)


def test_determinant_of_maps_is_that_of_the_whole_map():
    flow = shaken(Flow(3, [convolution] * 2, clamp=2.0))
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64)
    z, determinant = flow(x)
    assert determinant.shape == (1, 4, 2)
    assert torch.allclose(flow.inverse(z), x, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda flat: flow(flat.view_as(x))[0].flatten(), x.flatten())
    assert torch.allclose(jacobian.det().abs().log(), determinant.sum(), atol=1e-8)


def test_a_new_flow_hardly_changes_its_input():
    torch.manual_seed(0)
    flow, x = Flow(6, [dense], clamp=1.9), torch.randn(50, 6)
    z, determinant = flow(x)
    order = flow.steps[0].permutation
    assert (z - x[:, order]).abs().mean() < 0.1
    assert determinant.abs().max() < 0.5


def test_cross_scale_coupling_starts_as_a_permutation_and_its_determinant_is_exact():
    torch.manual_seed(0)
    coupling = _CrossCoupling(4, 6, 3, 3.0, seed=0)
    maps = [torch.randn(1, 4, side, side) for side in (4, 2, 1)]
    moved, determinant = coupling(maps)
    assert not determinant.any()
    assert all(
        torch.equal(after, before[:, order]) for after, before, order in zip(moved, maps, coupling.orders, strict=True)
    )
    coupling = shaken(coupling)
    flat = torch.cat([values.double().flatten() for values in maps])

    def apply(values):
        parts = values.split([64, 16, 4])
        shaped = [part.view(1, 4, side, side) for part, side in zip(parts, (4, 2, 1), strict=True)]
        return torch.cat([out.flatten() for out in coupling(shaped)[0]])

    parts = flat.split([64, 16, 4])
    _, determinant = coupling([part.view(1, 4, side, side) for part, side in zip(parts, (4, 2, 1), strict=True)])
    # the outputs of the subnets are float32 by design
    assert torch.autograd.functional.jacobian(apply, flat).det().abs().log() == pytest.approx(
        float(determinant), abs=1e-4
    )
