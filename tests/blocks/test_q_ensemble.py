"""Q networks computed together: each is itself, alone or among others."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.blocks.q_ensemble import QEnsemble, pair_of, pick_two

Q, INPUTS, UNITS, BINS, LEAD = 5, 7, 6, 4, (3, 2)


def ensemble() -> QEnsemble:
    torch.manual_seed(0)
    made = QEnsemble(INPUTS, UNITS, BINS, Q, dropout=0.3)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def member(of: QEnsemble, number: int, x: Tensor, kept: Tensor | None) -> Tensor:
    """One network, written out."""
    hidden = x @ of.first.weight[number] + of.first.bias[number]
    if kept is not None:
        hidden = torch.where(kept[number], hidden / 0.7, torch.zeros(()))
    for norm, layer in ((of.first_norm, of.second), (of.second_norm, of.out)):
        gain, offset = norm.weight[number], norm.bias[number]
        hidden = F.mish(F.layer_norm(hidden, (UNITS,), gain, offset))
        hidden = hidden @ layer.weight[number] + layer.bias[number]
    return hidden


@pytest.mark.parametrize("dropped", [False, True], ids=["whole", "dropout"])
def test_every_member_is_a_network_of_its_own(dropped: bool) -> None:
    found, x = ensemble(), torch.randn(*LEAD, INPUTS)
    draws = torch.rand(found.mask_shape(LEAD)) if dropped else None
    kept = None if draws is None else draws >= 0.3
    expected = torch.stack([member(found, number, x, kept) for number in range(Q)])
    torch.testing.assert_close(found(x, draws), expected, rtol=1e-5, atol=1e-5)


def test_chosen_members_are_those_of_all() -> None:
    found, x = ensemble(), torch.randn(*LEAD, INPUTS)
    draws, chosen = torch.rand(found.mask_shape(LEAD)), torch.tensor([4, 1])
    torch.testing.assert_close(found(x, draws, chosen), found(x, draws)[chosen])


def test_a_fresh_ensemble_says_nothing() -> None:
    assert not QEnsemble(INPUTS, UNITS, BINS, Q, dropout=0.0)(torch.randn(2, INPUTS)).any()


def test_the_pair_is_that_of_the_two_largest_draws() -> None:
    draws = torch.tensor([0.3, 0.9, 0.1, 0.8, 0.5])
    pair = pair_of(draws)
    assert pair is not None
    assert pair.tolist() == [1, 3]
    values = torch.arange(10.0).view(5, 2)
    assert pick_two(values, draws).tolist() == [[2.0, 6.0], [3.0, 7.0]]
    assert torch.equal(values[pair].movedim(0, -1), pick_two(values, draws))


def test_of_two_members_both_are_taken() -> None:
    assert pair_of(torch.tensor([0.1, 0.9])) is None
