"""DreamerV3's loop with a gradient by hand: the general loop, and autograd's gradients of it."""

import gc
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from agentzoo.blocks.cores import BlockGRUCore
from agentzoo.blocks.fast import kernels
from agentzoo.blocks.fast.rssm_observe import observe
from agentzoo.blocks.init import trunc_normal_init
from agentzoo.blocks.latents import CategoricalLatent
from agentzoo.blocks.layers import MLP, RMSNorm
from agentzoo.blocks.rssm import RSSM, State

B, T, A, E = 3, 7, 2, 5


def model(groups=4, classes=3, unimix=0.01):
    """A small model whose norms' gains and biases are not what they start as."""
    torch.manual_seed(0)
    latent = CategoricalLatent(groups, classes, unimix)
    mlp = partial(MLP, act=F.silu, norm=RMSNorm)
    rssm = RSSM(
        BlockGRUCore(latent.size, A, 6, 16, blocks=4),
        latent,
        prior=mlp(16, 6, 2, latent.size),
        posterior=mlp(16, 7, 1, latent.size, early=E),
    )
    rssm.apply(trunc_normal_init)
    with torch.no_grad():
        for name, parameter in rssm.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return rssm


def sequence(rssm, seed=1):
    """The loop's inputs; some episodes begin on the way."""
    draw = torch.Generator().manual_seed(seed)
    normal, uniform = (partial(one, generator=draw) for one in (torch.randn, torch.rand))
    before = rssm.latent.onehot(torch.randint(2, (B, rssm.latent.noise_shape[0]), generator=draw))
    prev = State(normal(B, 16), before, torch.zeros(B, rssm.latent.stats_size))
    first = uniform(B, T) < 0.3
    first[0] = False  # one sequence is one episode
    given = [*prev[:2], normal(B, T, A), normal(B, T, E)]
    deter, stoch, actions, embeds = (x.requires_grad_() for x in given)
    prev = prev._replace(deter=deter, stoch=stoch)
    return (prev, actions, embeds, first, uniform(B, T, *rssm.latent.noise_shape)), given


def grads(rssm, states, given):
    """Gradients of a random function of the states."""
    draw = torch.Generator().manual_seed(2)
    total = torch.stack([(x * torch.randn(x.shape, generator=draw)).sum() for x in states]).sum()
    learned = [*rssm.core.named_parameters(), *rssm.post_net.named_parameters()]
    names = ["deter", "stoch", "actions", "embeds", *(name for name, _ in learned)]
    found = torch.autograd.grad(total, [*given, *(parameter for _, parameter in learned)])
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize(("groups", "classes", "unimix"), [(4, 3, 0.01), (2, 9, 0.01), (3, 2, 0.0)])
def test_it_is_the_general_loop_and_autograds_gradient(groups, classes, unimix):
    rssm = model(groups, classes, unimix)
    args, given = sequence(rssm)
    general, ours = rssm.observe(*args), observe(rssm, *args)
    assert torch.equal(ours.stoch, general.stoch)  # the same classes are drawn
    torch.testing.assert_close(tuple(ours), tuple(general), rtol=1e-5, atol=1e-5)
    expected, found = grads(rssm, general, given), grads(rssm, ours, given)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)


def test_what_an_episode_begins_with_has_no_past():
    rssm = model()
    (prev, actions, embeds, first, noise), _ = sequence(rssm)
    first = torch.zeros_like(first)
    first[:, 3] = True
    states = observe(rssm, prev, actions, embeds, first, noise)
    past = torch.autograd.grad(states.stats[:, 3:].square().sum(), [prev.deter, actions, embeds])
    assert not past[0].any()
    assert not past[1][:, :4].any()  # the action before an episode is forgotten as well
    assert past[1][:, 4:].abs().sum((0, 2)).all()
    assert not past[2][:, :3].any()


def test_a_part_that_nothing_reads_needs_no_gradient():
    rssm = model()
    args, given = sequence(rssm)
    expected = torch.autograd.grad(rssm.observe(*args).deter.sum(), given)
    torch.testing.assert_close(
        torch.autograd.grad(observe(rssm, *args).deter.sum(), given),
        expected, rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_under_autocast_it_is_the_general_loop_but_for_rounding():
    rssm = model()
    (*rest, noise), given = sequence(rssm)
    # noise that chooses the classes alone: rounding must not choose others
    noise = torch.where(noise == noise.amax(-1, keepdim=True), 1.0, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        ours, general = observe(rssm, *rest, noise), rssm.observe(*rest, noise)
        with kernels("plain"):
            plain = observe(rssm, *rest, noise)
    assert all(torch.equal(a, b) for a, b in zip(plain, general, strict=True))
    assert torch.equal(ours.stoch, general.stoch.float())
    assert not torch.equal(ours.stats, general.stats)
    for mine, theirs in zip(ours, general, strict=True):
        assert mine.dtype is torch.float32
        torch.testing.assert_close(mine, theirs.float(), rtol=0.05, atol=0.03)
    expected, found = grads(rssm, general, given), grads(rssm, ours, given)
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0.1, atol=0.05 * scale, msg=name)


def test_states_that_are_dropped_free_what_was_kept_for_their_gradient():
    rssm = model()
    gc.disable()  # by reference counts alone, as between two updates
    try:
        states = observe(rssm, *sequence(rssm)[0])
        kept = weakref.ref(states.deter.grad_fn.next_functions[0][0].tape)
        assert kept() is not None
        del states
        assert kept() is None
    finally:
        gc.enable()
