"""Divergence: the trace of Jacobians that autograd finds whole, every network, probes and their variance, errors."""

import pytest
import torch
from oracles import mixture
from perturbed_networks import draw, perturbed

from physflow.generative import MLP, Exact, Hutchinson, ResNet, SiT, UNet, item_generator

NETWORKS = {
    "mlp": (lambda: MLP(3, 8, 1), (3,)),
    "unet": (lambda: UNet(1, 4, (1, 2), 1), (1, 4, 2)),
    "unet, attention": (lambda: UNet(1, 4, (1, 2), 1, attention=(2,), heads=1, resolution=4), (1, 4, 2)),
    "unet, 1d, circular": (lambda: UNet(2, 4, (1, 2), 1, dimension=1, padding="circular"), (2, 6)),
    "sit": (lambda: SiT(1, (4, 2), width=8, depth=1, heads=2), (1, 4, 2)),
    "resnet": (lambda: ResNet(1, 4, 1), (1, 3, 2)),
}


def built(name):
    build, shape = NETWORKS[name]
    network = perturbed(build()).eval()
    return lambda x: network(x, torch.full((len(x),), 0.3, dtype=x.dtype)), shape


def trace(f, x):
    """By the whole Jacobian of each item."""
    found = []
    for item in x:
        jacobian = torch.autograd.functional.jacobian(lambda y, item=item: f(y.view(1, *item.shape)), item.flatten())
        found.append(jacobian.view(item.numel(), -1).diagonal().sum())
    return torch.stack(found)


@pytest.fixture(autouse=True)
def seeded():
    """Layers draw their first weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("block", [None, 1, 5])
def test_exact_is_the_trace_of_the_jacobian(name, block):
    f, shape = built(name)
    x = draw(2, *shape)
    with torch.inference_mode():
        v, found = Exact(block)(f, x.clone(), None)
    torch.testing.assert_close(v, f(x).detach())
    torch.testing.assert_close(found, trace(f, x)[:, None])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_are_right_in_the_mean(name, law):
    """Within four standard errors, which are those of the formula for the variance."""
    f, shape = built(name)
    x, k = draw(1, *shape), 1500
    estimate = Hutchinson(k, law)
    with torch.no_grad():
        _, found = estimate(f, x, estimate.probes(x, torch.Generator().manual_seed(3)))
    jacobian = torch.autograd.functional.jacobian(lambda y: f(y.view(1, *shape)).flatten(), x.flatten())
    symmetric = (jacobian + jacobian.T) / 2
    if law == "rademacher":
        symmetric = symmetric - symmetric.diagonal().diag()
    expected = 2 * symmetric.square().sum()
    assert found.var() == pytest.approx(float(expected), rel=0.25)
    assert abs(found.mean() - jacobian.diagonal().sum()) < 4 * (expected / k).sqrt()


def test_signs_are_exact_where_the_jacobian_is_diagonal():
    x = draw(3, 4)
    estimate = Hutchinson(1)
    probes = estimate.probes(x, torch.Generator().manual_seed(0))
    assert torch.equal(probes.abs(), torch.ones(1, 3, 4, dtype=torch.float64))
    with torch.no_grad():
        _, found = estimate(torch.sin, x, probes)
    torch.testing.assert_close(found[:, 0], x.cos().sum(1))


def test_probes_of_an_item_are_its_own():
    estimate, x = Hutchinson(3, "gaussian"), draw(4, 2)
    whole = estimate.probes(x, [item_generator(7, i) for i in range(4)])
    alone = estimate.probes(x[2:3], [item_generator(7, 2)])
    assert torch.equal(whole[:, 2:3], alone)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2)], ids=str)
def test_gradients_by_weights_pass_through(divergence):
    """Of a linear velocity x A the divergence is the trace of A, or e A e in the mean of the probes."""
    matrix, x = draw(3, 3).requires_grad_(), draw(2, 3)
    probes = divergence.probes(x, torch.Generator().manual_seed(0))
    v, found = divergence(lambda y: y @ matrix, x, probes)
    (gradient,) = torch.autograd.grad(found.mean(), matrix, retain_graph=True)
    expected = torch.eye(3, dtype=torch.float64)
    if probes is not None:
        expected = torch.einsum("kbi,kbj->ij", probes, probes) / 4
    torch.testing.assert_close(gradient, expected)
    (gradient,) = torch.autograd.grad(v.sum(), matrix)
    torch.testing.assert_close(gradient, x.sum(0)[:, None].expand(3, 3))


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson()], ids=str)
def test_an_empty_batch(divergence):
    x = draw(0, 2)
    v, found = divergence(lambda y: 2 * y, x, divergence.probes(x, torch.Generator()))
    assert v.shape == (0, 2)
    assert found.shape == (0, 1)


def test_exact_divergence_of_a_mixture_is_that_of_its_finite_differences():
    flow, x, h = mixture(), draw(5, 2), 1e-5
    t = torch.full((5,), 0.4, dtype=torch.float64)
    _, found = Exact()(lambda y: flow.velocity(y, t), x, None)
    expected = 0
    for i in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[i]
        expected = expected + (flow.velocity(x + step, t) - flow.velocity(x - step, t))[:, i] / (2 * h)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-6, atol=1e-8)


def test_bad_input():
    with pytest.raises(ValueError, match="number must be a whole number of at least 1, got 0"):
        Hutchinson(0)
    with pytest.raises(ValueError, match="unknown law of probes 'normal'"):
        Hutchinson(1, "normal")
    with pytest.raises(ValueError, match="block must be"):
        Exact(0)
    with pytest.raises(ValueError, match=r"draws random probes; pass a torch.Generator as generator, or take Exact"):
        Hutchinson().probes(draw(1, 2), None)
    for divergence in (Exact(), Hutchinson()):
        x = draw(1, 2)
        probes = divergence.probes(x, torch.Generator())
        weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
        for velocity in (lambda y: 2 * y.detach(), lambda y, weight=weight: weight * y.detach()):
            with pytest.raises(ValueError, match="the velocity has no derivative by the state: it was computed"):
                divergence(velocity, x, probes)
