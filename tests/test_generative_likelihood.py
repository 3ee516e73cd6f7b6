"""Likelihood: exact mixtures in 1, 2 and 16 dimensions, linear flows of fields, probes, bits, paths, errors."""

import math

import pytest
import torch
from oracles import mixture
from perturbed_networks import draw, perturbed

from physflow.data.covariances import Exponential
from physflow.data.toys import GaussianMixture
from physflow.generative import (
    DDIM,
    MLP,
    RK4,
    VP,
    Adaptive,
    CondOT,
    Cosine,
    Drawn,
    Euler,
    EulerMaruyama,
    Exact,
    FlowMatching,
    Gaussian,
    GaussianProcess,
    Heun,
    Hutchinson,
    LinearPath,
    Midpoint,
    Predictor,
    Scaled,
    SolverDiverged,
    bits_per_dimension,
    item_generator,
    log_likelihood,
)

TIGHT = Adaptive(rtol=1e-8, atol=1e-8)


def wide(d):
    """Three components in d dimensions, the axes of their covariances turned."""
    generator = torch.Generator().manual_seed(d)
    means = 1.5 * torch.randn(3, d, generator=generator, dtype=torch.float64)
    roots = 0.3 * torch.randn(3, d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    return GaussianMixture([0.5, 0.3, 0.2], means, roots @ roots.mT + 0.2 * torch.eye(d, dtype=torch.float64))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("d", [1, 2, 16])
def test_density_of_a_mixture_by_its_exact_velocity(d):
    target = wide(d)
    x = target.sample(20, seeded())
    found = log_likelihood(target.flow(LinearPath()).velocity, x, TIGHT)
    assert (found.log_density - target.log_density(x)).abs().max() < 1e-4
    assert torch.equal(found.standard_error, torch.zeros(20, dtype=torch.float64))
    assert found.noise.shape == x.shape


@pytest.mark.parametrize("d", [1, 2, 16])
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_are_without_bias(d, law):
    """Every sample within 5 of its standard errors, their mean within 3."""
    target = wide(d)
    x = target.sample(12, seeded())
    found = log_likelihood(
        target.flow(LinearPath()).velocity, x, RK4(), 40, divergence=Hutchinson(100, law), generator=seeded(1)
    )
    error = found.log_density - target.log_density(x)
    if d == 1 and law == "rademacher":
        assert error.abs().max() < 1e-4
        return
    assert (error.abs() < 5 * found.standard_error).all()
    assert error.mean().abs() < 3 * found.standard_error.square().sum().sqrt() / len(x)


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Midpoint(), 2), (Heun(), 2), (RK4(), 4)], ids=str)
def test_the_error_has_the_order_of_the_solver(solver, order):
    target = wide(2)
    x = target.sample(16, seeded())
    velocity = target.flow(Cosine()).velocity
    counts = (20, 40, 80) if order == 4 else (80, 160, 320)
    errors = torch.stack(
        [(log_likelihood(velocity, x, solver, n).log_density - target.log_density(x)).norm() for n in counts]
    )
    assert (-errors.log2().diff() - order).abs().max() < 0.2


@pytest.mark.parametrize("path", [LinearPath(), CondOT(0.1), Cosine(), VP()], ids=str)
def test_density_on_every_path(path):
    """CondOT ends with noise, so its density is that of the data and this noise; VP starts nearly from N(0, I)."""
    target = mixture().target
    flow, x = target.flow(path), target.sample(10, seeded())
    model = Predictor(lambda x, t, z=None: flow.score(x, t), path, "score") if isinstance(path, VP) else flow.velocity
    ones = torch.ones(10, dtype=torch.float64)
    found = log_likelihood(model, x, RK4(), 400, source=FlowMatching(path).start)
    error = (found.log_density - flow.log_density(x, ones)).abs().max()
    assert error < (2e-2 if isinstance(path, VP) else 2e-3)


def test_a_linear_flow_of_fields():
    """Of a Gaussian field on 12 x 12 points the density of the exact flow is that of the field, to 1e-3 nats."""
    n = 12
    points = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) / n,) * 2)
    covariance = torch.from_numpy(Exponential(0.2)(torch.cdist(points, points).numpy())) + 1e-2 * torch.eye(
        n * n, dtype=torch.float64
    )
    values, vectors = torch.linalg.eigh(covariance)
    x = draw(3, n * n) * values.sqrt() @ vectors.T

    def velocity(x, t, z=None):
        t = t[:, None]
        rate = (t * values - (1 - t)) / (t**2 * values + (1 - t) ** 2)
        return (x.flatten(1) @ vectors * rate @ vectors.T).view_as(x)

    found = log_likelihood(velocity, x.view(3, 1, n, n), Adaptive(rtol=1e-6, atol=1e-6))
    expected = torch.distributions.MultivariateNormal(torch.zeros(n * n).double(), covariance).log_prob(x)
    assert (found.log_density - expected).abs().max() < 1e-3


def test_density_given_a_latent():
    """A shift by z."""
    z, x = draw(4, 2), draw(4, 2, seed=2)
    found = log_likelihood(lambda x, t, z: z + 0 * x, x, Heun(), 3, z=z)
    torch.testing.assert_close(found.log_density, Gaussian().log_density(x - z))


def test_an_item_does_not_depend_on_the_others():
    network, x = perturbed(MLP(2, 8, 1)).eval(), draw(5, 2)

    def found(items):
        with torch.inference_mode():
            generators = [item_generator(3, i) for i in items]
            return log_likelihood(network, x[items], divergence=Hutchinson(2), generator=generators).log_density

    torch.testing.assert_close(found([1, 3]), found(range(5))[[1, 3]], rtol=1e-12, atol=1e-12)


def test_one_probe_has_no_standard_error():
    found = log_likelihood(lambda x, t: x, draw(2, 2), divergence=Hutchinson(), generator=seeded())
    assert found.standard_error.isnan().all()


def test_an_empty_batch():
    found = log_likelihood(lambda x, t: x, draw(0, 2), steps=2)
    assert found.log_density.shape == (0,)


def test_bits_per_dimension():
    """Of N(0, I) stored in bins of width 2 / 255; and of values that are uniform over 256 bins, 8 bits."""
    log_density = Gaussian().log_density(torch.zeros(1, 3, dtype=torch.float64))
    expected = 0.5 * math.log2(2 * math.pi) - math.log2(2 / 255)
    assert float(bits_per_dimension(log_density, 3, 2 / 255)) == pytest.approx(expected)
    assert float(bits_per_dimension(torch.tensor(-5 * math.log(256.0)), 5)) == pytest.approx(8)
    with pytest.raises(ValueError, match="expected a positive dimension and width, got 0 and 1"):
        bits_per_dimension(log_density, 0)


def test_densities_of_sources():
    x = draw(6, 3, 2)
    expected = torch.distributions.Normal(0.0, 2.0).log_prob(x).sum((1, 2))
    torch.testing.assert_close(Scaled(Gaussian(), 2.0).log_density(x), expected)
    for source in (Drawn(lambda n, generator: x[:n]), GaussianProcess(lambda white: white)):
        with pytest.raises(ValueError, match=rf"source of type {type(source).__name__} is not known"):
            log_likelihood(lambda x, t: x, x, source=source)


def test_bad_input():
    x = draw(2, 2)
    for sampler in (EulerMaruyama(), DDIM()):
        with pytest.raises(TypeError, match=f"needs trajectories without random numbers.*got {type(sampler).__name__}"):
            log_likelihood(lambda x, t: x, x, sampler)
    with pytest.raises(TypeError, match=r"floating-point type, got torch\.int64"):
        log_likelihood(lambda x, t: x, x.long())
    with pytest.raises(ValueError, match="draws random probes"):
        log_likelihood(lambda x, t: x, x, divergence=Hutchinson())
    with pytest.raises(SolverDiverged, match=r"not finite .* at t = 0.5") as stop:
        log_likelihood(lambda x, t: x / (t[:, None] > 0.6), x, Euler(), 10, divergence=Exact())
    assert stop.value.states[0].shape == (2, 3)


def test_progress_is_shown_on_demand_only(capsys):
    log_likelihood(lambda x, t: x, draw(1, 2), steps=3)
    assert capsys.readouterr().err == ""
    log_likelihood(lambda x, t: x, draw(1, 2), steps=3, progress=True)
    assert "3/3" in capsys.readouterr().err
