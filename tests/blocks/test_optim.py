"""Adam in TensorFlow's form: closed forms, clipping, and strict loading."""

import copy

import pytest
import torch
from torch.testing import assert_close

from agentzoo.blocks.optim import (
    Adam,
    LaProp,
    RateDecay,
    clip_by_global_norm,
    decay_rates,
    global_norm,
)
from agentzoo.runtime.errors import ConfigError, RunError


def walked(grad: float, eps: float, steps: int = 10, lr: float = 1e-3) -> float:
    """Distance a parameter moves under a constant gradient."""
    param = torch.zeros(1)
    adam = Adam({"p": param}, lr=lr, eps=eps)
    for _ in range(steps):
        adam.step([torch.full((1,), grad)])
    return -param.item()


def closed_form(grad: float, eps: float, steps: int = 10, lr: float = 1e-3) -> float:
    """The same by hand: m = g (1 - b1^t), v = g^2 (1 - b2^t), eps uncorrected."""
    scales = [(1 - 0.999**t) ** 0.5 for t in range(1, steps + 1)]
    return sum(lr * grad * s / (grad * s + eps) for s in scales)


@pytest.mark.parametrize(
    ("grad", "torch_form", "ours"), [(1e-5, 9.9e-3, 8.65e-3), (1e-7, 5e-3, 6.6e-4)]
)
def test_epsilon_is_added_before_bias_correction(
    grad: float, torch_form: float, ours: float
) -> None:
    assert walked(grad, 1e-7) == pytest.approx(ours, rel=5e-3)
    assert walked(grad, 1e-7) == pytest.approx(closed_form(grad, 1e-7), rel=1e-4)
    param = torch.zeros(1, requires_grad=True)
    adam = torch.optim.Adam([param], lr=1e-3, eps=1e-7)
    param.grad = torch.full((1,), grad)
    for _ in range(10):
        adam.step()
    assert -param.item() == pytest.approx(torch_form, rel=5e-3)  # the form we do not have


def test_agrees_with_torch_where_epsilon_does_not_matter() -> None:
    torch.manual_seed(0)
    ours = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    theirs = [p.clone().requires_grad_() for p in ours.values()]
    adam = Adam(ours, lr=1e-2, eps=1e-30)
    reference = torch.optim.Adam(theirs, lr=1e-2, eps=1e-30)
    for _ in range(20):
        grads = [torch.randn_like(p) for p in theirs]
        adam.step(grads)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        reference.step()
    for p, q in zip(ours.values(), theirs, strict=True):
        assert_close(p, q.detach(), rtol=1e-4, atol=1e-6)


def test_clipping_scales_all_gradients_by_one_factor() -> None:
    grads = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert global_norm(grads).item() == 5.0
    clipped, norm = clip_by_global_norm(grads, 1.0)
    assert norm.item() == 5.0
    assert_close(clipped, [torch.tensor([0.6, 0.0]), torch.tensor([[0.8]])])


@pytest.mark.parametrize("limit", [5.0, 100.0, torch.inf])
def test_small_gradients_are_not_scaled(limit: float) -> None:
    grads = [torch.tensor([3.0, 4.0])]
    assert_close(clip_by_global_norm(grads, limit)[0], grads)


def test_gradients_of_zero_stay_zero() -> None:
    assert clip_by_global_norm([torch.zeros(3)], 100.0)[0][0].tolist() == [0, 0, 0]


def test_step_gives_the_norm_before_clipping_and_moves_by_the_clipped_gradient() -> None:
    params = [torch.zeros(2), torch.zeros(2)]
    free, clipped = (
        Adam({"p": p}, lr=0.1, eps=1.0, clip=c) for p, c in zip(params, (1e9, 1.0), strict=True)
    )
    assert free.step([torch.tensor([0.6, 0.8])]).item() == pytest.approx(1)
    assert clipped.step([torch.tensor([60.0, 80.0])]).item() == pytest.approx(100)
    assert_close(*params)


def test_state_survives_a_round_trip() -> None:
    torch.manual_seed(0)
    grads = [[torch.randn(3)] for _ in range(6)]
    straight = {"w": torch.zeros(3)}
    first = Adam(straight, lr=0.1)
    for g in grads[:3]:
        first.step(g)
    resumed = copy.deepcopy(straight)
    second = Adam(resumed, lr=0.1)
    second.load_state_dict(first.state_dict())
    assert sorted(first.state_dict()) == ["mean.w", "square.w", "step"]
    for g in grads[3:]:
        first.step(g)
        second.step(g)
    assert torch.equal(straight["w"], resumed["w"])


def test_state_dict_is_a_copy() -> None:
    adam = Adam({"w": torch.zeros(1)}, lr=0.1)
    before = adam.state_dict()
    adam.step([torch.ones(1)])
    assert before["step"].item() == 0
    assert before["mean.w"].item() == 0


def test_loading_is_strict() -> None:
    adam = Adam({"w": torch.zeros(2)}, lr=0.1)
    state = adam.state_dict()
    with pytest.raises(RunError, match=r"\['mean.w'\] stand on one side only"):
        adam.load_state_dict({k: v for k, v in state.items() if k != "mean.w"})
    with pytest.raises(RunError, match=r"\['extra'\]"):
        adam.load_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(RunError, match=r'"mean.w" has shape \(3,\), expected \(2,\)'):
        adam.load_state_dict({**state, "mean.w": torch.zeros(3)})


@pytest.mark.parametrize("lr", [1e-4, 1e-1])
def test_decay_is_a_share_of_the_weight_whatever_the_learning_rate(lr: float) -> None:
    param = torch.full((3,), 2.0, dtype=torch.float64)
    adam = Adam({"p": param}, lr=lr, decay=1e-6)
    for _ in range(100):
        adam.step([torch.zeros(3, dtype=torch.float64)])
    assert_close(param, torch.full_like(param, 2 * (1 - 1e-6) ** 100), rtol=1e-12, atol=0)


def test_decay_is_torchs_decoupled_one_divided_by_the_learning_rate() -> None:
    torch.manual_seed(0)
    ours = {"a": torch.randn(3, 2, dtype=torch.float64)}
    theirs = ours["a"].clone().requires_grad_()
    adam = Adam(ours, lr=1e-2, eps=1e-30, decay=1e-3)
    reference = torch.optim.AdamW([theirs], lr=1e-2, eps=1e-30, weight_decay=1e-3 / 1e-2)
    for _ in range(20):
        theirs.grad = torch.randn_like(theirs)
        adam.step([theirs.grad])
        reference.step()
    assert_close(ours["a"], theirs.detach())


@pytest.mark.parametrize(
    ("form", "final", "shares"),
    [
        ("linear", 0.0, (1, 0.75, 0.5, 0.25, 0, 0)),
        ("linear", 0.2, (1, 0.8, 0.6, 0.4, 0.2, 0.2)),
        ("cosine", 0.0, (1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0, 0)),
    ],
)
@pytest.mark.parametrize("kind", [Adam, LaProp])
def test_a_rate_falls_to_its_share(
    kind: type[Adam] | type[LaProp], form: str, final: float, shares: tuple[float, ...]
) -> None:
    grads = [torch.full((1,), sign) for sign in (1.0, -0.5, 2.0, 1.0, -1.0, 0.3)]
    moves: list[list[float]] = []
    for decays in (False, True):
        param = torch.ones(1)
        settings = {"warmup": 0} if kind is LaProp else {}
        optimizer = kind({"p": param}, lr=1e-3, **settings)
        if decays:
            decay_rates({"one": optimizer}, RateDecay(form, 4, final))
        gone = []
        for grad in grads:
            before = param.clone()
            optimizer.step([grad])
            gone.append((param - before).item())
        moves.append(gone)
    ratios = [fallen / constant for constant, fallen in zip(*moves, strict=True)]
    assert ratios == pytest.approx(shares, abs=2e-3)


def test_a_fallen_rate_goes_on_with_its_state() -> None:
    def stepped(optimizer: Adam, steps: int) -> None:
        for _ in range(steps):
            optimizer.step([torch.ones(1)])

    whole, first = torch.zeros(1), torch.zeros(1)
    decay = RateDecay("cosine", 9)
    one, two = Adam({"p": whole}, lr=0.1), Adam({"p": first}, lr=0.1)
    decay_rates({"one": one, "two": two}, decay)
    stepped(one, 7)
    stepped(two, 3)
    second = first.clone()
    three = Adam({"p": second}, lr=0.1)
    three.load_state_dict(two.state_dict())
    decay_rates({"three": three}, decay)
    stepped(three, 4)
    assert torch.equal(whole, second)


def test_an_optimiser_from_elsewhere_has_no_decay() -> None:
    theirs = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with pytest.raises(ConfigError, match=r"'model' is a SGD: leave lr_decay out"):
        decay_rates({"model": theirs}, RateDecay("linear", 3))
