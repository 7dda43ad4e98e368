"""Half precision changes gradients by rounding alone, and reaches every parameter."""

from dataclasses import replace

import pytest
import torch

from agentzoo.algorithm import NoiseSource, module
from tests.train.test_cuda_graph import CASES, build_case, two_episodes


@pytest.mark.parametrize("name", list(CASES))
def test_bf16_gradients_are_those_of_fp32_but_for_rounding(name: str) -> None:
    half, full = build_case(name), build_case(name)
    half.config = replace(half.config, precision="bf16")
    batch, before = two_episodes(full, 0), dict(module(build_case(name)).named_parameters())
    for k in range(2):  # the first step of a warm-up moves nothing
        a, _ = half.update(batch, NoiseSource(k))
        b, _ = full.update(batch, NoiseSource(k))
    for key in (key for key in b if key.endswith("grad_norm")):
        assert a[key] != b[key], key
        torch.testing.assert_close(a[key], b[key], rtol=0.2, atol=1e-3)
    moved = [key for key, p in module(half).named_parameters() if not torch.equal(p, before[key])]
    other = [key for key, p in module(full).named_parameters() if not torch.equal(p, before[key])]
    assert moved == other != []
