r"""Samplers against exact laws.

On a flow to a Gaussian with its exact score every sampler is affine in its start and in its random numbers. Moments of
its samples therefore follow without sampling: run it once with all numbers zero, and once for each number with that
one alone. Their errors then show the weak order as clearly as those of an ODE do.
"""

import itertools

import pytest
import torch
from oracles import mixture

from physflow.data.toys import GaussianMixture
from physflow.generative import (
    DDIM,
    EDM,
    RK4,
    VE,
    VP,
    Adaptive,
    CondOT,
    Cosine,
    Euler,
    EulerMaruyama,
    Heun,
    LinearPath,
    Midpoint,
    Predictor,
    PredictorCorrector,
    ProbabilityFlow,
    SolverDiverged,
    StochasticHeun,
    item_generator,
    normals,
    simulate,
)
from physflow.metrics import energy_test

ODES = [ProbabilityFlow(solver) for solver in (Euler(), Midpoint(), Heun(), RK4())]
SDES = [EulerMaruyama(), StochasticHeun(), PredictorCorrector()]
SAMPLERS = [*ODES, DDIM(), EDM(), *SDES, DDIM(1.0), EDM(churn=0.2), EulerMaruyama(lambda t: 1 - t)]
# Not str: a function's has its address, which differs between the processes of a test run.
NAMES = [f"{i}-{type(sampler).__name__}" for i, sampler in enumerate(SAMPLERS)]
PATHS = [LinearPath(), CondOT(0.05), Cosine(), VP(), VE(0.02, 10.0)]
ORDERS = {Euler: 1, Midpoint: 2, Heun: 2, RK4: 4, EulerMaruyama: 1, StochasticHeun: 2, DDIM: 1, EDM: 2}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def exact(path, target):
    """What is known of the flow on a path: by the score on VP, whose velocity the oracle does not know at t = 1."""
    flow = target.flow(path)
    given = "score" if isinstance(path, VP) else "velocity"
    method = getattr(flow, given)
    return Predictor(lambda x, t, z=None: method(x, t), path, given)


NARROW = GaussianMixture([1.0], [[0.7]], [[[0.25]]])


class Impulses:
    """The random numbers of affine samplers: in the k-th call item k + 2 alone gets a one."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        numbers = torch.zeros_like(x)
        numbers[1 + self.calls] = 1
        return numbers


def moments(path, sampler, steps):
    """Mean and variance of the samples, when the start has the law of the path at the first time."""
    first = torch.tensor([sampler.times(path, steps)[0]], dtype=torch.float64)
    alpha, sigma, spread = path.alpha(first), path.sigma(first), path.spread(first)
    x0 = torch.zeros(3 * steps + 2, 1, dtype=torch.float64)
    x0 += alpha * 0.7 / spread
    x0[1] += (alpha**2 * 0.25 + sigma**2).sqrt() / spread
    x = simulate(exact(path, NARROW), x0, sampler, steps, Impulses())[:, 0]
    return torch.stack([x[0], (x[1:] - x[0]).square().sum()])


def moments_of(path):
    end = torch.ones(1, dtype=torch.float64)
    alpha, sigma = path.alpha(end), path.sigma(end)
    return torch.cat([alpha * 0.7, alpha**2 * 0.25 + sigma**2])


def slopes(path, sampler, counts):
    errors = torch.stack([(moments(path, sampler, n) - moments_of(path)).norm() for n in counts])
    return -errors.log2().diff()


@pytest.mark.parametrize("path", [Cosine(), VP()], ids=str)
@pytest.mark.parametrize("sampler", [*ODES[:3], DDIM(), *SDES[:2]], ids=str)
def test_order(path, sampler):
    order = ORDERS[type(getattr(sampler, "solver", sampler))]
    counts = (128, 256, 512) if isinstance(path, Cosine) else (256, 512, 1024)
    assert (slopes(path, sampler, counts) - order).abs().max() < 0.2


def test_order_four():
    """On the cosine path the flow of a Gaussian is smooth up to both ends."""
    assert (slopes(Cosine(), ODES[3], (16, 32, 64)) - 4).abs().max() < 0.2


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_order_of_edm(path):
    """The error of the last step, which is Euler's, is that of the lowest level: here next to none."""
    end = torch.ones(1, dtype=torch.float64)
    last = float(path.sigma(end) / path.alpha(end))
    found = slopes(path, EDM(sigma_max=8.0, sigma_min=max(1e-3, 1.05 * last)), (32, 64, 128))
    assert (found - 2).abs().max() < 0.2


@pytest.mark.parametrize("path", [LinearPath(), Cosine(), VP()], ids=str)
def test_predictor_corrector_converges(path):
    """Its corrections do not get smaller with the steps, but what they leave goes with the noise: order 1 or so."""
    sampler = PredictorCorrector(ratio=0.05)
    errors = [(moments(path, sampler, n) - moments_of(path)).norm() for n in (64, 1024)]
    assert errors[1] < errors[0] / 8


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_samples_have_the_moments_and_weights_of_the_target(path, sampler):
    target, n, steps = mixture().target, 1500, 60
    if isinstance(sampler, EulerMaruyama | PredictorCorrector | DDIM) or sampler == ODES[0]:
        steps = 400
    x = simulate(exact(path, target), draw(n, 2), sampler, steps, seeded(1))
    # Five standard errors for some hundred comparisons, and 4 % for the steps.
    mean, covariance = target.mean, target.covariance
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt() + 0.04).all()
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / n**0.5 + 0.04 * covariance.max()).all()
    weights = target.responsibilities(x).mean(0)
    assert ((weights - target.weights).abs() < 5 * (target.weights / n).sqrt() + 0.01).all()


def test_samplers_agree_in_law():
    """Energy distances between samples of each and data: no permutation test says that they differ."""
    target, n = mixture().target, 600
    data = target.sample(n, seeded(5))
    for i, (sampler, path) in enumerate(itertools.product((ODES[2], *SDES, DDIM(1.0), EDM(churn=0.2)), PATHS[2:4])):
        x = simulate(exact(path, target), draw(n, 2, seed=10 + i), sampler, 200, seeded(40 + i))
        assert energy_test(x, data, permutations=200).p_value > 0.01, (sampler, path)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_an_item_depends_on_its_own_numbers_alone(sampler):
    """Whole batch, other neighbours, one by one: bit for bit."""
    model, x0 = exact(Cosine(), mixture().target), draw(6, 2)

    def run(indices):
        return simulate(model, x0[indices], sampler, 12, [item_generator(3, i) for i in indices])

    together = run([0, 1, 2, 3, 4, 5])
    assert torch.equal(run([4, 1]), together[[4, 1]])
    assert torch.equal(run([3]), together[[3]])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
@pytest.mark.parametrize("shape", [(0, 2), (1, 2)])
def test_few_items_and_steps(sampler, shape):
    model = exact(LinearPath(), mixture().target)
    for steps in (1, 2, 3):
        path = simulate(model, draw(*shape), sampler, steps, seeded(), trajectory=True)
        assert path.shape[1:] == shape
        assert path.isfinite().all()


def test_trajectories_callbacks_and_progress(capsys):
    model, seen = exact(LinearPath(), NARROW), []

    def callback(step, t, x):
        seen.append((step, t))
        return x + 1 if step == 2 else None

    x0 = draw(3, 1)
    states = simulate(model, x0, EulerMaruyama(), 4, seeded(), callback=callback, trajectory=True, progress=True)
    assert seen == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert states.shape == (5, 3, 1)
    assert torch.equal(states[0], x0)
    assert torch.equal(states[-1], simulate(model, x0, EulerMaruyama(), 4, seeded(), callback=callback))
    assert "sample" in capsys.readouterr().err


def test_a_latent_reaches_the_network():
    def network(x, t, z):
        return z - x

    z = torch.ones(3, 1, dtype=torch.float64)
    for sampler in SAMPLERS:
        assert simulate(Predictor(network, Cosine()), draw(3, 1), sampler, 3, seeded(), z).shape == (3, 1)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
@pytest.mark.parametrize("given", ["data", "noise", "score"])
def test_networks_that_predict_something_else_sample_from_pure_noise(sampler, given):
    """Where their velocity does not exist, at the very ends, that of a time nearby is taken."""
    flow, n = mixture().target.flow(Cosine()), 400
    model = Predictor(lambda x, t, z=None: getattr(flow, given)(x, t), Cosine(), given)
    x = simulate(model, draw(n, 2), sampler, 100, seeded())
    assert x.isfinite().all()
    assert (x.mean(0) - flow.target.mean).abs().max() < 0.4


def test_edm_times_are_its_levels():
    for path in PATHS:
        times = torch.tensor(EDM(sigma_min=0.1, sigma_max=5.0).times(path, 8), dtype=torch.float64)
        levels = path.sigma(times) / path.alpha(times)
        root = levels[:-1] ** (1 / 7)
        assert len(times) == 9
        assert times[-1] == 1
        torch.testing.assert_close(levels[[0, 7]], torch.tensor([5.0, 0.1], dtype=torch.float64), rtol=1e-6, atol=0)
        torch.testing.assert_close(root.diff(), root.diff()[0].expand(7), rtol=1e-6, atol=0)
    # A path that covers fewer levels begins and ends where it does.
    times = EDM(sigma_min=1e-3, sigma_max=80.0).times(VE(0.1, 5.0), 20)
    assert times[0] == pytest.approx(0, abs=1e-15)
    assert len(times) < 21
    assert list(times) == sorted(set(times))


def test_ddim_is_euler_on_the_straight_line():
    model, x0 = exact(LinearPath(), mixture().target), draw(20, 2)
    torch.testing.assert_close(simulate(model, x0, DDIM(), 7), simulate(model, x0, ODES[0], 7))


def test_ddim_is_exact_for_a_single_point():
    """The predictions of data and noise of a point do not change along the flow: one step is enough, from anywhere."""
    point = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for path in (VP(), Cosine()):
        model = Predictor(lambda x, t, z=None: point.expand_as(x), path, "data")
        torch.testing.assert_close(simulate(model, draw(4, 2), DDIM(), 1), point.expand(4, 2), rtol=1e-12, atol=1e-12)


def test_a_sampler_that_diverges_says_when_and_keeps_what_was():
    def network(x, t, z=None):
        return torch.where(t[:, None] > 0.5, torch.nan, 1.0) * x

    for trajectory, kept in ((True, 4), (False, 1)):
        with pytest.raises(SolverDiverged, match=r"not finite.*t = 0.8 in 2 of 2 items") as caught:
            simulate(Predictor(network, Cosine()), draw(2, 1), ODES[0], 5, trajectory=trajectory)
        assert caught.value.t == pytest.approx(0.8)
        assert len(caught.value.states) == len(caught.value.times) == kept
        assert caught.value.times[-1] == pytest.approx(0.6)
        assert all(state.isfinite().all() for state in caught.value.states)


def test_bad_input():
    model, x0 = exact(LinearPath(), NARROW), draw(3, 1)
    with pytest.raises(ValueError, match=r"EulerMaruyama.*draws random numbers; pass a torch.Generator"):
        simulate(model, x0, EulerMaruyama(), 3)
    with pytest.raises(ValueError, match="one generator, or one for each of the 3 items, got 2"):
        simulate(model, x0, EulerMaruyama(), 3, [seeded(), seeded()])
    with pytest.raises(ValueError, match="whole number of at least 1, got 0"):
        simulate(model, x0, ODES[0], 0)
    with pytest.raises(TypeError, match="floating-point"):
        simulate(model, torch.zeros(3, 1, dtype=torch.int64), ODES[0], 3)
    with pytest.raises(ValueError, match="finite and not negative, one for each of 3 times"):
        simulate(model, x0, EulerMaruyama(lambda t: -t - 1), 3, seeded())
    with pytest.raises(TypeError, match=r"fixed steps.*integrate\(model, x0, solver\)"):
        ProbabilityFlow(Adaptive())
    with pytest.raises(ValueError, match=r"eta.*\[0, 1\], got 2"):
        DDIM(2.0)
    with pytest.raises(ValueError, match=r"churn.*got 40.*S_churn / steps"):
        EDM(churn=40.0)
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        EDM(sigma_min=90.0)
    with pytest.raises(ValueError, match="corrections must be a whole number of at least 1"):
        PredictorCorrector(corrections=0)
    assert normals(seeded())(x0).shape == x0.shape
