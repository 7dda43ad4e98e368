"""Coarse colours with noise inside their steps."""

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.encoders import dequantise, join_images


def test_five_bits_of_the_reference() -> None:
    image = torch.tensor([0, 7, 8, 127, 128, 255], dtype=torch.uint8)
    coarse = dequantise(image, torch.zeros(6))
    assert coarse.tolist() == [-0.5, -0.5, -0.46875, -0.03125, 0.0, 0.46875]


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_values_stay_in_range_and_in_their_own_step(bits: int) -> None:
    image = torch.arange(256, dtype=torch.uint8)
    low, high = (dequantise(image, torch.full((256,), x), bits) for x in (0.0, 1 - 2**-24))
    assert low.min() == -0.5
    assert high.max() <= 0.5
    steps = low.unique()
    assert len(steps) == 2**bits
    assert_close(high - low, torch.full((256,), 1.0 / 2**bits), atol=1e-6, rtol=0)


def test_scaled_images_are_joined_as_they_are() -> None:
    a, b = torch.rand(2, 4, 4, 3) - 0.5, torch.rand(2, 4, 4, 1) - 0.5
    assert torch.equal(join_images({"a": a, "b": b}, ["a", "b"]), torch.cat([a, b], -1))
    assert join_images({"a": torch.full((4, 4, 3), 255, dtype=torch.uint8)}, ["a"]).max() == 0.5
