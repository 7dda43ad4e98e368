"""Standardised vectors: the statistics, when they stand, what encoder and decoder make of them."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from agentzoo.blocks.decoders import ConvDecoder, Decoder
from agentzoo.blocks.encoders import ConvEncoder, Encoder
from agentzoo.blocks.layers import MLP
from agentzoo.blocks.standardize import FLOOR, LIMIT, Standardizer
from agentzoo.runtime.spec import ObsSpec

SPEED = ObsSpec(kind="vector", shape=(2,), source=(2,))
GEAR = ObsSpec(kind="onehot", shape=(3,), source=(), nvec=(3,), start=(0,))
IMAGE = ObsSpec(kind="image", shape=(64, 64, 3), source=(64, 64, 3))


def vectors(n: int = 1000) -> Tensor:
    """Numbers of very different sizes, far from zero."""
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([0.05, 1.0, 40.0]) + torch.tensor([3.0, 0.0, -200.0])


def measured(*, running: bool = False, chunks: int = 1) -> Standardizer:
    one = Standardizer([True] * 3, running=running)
    for chunk in vectors().chunk(chunks):
        one.measure(chunk, learning=False)
    return one


@pytest.mark.parametrize("chunks", [1, 7, 1000])
def test_statistics_are_those_of_all_vectors_however_they_came(chunks: int) -> None:
    one = measured(chunks=chunks)
    assert_close(one.mean, vectors().mean(0))
    assert_close(1 / one.scale, vectors().std(0, unbiased=False), rtol=1e-4, atol=0)
    scaled = one(vectors())
    assert_close(scaled.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    assert_close(scaled.std(0), torch.ones(3), atol=1e-2, rtol=0)


def test_inverse_gives_back_what_was_seen() -> None:
    one = measured()
    assert_close(one.inverse(one(vectors())), vectors())


def test_nothing_changes_before_a_vector_was_measured() -> None:
    one = Standardizer([True] * 3, running=False)
    x = torch.tensor([[0.5, -3.0, 9.0]])
    assert torch.equal(one(x), x)
    assert torch.equal(one.inverse(x), x)


def test_what_never_moved_is_not_blown_up_and_outliers_are_clipped() -> None:
    one = Standardizer([True], running=False)
    one.measure(torch.full((50, 1), 7.0), learning=False)
    assert 1 / one.scale.item() == pytest.approx(FLOOR)
    assert one(torch.tensor([[7.0 + FLOOR]])).item() == pytest.approx(1.0, rel=1e-3)
    assert one(torch.tensor([[1e6], [-1e6]])).flatten().tolist() == [LIMIT, -LIMIT]


def test_prefills_statistics_stand_once_updates_have_begun() -> None:
    one = measured()
    before = one.mean.clone()
    one.measure(vectors() + 5, learning=True)
    assert torch.equal(one.mean, before)
    # a run of another task begins with these weights, and with random vectors of its own
    other = Standardizer([True] * 3, running=False)
    other.load_state_dict(one.state_dict())
    other.measure(vectors() + 5, learning=False)
    assert torch.equal(other.mean, before)


def test_running_statistics_go_on() -> None:
    one = measured(running=True)
    before = one.mean.clone()
    one.measure(vectors() + 6, learning=True)
    assert_close(one.mean, before + 3)


def encoder(obs: dict[str, ObsSpec], form: str = "prefill") -> Encoder:
    torch.manual_seed(0)
    return Encoder(
        obs,
        image=lambda c: ConvEncoder(c, 2),
        vector=lambda n: MLP(n, 5, 2),
        standardize=form,
    )


def decoder(obs: dict[str, ObsSpec], standardizer: Standardizer | None) -> Decoder:
    torch.manual_seed(1)
    return Decoder(
        obs,
        image=lambda c: ConvDecoder(6, c, 2),
        vector=lambda n: MLP(6, 5, 2, n),
        vector_std=0.5,
        standardizer=standardizer,
    )


def batch(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    speed = rng.normal([10, -3], [0.1, 20], (n, 2)).astype(np.float32)
    return {"speed": speed, "gear": np.eye(3, dtype=np.float32)[rng.integers(3, size=n)]}


def test_there_are_no_statistics_where_nothing_is_standardised() -> None:
    assert list(encoder({"speed": SPEED}, "none").buffers()) == []
    assert list(encoder({"image": IMAGE}).buffers()) == []
    assert list(encoder({"gear": GEAR}).buffers()) == []
    encoder({"speed": SPEED}, "none").measure(batch(4), learning=False)


def test_onehots_pass_as_they_are() -> None:
    both = encoder({"speed": SPEED, "gear": GEAR})
    both.measure(batch(500), learning=False)
    assert both.standardizer is not None
    gear = torch.eye(3)
    scaled = both.standardizer(torch.cat([torch.tensor([[10.0, -3.0]]).expand(3, 2), gear], -1))
    assert torch.equal(scaled[:, 2:], gear)
    assert_close(scaled[:, :2], torch.zeros(3, 2), atol=0.2, rtol=0)


def test_the_encoder_sees_deviations_from_the_mean() -> None:
    one = encoder({"speed": SPEED})
    raw = torch.from_numpy(batch(500)["speed"])
    plain = encoder({"speed": SPEED}, "none")  # the same weights
    one.measure(batch(500), learning=False)
    expected = plain({"speed": (raw - raw.mean(0)) / raw.std(0, unbiased=False)})
    assert_close(one({"speed": raw}), expected, rtol=1e-3, atol=1e-3)


def test_the_decoders_loss_is_in_scaled_units_and_its_predictions_in_raw_ones() -> None:
    one = encoder({"speed": SPEED})
    one.measure(batch(500), learning=False)
    shared, plain = decoder({"speed": SPEED}, one.standardizer), decoder({"speed": SPEED}, None)
    raw = torch.from_numpy(batch(500)["speed"])[None]
    mean, std = raw[0].mean(0), raw[0].std(0, unbiased=False)
    feat = torch.randn(1, 500, 6)
    scaled = {"speed": (raw - mean) / std}
    got, expected = shared.losses(feat, {"speed": raw}), plain.losses(feat, scaled)
    assert_close(got["vector"], expected["vector"], rtol=1e-3, atol=1e-3)
    assert_close(shared(feat)["speed"], plain(feat)["speed"] * std + mean, rtol=1e-3, atol=1e-3)


def test_the_statistics_are_saved_once() -> None:
    one = encoder({"speed": SPEED})
    names = decoder({"speed": SPEED}, one.standardizer).state_dict()
    assert not any("mean" in name for name in names)
    assert {"standardizer.mean", "standardizer.scale"} <= set(one.state_dict())
