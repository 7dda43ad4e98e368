"""The layer-norm GRU against its equations, and how it begins."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from agentzoo.blocks.cores import LayerNormGRUCore
from agentzoo.blocks.init import keras_init
from agentzoo.blocks.layers import LayerNorm

Z, A, H, D = 6, 2, 5, 4


def core(norm: type[LayerNorm] | None = None) -> LayerNormGRUCore:
    torch.manual_seed(0)
    made = LayerNormGRUCore(Z, A, H, D, norm=norm)
    for p in made.parameters():
        nn.init.normal_(p)
    return made


def layer_norm(x: Tensor, norm: LayerNorm) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-3) * norm.weight + norm.bias


def test_layer_norm_has_keras_epsilon_and_is_float32() -> None:
    norm = LayerNorm(7)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 7) / 30  # small enough for the epsilon to matter
    assert_close(norm(x), layer_norm(x, norm))
    assert norm(x.bfloat16()).dtype is torch.float32


@pytest.mark.parametrize("norm", [None, LayerNorm])
def test_the_core_is_its_equations(norm: type[LayerNorm] | None) -> None:
    unit = core(norm)
    deter, stoch, action = torch.randn(3, D), torch.randn(3, Z), torch.randn(3, A)
    x = F.linear(stoch, unit.inputs.late.weight) + unit.inputs.early(action)
    x = F.elu(layer_norm(x, unit.norm) if isinstance(unit.norm, LayerNorm) else x)
    joined = torch.cat([x, deter], -1)
    gates = layer_norm(joined @ unit.gates.weight.T + unit.gates.bias, unit.gate_norm)
    r, c, u = gates[:, :D], gates[:, D : 2 * D], gates[:, 2 * D :]
    u, c = torch.sigmoid(u - 1), torch.tanh(torch.sigmoid(r) * c)
    found = unit(deter, stoch, unit.project(action))
    assert_close(found, u * c + (1 - u) * deter, rtol=1e-4, atol=1e-5)


def test_a_silent_unit_keeps_most_of_its_state() -> None:
    unit = core()
    nn.init.zeros_(unit.gate_norm.weight)
    nn.init.zeros_(unit.gate_norm.bias)
    deter = torch.randn(3, D)
    found = unit(deter, torch.randn(3, Z), unit.project(torch.randn(3, A)))
    assert_close(found, (1 - 0.2689414) * deter)


def test_the_norm_spans_all_three_gates() -> None:
    unit = core()
    assert unit.gate_norm.normalized_shape == (3 * D,)


def test_parameters_at_paper_size() -> None:
    with torch.device("meta"):
        unit = LayerNormGRUCore(1024, 18, 600, 600)
    dense, gates = (1024 + 18) * 600 + 600, (600 + 600) * 1800 + 1800
    assert sum(p.numel() for p in unit.parameters()) == dense + gates + 2 * 1800


def test_weights_begin_as_keras_begins_them() -> None:
    torch.manual_seed(0)
    unit = LayerNormGRUCore(300, 100, 200, 200).apply(keras_init)
    bounds = {"late": (6 / 600) ** 0.5, "early": (6 / 600) ** 0.5}
    for name, bound in bounds.items():
        weight = getattr(unit.inputs, name).weight
        assert 0.98 * bound < weight.abs().max() <= bound
    assert 0.98 * (6 / 1000) ** 0.5 < unit.gates.weight.abs().max() <= (6 / 1000) ** 0.5
    for bias in (unit.inputs.early.bias, unit.gates.bias, unit.gate_norm.bias):
        assert (bias == 0).all()
    assert (unit.gate_norm.weight == 1).all()
