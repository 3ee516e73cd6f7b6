"""The residual in training: closed forms of the physics term, one draw for both terms, gradients, whole trainings."""

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from scipy import integrate as quadrature
from scipy import special, stats
from scipy.optimize import approx_fprime
from torch import nn

import physflow
from physflow.assembly import make_residual, make_transform
from physflow.config import LatentConfig, MLPConfig, ModelConfig, TrainingConfig, UNetConfig, builtin_models, from_dict
from physflow.data.darcy import generate
from physflow.fields import to_tensor
from physflow.fitting import train_model
from physflow.generative import (
    MLP,
    BridgePath,
    Conditioned,
    CondOT,
    ConsistencyFlowMatching,
    Coordinates,
    Cosine,
    DrawnBatches,
    ExactOT,
    FlowMatching,
    Heun,
    LateWeight,
    LinearPath,
    LogitNormal,
    MLPEncoder,
    NormalLatent,
    PhysicsInformed,
    ReFlow,
    integrate,
    train,
)
from physflow.grid import Grid
from physflow.pde import Darcy, from_dataset, score_fields

PREDICTIONS = ("velocity", "data")
PATHS = (LinearPath(), CondOT(0.1), Cosine())
FIELDS = ("permeability", "pressure")
PERCEPTRON = {"mlp": MLPConfig(width=16, blocks=1)}
UNET = {"space": "pixel", "network": "unet", "unet": UNetConfig(channels=4, multipliers=(1, 2), blocks=1)}
TRAINING = {"steps": 4, "batch_size": 16, "warmup": 1, "evaluate_every": 4, "checkpoint_every": 4, "validation": 0.2}

MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
ROOT = torch.tensor([[1.1, 0.0, 0.0], [0.4, 0.6, 0.0], [-0.3, 0.2, 0.5]], dtype=torch.float64)
A = torch.tensor([[1.0, -0.5, 2.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
B = torch.tensor([0.2, -0.7], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=100, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def affine(x):
    return x @ A.T - B


def off_the_circle(x):
    return x.norm(dim=1) - 1


def column(values, x):
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def exact_network(path, prediction, data):
    """What the exact network returns, from the exact data prediction data(x, alpha, sigma)."""

    def network(x, t, z=None):
        estimate = data(x, column(path.alpha(t), x), column(path.sigma(t), x))
        return path.convert(estimate, x, t, given="data", wanted=prediction)

    return network


def gaussian_data(root):
    """E[x1 | x_t] for x1 of N(MEAN, root root^T)."""
    variances, vectors = torch.linalg.eigh(root @ root.T)

    def data(x, alpha, sigma):
        return MEAN + alpha * variances / (alpha**2 * variances + sigma**2) * ((x - alpha * MEAN) @ vectors) @ vectors.T

    return data


def circle(n, generator):
    angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], 1)


def circle_data(x, alpha, sigma):
    """The mean direction of the law of von Mises and Fisher that the angle has given x_t."""
    r = x.norm(dim=1, keepdim=True)
    kappa = alpha * r / sigma**2
    return torch.special.i1e(kappa) / torch.special.i0e(kappa) * x / r


def schedules(path, t):
    alpha, sigma = path.alpha(torch.tensor([t]).double()), path.sigma(torch.tensor([t]).double())
    return float(alpha), float(sigma)


def repeated(objective, network, sample, times, batch):
    """The mean of the physics term over independent batches, and its standard error."""
    generator = seeded()
    with torch.no_grad():
        terms = [objective.parts(network, sample(batch, generator), generator)["physics"] for _ in range(times)]
    terms = torch.stack(terms)
    return float(terms.mean()), float(terms.std() / times**0.5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_an_affine_residual_of_normal_data_has_its_closed_form(path, prediction):
    """D is N(m, a^2 C S^-1 C) with S = a^2 C + s^2 I; four standard errors of the mean over batches."""
    floor = 0.2
    m, c = MEAN.numpy(), (ROOT @ ROOT.T).numpy()

    def at(t):
        alpha, sigma = schedules(path, t)
        spread = alpha**2 * c @ np.linalg.solve(alpha**2 * c + sigma**2 * np.eye(3), c)
        mean_square = (np.sum((A.numpy() @ m - B.numpy()) ** 2) + np.trace(A.numpy() @ spread @ A.numpy().T)) / 2
        return mean_square / (2 * max(sigma / alpha, floor) ** 2)

    exact = quadrature.quad(at, 1e-9, 1, points=[0.7, 0.8, 0.9])[0]
    objective = PhysicsInformed(FlowMatching(path, prediction=prediction), affine, 1.0, floor=floor)
    network = exact_network(path, prediction, gaussian_data(ROOT))
    found, error = repeated(objective, network, lambda n, g: MEAN + draw_from(n, g) @ ROOT.T, 20, 4000)
    assert error < 0.02 * exact
    assert abs(found - exact) < 4 * error


def draw_from(n, generator):
    return torch.randn(n, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_affine_law_of_all_data_has_no_gap(prediction):
    """The exact network obeys it too: law and residual have their minima at the same place."""
    normal = A[:1] / A[0].norm()
    flat = ROOT - normal.T @ (normal @ ROOT)

    def residual(x):
        return (x - MEAN) @ A[0]

    objective = PhysicsInformed(FlowMatching(prediction=prediction), residual, 1.0)
    network = exact_network(LinearPath(), prediction, gaussian_data(flat))
    generator = seeded()
    x1 = MEAN + draw_from(500, generator) @ flat.T
    assert residual(x1).abs().max() < 1e-14
    assert objective.parts(network, x1, generator)["physics"] < 1e-20


def test_the_exact_estimate_on_a_circle_has_a_residual():
    """The gap of Jensen: |x_t| follows Rice's law and |D| = I_1(k) / I_0(k) with k = a |x_t| / s^2."""
    path, floor = LinearPath(), 0.3

    def at(t):
        alpha, sigma = schedules(path, t)
        law = stats.rice(alpha / sigma, scale=sigma)
        r = np.linspace(max(0, alpha - 9 * sigma), alpha + 9 * sigma, 400)
        kappa = alpha * r / sigma**2
        gap = law.pdf(r) * (special.i1e(kappa) / special.i0e(kappa) - 1) ** 2
        return np.trapezoid(gap, r) / (2 * max(sigma / alpha, floor) ** 2)

    t, weight = np.polynomial.legendre.leggauss(48)
    exact = sum(w / 2 * at((1 + s) / 2) for s, w in zip(t, weight, strict=True))
    objective = PhysicsInformed(FlowMatching(prediction="data"), off_the_circle, 1.0, floor=floor)
    network = exact_network(path, "data", circle_data)
    found, error = repeated(objective, network, circle, 20, 4000)
    assert error < 0.01 * exact
    assert abs(found - exact) < 4 * error + 1e-4 * exact


def test_on_a_circle_the_least_sum_is_not_that_of_the_law():
    """Pushed out to the circle the exact estimate has no residual and a larger error, which a weight outbids."""
    exact = exact_network(LinearPath(), "data", circle_data)

    def pushed(x, t, z=None):
        return nn.functional.normalize(exact(x, t))

    objective = PhysicsInformed(FlowMatching(prediction="data"), off_the_circle, 5.0)
    x1 = circle(4000, seeded(1))
    law, other = (objective.parts(network, x1, seeded()) for network in (exact, pushed))
    assert other["physics"] < 1e-25
    assert other["error"] > 1.02 * law["error"]
    assert other["loss"] < law["loss"]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_weight_of_a_time_vanishes_at_the_noise_and_is_bounded_at_the_data(path):
    objective = PhysicsInformed(FlowMatching(path), affine, 1.0, floor=0.2)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    weight = objective.time_weight(t)
    assert weight[0] == 0
    assert weight[-1] == pytest.approx(1 / (2 * 0.2**2))
    alpha, sigma = path.alpha(t), path.sigma(t)
    free = (sigma > 0.2 * alpha) & (t > 0)
    assert 50 < free.sum() < 99
    torch.testing.assert_close(weight[free], 1 / (2 * (sigma / alpha) ** 2)[free])
    torch.testing.assert_close(weight[~free][1:], torch.full_like(weight[~free][1:], 12.5))
    assert (weight.diff() > -1e-13).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"path": LinearPath(0.2), "coupling": ExactOT()},
        {"path": Cosine(), "times": LogitNormal(), "weight": LateWeight()},
    ],
    ids=["plain", "tube-transport", "cosine-late"],
)
def test_without_a_weight_it_is_flow_matching_bit_for_bit(settings, prediction):
    def forbidden(x):
        raise AssertionError("no residual without a weight")

    matching, x1, values = FlowMatching(prediction=prediction, **settings), draw(8, 3), []
    for objective in (matching, PhysicsInformed(matching, forbidden, 0.0)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = nn.Linear(3, 3).double()
        generator = seeded()
        loss = objective.loss(lambda x, t, z=None, layer=layer: layer(x), x1, generator)
        loss.backward()
        values.append((loss.detach(), layer.weight.grad, generator.get_state()))
    assert all(torch.equal(one, other) for one, other in zip(*values, strict=True))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", [*PATHS, LinearPath(0.3)], ids=repr)
@pytest.mark.parametrize("shape", [(1, 3), (5, 2, 3, 4)])
def test_both_terms_share_one_draw_and_one_evaluation(shape, path, prediction):
    seen = []

    def network(x, t, z=None):
        seen.append((x, t))
        return torch.sin(x) + column(t, x)

    def residual(x):
        return x[..., 1:] ** 2 - 1

    matching = FlowMatching(path, prediction=prediction)
    objective, x1 = PhysicsInformed(matching, residual, 0.3), draw(*shape)
    parts = objective.parts(network, x1, seeded())
    assert len(seen) == 1
    x, t = seen[0]
    estimate = path.convert(torch.sin(x) + column(t, x), x, t, given=prediction, wanted="data")
    per_item = (estimate[..., 1:] ** 2 - 1).square().flatten(1).mean(1)
    expected = sum(
        float(value) / (2 * max(sigma / alpha, 0.05) ** 2)
        for value, (alpha, sigma) in zip(per_item, (schedules(path, float(s)) for s in t), strict=True)
    ) / len(t)
    assert list(parts) == ["loss", "error", "physics"]
    assert float(parts["physics"]) == pytest.approx(expected)
    assert torch.equal(parts["error"], matching.loss(network, x1, seeded()))
    torch.testing.assert_close(parts["loss"], parts["error"] + 0.3 * parts["physics"])
    assert torch.equal(objective.loss(network, x1, seeded()), parts["loss"])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_gradient_of_the_residual_reaches_the_network(prediction):
    """Against finite differences in the weights, the draw held fixed."""
    layer, x1 = nn.Linear(3, 3).double(), draw(6, 3)
    start = draw(12, seed=7).numpy()
    objective = PhysicsInformed(FlowMatching(prediction=prediction), lambda x: x.square().sum(1) - 1, 1.0)

    def physics(weights):
        nn.utils.vector_to_parameters(torch.as_tensor(weights), layer.parameters())
        return objective.parts(lambda x, t, z=None: layer(x), x1, seeded())["physics"]

    found = torch.autograd.grad(physics(start), list(layer.parameters()))
    expected = approx_fprime(start, lambda weights: physics(weights).item(), 1e-7)
    np.testing.assert_allclose(torch.cat([g.flatten() for g in found]).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (np.abs(expected) > 1e-2).all()


def test_the_residual_sees_whole_items():
    """What the latent holds of an item is put back, as it is in the data."""
    latent, seen = Coordinates([2, 0], 4), []
    network = Conditioned(MLP(2, 8, 1, latent=2), latent)

    def residual(x):
        seen.append(x)
        return x

    x1 = draw(5, 4, dtype=torch.float32)
    parts = PhysicsInformed(FlowMatching(latent=latent), residual, 1.0).parts(network, x1, seeded())
    assert list(parts) == ["loss", "error", "physics"]
    assert seen[0].shape == (5, 4)
    assert torch.equal(seen[0][:, [2, 0]], x1[:, [2, 0]])
    assert not torch.isclose(seen[0][:, [1, 3]], x1[:, [1, 3]]).any()
    parts["physics"].backward()
    assert any((p.grad != 0).any() for p in network.parameters())


def test_a_stochastic_latent_pays_its_rate():
    latent = NormalLatent(MLPEncoder(3, 8, 1), 8, 2)
    network = Conditioned(MLP(3, 8, 1, latent=2), latent)
    matching = FlowMatching(latent=latent, beta=0.5)
    x1 = draw(6, 3, dtype=torch.float32)
    parts = PhysicsInformed(matching, lambda x: x - 1, 2.0).parts(network, x1, seeded())
    assert list(parts) == ["loss", "error", "rate", "physics"]
    assert (parts["error"], parts["rate"]) == matching.terms(network, x1, seeded())
    torch.testing.assert_close(parts["loss"], parts["error"] + 0.5 * parts["rate"] + 2 * parts["physics"])


def test_the_residual_is_not_computed_in_half_precision():
    layer, kinds = nn.Linear(3, 3), []

    def network(x, t, z=None):
        kinds.append(layer(x).dtype)
        return layer(x)

    def residual(x):
        kinds.append((x @ x.T).dtype)
        return x

    with torch.autocast("cpu", dtype=torch.bfloat16):
        PhysicsInformed(FlowMatching(prediction="data"), residual, 1.0).loss(
            network, draw(4, 3, dtype=torch.float32), seeded()
        )
    assert kinds == [torch.bfloat16, torch.float32]


def test_the_velocity_is_that_of_the_flow():
    def network(x, t, z=None):
        return x + 1

    x, t = draw(4, 3), torch.linspace(0.1, 1, 4, dtype=torch.float64)
    for prediction in PREDICTIONS:
        matching = FlowMatching(prediction=prediction)
        objective = PhysicsInformed(matching, affine, 1.0)
        assert torch.equal(objective.velocity(network)(x, t), matching.velocity(network)(x, t))


def test_bad_input():
    def network(x, t, z=None):
        return x * torch.ones((), dtype=x.dtype, requires_grad=True)

    for other in (ReFlow(), ConsistencyFlowMatching()):
        with pytest.raises(
            TypeError, match=rf"data prediction of a FlowMatching objective, got {type(other).__name__}"
        ):
            PhysicsInformed(other, affine, 1.0)
    for weight in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"weight, of the residual, .* not negative, got {weight}"):
            PhysicsInformed(FlowMatching(), affine, weight)
    for floor in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"smallest sigma / alpha that counts, must lie in \(0, 1\], got {floor}"):
            PhysicsInformed(FlowMatching(), affine, 1.0, floor=floor)
    for residual, shape in ((lambda x: x.sum(), r"\(\)"), (lambda x: x[1:], r"\(3, 3\)"), (lambda x: x[:, :0], "4, 0")):
        with pytest.raises(ValueError, match=rf"residual of shape \(4, \.\.\.\), entries for each of .* got .*{shape}"):
            PhysicsInformed(FlowMatching(), residual, 1.0).loss(network, draw(4, 3), seeded())
    with pytest.raises(ValueError, match=r"passes no gradient on to the network.*without detach, no_grad or numpy"):
        PhysicsInformed(FlowMatching(), lambda x: x.detach(), 1.0).loss(network, draw(4, 3), seeded())
    with pytest.raises(ValueError, match="has no conversion from velocity to data"):
        PhysicsInformed(FlowMatching(BridgePath(0.1)), affine, 1.0).loss(network, draw(4, 3), seeded())


def test_training_with_the_residual_lowers_that_of_the_samples():
    """Angles of N(0, 1) on the circle; what the term does to their spread is printed, the residual is asserted."""

    def law(n, generator):
        angle = torch.randn(n, generator=generator)
        return torch.stack([angle.cos(), angle.sin()], 1)

    config = TrainingConfig(steps=200, batch_size=128, learning_rate=3e-3, warmup=10, ema=0.9)
    noise, found = draw(1000, 2, dtype=torch.float32), {}
    for weight in (0.0, 0.3):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = MLP(2, 32, 1)
        objective = PhysicsInformed(FlowMatching(prediction="data"), off_the_circle, weight)
        network = train(network, objective, DrawnBatches(law, 128), config)
        with torch.no_grad():
            x = integrate(objective.velocity(network), noise, Heun(), 20)
        found[weight] = float(off_the_circle(x).square().mean().sqrt())
        angle = torch.atan2(x[:, 1], x[:, 0])
        print(f"c = {weight}: distance from the circle {found[weight]:.4f}, spread of the angle {angle.std():.3f}")
    assert found[0.3] < 0.7 * found[0.0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.nc"
    generate(40, resolution=8, modes=4, out=path).close()
    return path


@pytest.mark.parametrize("settings", [PERCEPTRON, UNET], ids=["pod", "pixel"])
def test_the_residual_in_model_space_is_the_relative_residual_of_the_scores(settings, data):
    with xr.open_dataset(data) as ds:
        equation, fields = from_dataset(ds), to_tensor(ds, FIELDS, torch.float64)
    transform = make_transform(ModelConfig(**settings), FIELDS).fit(fields)
    items = transform(fields[:6]) + 0.1 * draw(*transform(fields[:6]).shape)
    found = make_residual(equation, transform)(items)
    scores = score_fields(equation, *transform.inverse(items).unbind(1))
    assert found.shape == (6, 8, 8)
    np.testing.assert_allclose(found.square().mean((1, 2)).sqrt(), scores["relative_residual"], rtol=1e-12)
    items = items[:1].requires_grad_()
    assert torch.autograd.gradcheck(make_residual(equation, transform), items, fast_mode=True)


def test_the_transform_of_the_residual_is_its_own(data):
    """Moving with the items to another device, it must not take that of the data along."""
    with xr.open_dataset(data) as ds:
        equation, fields = from_dataset(ds), to_tensor(ds, FIELDS, torch.float64)
    transform = make_transform(ModelConfig(**UNET), FIELDS).fit(fields)
    items = transform(fields[:1])
    residual = make_residual(equation, transform)
    expected = residual(items)
    transform.to("meta")
    assert torch.equal(residual(items), expected)


def test_a_residual_relative_to_no_source_is_refused():
    transform = make_transform(ModelConfig(**UNET), FIELDS).fit(draw(4, 2, 8, 8).exp())
    residual = make_residual(Darcy(Grid((8, 8)), source=np.zeros((8, 8))), transform)
    with pytest.raises(ValueError, match="relative to the equation's source, but that is zero everywhere"):
        residual(draw(2, 2, 8, 8))


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(**PERCEPTRON),
        ModelConfig(**PERCEPTRON, latent=LatentConfig("fields", fields=("permeability",))),
        ModelConfig(**UNET),
    ],
    ids=["pod", "pod-fields", "pixel"],
)
def test_a_model_is_trained_with_the_residual_and_drawn_without(config, data, tmp_path):
    training = TrainingConfig(**TRAINING, physics=1e-3)
    model = train_model(data, tmp_path / "model", model=config, training=training)
    loaded = physflow.load(tmp_path / "model")
    assert loaded.training.physics == 1e-3
    assert type(loaded.objective) is FlowMatching
    ds = loaded.sample(3, seed=1, steps=2)
    assert np.isfinite(ds["residual_mse"]).all()
    xr.testing.assert_identical(ds, model.sample(3, seed=1, steps=2))
    last = json.loads((tmp_path / "model" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation_physics"] > 0
    assert last["validation_loss"] == pytest.approx(last["validation_error"] + 1e-3 * last["validation_physics"])
    plain = train_model(data, tmp_path / "plain", model=config, training=TrainingConfig(**TRAINING))
    assert not np.array_equal(plain.sample(3, seed=1, steps=2)["pressure"], ds["pressure"])


def test_settings_that_have_no_residual_are_refused(data, tmp_path):
    for objective in ("consistency", "regression"):
        with pytest.raises(ValueError, match=rf"objective='{objective}' has no use for physics=0.1: keep 0.0"):
            TrainingConfig(objective=objective, physics=0.1)
    for value in (-0.1, math.inf):
        with pytest.raises(ValueError, match=f"physics, a weight, must be finite and not negative, got {value}"):
            TrainingConfig(physics=value)
    with pytest.raises(ValueError, match=r"physics=0.1 needs the estimate of the clean sample.* use another path"):
        TrainingConfig(path="bridge", sigma=0.1, physics=0.1)
    training = TrainingConfig(**TRAINING, physics=0.1)
    with pytest.raises(ValueError, match=r"physics=0.1 needs data with an equation .* got \['pressure'\]"):
        train_model(data, tmp_path, model=ModelConfig(**PERCEPTRON), training=training, fields=["pressure"])
    with pytest.raises(ValueError, match=r"physics=0.1 needs permeability positive .* model.log=\['permeability'\]"):
        train_model(data, tmp_path, model=ModelConfig(**PERCEPTRON, log=()), training=training)


def test_settings_stored_before_there_was_a_weight_are_those_without(tmp_path):
    stored = [yaml.safe_load((folder / "config.yaml").read_text())["training"] for folder in builtin_models().values()]
    assert stored
    for values in stored:
        values.pop("physics", None)
        assert from_dict(TrainingConfig, values).physics == 0.0
