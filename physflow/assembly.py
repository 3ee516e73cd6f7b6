"""The parts of a model from its settings: transform, network, latent, prior, objective and solver.

Names become classes here and nowhere else.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from physflow.config import LatentConfig, ModelConfig, TrainingConfig, check_compatible, nearest
from physflow.data.correlated_noise import CorrelatedNoise
from physflow.data.covariances import Exponential
from physflow.generative import (
    DDIM,
    EDM,
    MLP,
    RK4,
    VAE,
    VE,
    VP,
    Adaptive,
    BridgePath,
    BridgeWeight,
    ComponentIds,
    Components,
    Conditioned,
    CondOT,
    ConsistencyFlowMatching,
    ConvDecoder,
    ConvEncoder,
    Coordinates,
    Cosine,
    Coupling,
    DiagonalMixture,
    Encodings,
    Euler,
    EulerMaruyama,
    ExactOT,
    Faded,
    FlowMatching,
    FlowPrior,
    Gaussian,
    GaussianProcess,
    Heun,
    Independent,
    Latent,
    LateWeight,
    LinearPath,
    LogitNormal,
    Midpoint,
    MixturePrior,
    MLPDecoder,
    MLPEncoder,
    NormalLatent,
    Objective,
    Path,
    PhysicsInformed,
    Preconditioned,
    PredictorCorrector,
    Prior,
    Regression,
    ResNet,
    Sampler,
    SchroedingerBridge,
    SiT,
    SiTEncoder,
    Solver,
    Source,
    StandardNormal,
    StochasticHeun,
    UNet,
    Uniform,
)
from physflow.grid import Grid
from physflow.pde import Equation
from physflow.transforms import POD, Chain, Log, PerChannel, Scale, Standardize, Transform

__all__ = [
    "SAMPLERS",
    "SOLVERS",
    "make_latent",
    "make_network",
    "make_objective",
    "make_physics",
    "make_prior",
    "make_residual",
    "make_solver",
    "make_transform",
    "make_vae",
    "sizes_of",
]

SOLVERS: dict[str, type[Solver]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "rk4": RK4,
    "dopri5": Adaptive,
}
"""The solvers by the names that the command line and `Model.sample` take; a `Solver` object serves as well."""

SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "edm": EDM,
    "euler-maruyama": EulerMaruyama,
    "stochastic-heun": StochasticHeun,
    "predictor-corrector": PredictorCorrector,
}
"""The samplers of diffusions, likewise; the last three draw random numbers."""


def make_transform(config: ModelConfig, fields: tuple[str, ...]) -> Transform:
    """The transform of these fields to model space, not yet fitted."""
    for setting, names in (("log", config.log), ("latent.fields", config.latent.fields)):
        # The default of log names a field that other data need not have.
        unknown = set(names) - set(fields)
        if unknown and not (setting == "log" and names == ModelConfig().log):
            name = min(unknown)
            raise ValueError(f"unknown field {name!r} in ModelConfig.{setting}; {nearest(name, fields)}")

    def of(name: str) -> Transform:
        last: Transform = POD(config.rank, config.energy)
        if config.space == "pixel":
            last = Standardize() if config.scale is None else Scale(config.scale)
        return Chain(Log(), last) if name in config.log else last

    return PerChannel(*(of(name) for name in fields))


def sizes_of(transform: Transform, fields: tuple[str, ...]) -> dict[str, int]:
    """How many coordinates, or channels, each field takes in model space, once the transform is fitted."""
    assert isinstance(transform, PerChannel)
    return {name: part.channels(1) for name, part in zip(fields, transform.parts, strict=True)}


def make_network(config: ModelConfig, training: TrainingConfig, sizes: Mapping[str, int], grid: Grid) -> nn.Module:
    """The network of these settings, with fresh weights drawn from the training seed.

    Arguments:
        config: The settings of the model.
        training: The settings of the training.
        sizes: The coordinates or channels of each field in model space (`sizes_of`).
        grid: The grid of the fields.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        latent = make_latent(config, sizes, grid)
        width = 0 if latent is None else latent.dimension
        channels = sum(sizes.values()) - (width if isinstance(latent, Coordinates) else 0)
        network: nn.Module
        if config.network == "mlp":
            network = MLP(channels, **dataclasses.asdict(config.mlp), latent=width)
        elif config.network == "unet":
            unet = dataclasses.asdict(config.unet)
            network = UNet(channels, **unet, latent=width, dimension=grid.ndim, resolution=grid.shape)
        elif config.network == "sit":
            network = SiT(channels, grid.shape, **dataclasses.asdict(config.sit), latent=width)
        else:
            network = ResNet(channels, **dataclasses.asdict(config.resnet), latent=width, dimension=grid.ndim)
    if config.precondition == "flow":
        network = Preconditioned(network, _path(training), training.prediction)
    elif config.precondition == "input":
        network = Faded(network, _path(training))
    return network if latent is None else Conditioned(network, latent)


def make_latent(config: ModelConfig, sizes: Mapping[str, int], grid: Grid) -> Latent | None:
    """The latent of these settings, with fresh weights; those of a VAE or a mixture are fitted before the flow."""
    latent, channels = config.latent, sum(sizes.values())
    if latent.kind == "none":
        return None
    if latent.kind == "fields":
        begin, chosen = 0, list[int]()
        for name, size in sizes.items():
            chosen += range(begin, begin + size) if name in latent.fields else ()
            begin += size
        return Coordinates(chosen, channels)
    if latent.kind == "mixture":
        return Components(
            DiagonalMixture(latent.components, channels * (1 if config.space == "pod" else math.prod(grid.shape)))
        )
    if latent.kind == "vae":
        return make_vae(config, sizes, grid).latent()
    samples = sum(name != "t" for name in latent.inputs)
    if samples:
        encoder = _encoder(config, samples * channels, grid, time="t" in latent.inputs)
    else:
        encoder = MLPEncoder(1, latent.encoder.width, latent.encoder.layers, time=True)
    return NormalLatent(encoder, latent.encoder.width, latent.dimension, latent.inputs)


def make_vae(config: ModelConfig, sizes: Mapping[str, int], grid: Grid) -> VAE:
    """The variational autoencoder of these settings, with fresh weights."""
    latent, channels = config.latent, sum(sizes.values())
    settings = dataclasses.asdict(latent.encoder)
    layers, width, _ = (settings.pop(name) for name in ("layers", "width", "depth"))
    decoder: nn.Module
    if config.space == "pod":
        decoder = MLPDecoder(latent.dimension, channels, width, layers)
    else:
        decoder = ConvDecoder(latent.dimension, channels, grid.shape, width=width, **settings)
    return VAE(_encoder(config, channels, grid), width, decoder, latent.dimension)


def _encoder(config: ModelConfig, channels: int, grid: Grid, time: bool = False) -> nn.Module:
    settings = dataclasses.asdict(config.latent.encoder)
    layers, width = settings.pop("layers"), settings.pop("width")
    if depth := settings.pop("depth"):
        sit = config.sit
        return SiTEncoder(channels, grid.shape, width, depth, sit.heads, sit.patch, sit.expansion, time)
    if config.space == "pod":
        return MLPEncoder(channels, width, layers, time=time)
    return ConvEncoder(channels, grid.shape, width=width, **settings, time=time)


def make_prior(config: LatentConfig, latent: Latent, stored: Mapping[str, Tensor] | None = None) -> Prior:
    """The law from which z is drawn, of the right sizes and not yet fitted.

    Arguments:
        config: The settings of the latent.
        latent: The latent.
        stored: The state of the prior in a file, which tells the sizes that the settings leave open.
    """
    stored = stored or {}
    if isinstance(latent, Components):
        return ComponentIds(latent.mixture.weights)
    dimension = latent.dimension
    if config.drawn == "normal":
        return StandardNormal(dimension)
    if config.drawn == "mixture":
        return MixturePrior(DiagonalMixture(len(stored.get("mixture.logits", range(config.fitted))), dimension))
    if config.drawn == "flow":
        zero, one = torch.zeros(dimension), torch.ones(dimension)
        return FlowPrior(Preconditioned(MLP(dimension, width=128, blocks=3), LinearPath()), dimension, zero, one)
    empty = torch.zeros(max(1, len(stored.get("mean", ()))), dimension)
    return Encodings(empty, empty.clone() if latent.stochastic else None)


def make_objective(
    training: TrainingConfig, config: ModelConfig, grid: Grid, latent: Latent | None = None
) -> FlowMatching | ConsistencyFlowMatching | Regression:
    """The objective of these settings."""
    check_compatible(config, training)
    if training.objective == "regression":
        assert latent is not None
        return Regression(latent)
    source: Source = Gaussian()
    if training.source == "gaussian-process":
        length = 0.1 * max(b - a for a, b in grid.bounds)
        source = GaussianProcess(CorrelatedNoise(grid, Exponential(length)))
    if training.objective == "consistency":
        # In two stages of equal length, as published.
        segments = training.segments
        return ConsistencyFlowMatching(_path(training), _coupling(training), source, segments=segments, known=0.5)
    weight: Callable[[Tensor], Tensor] | None = LateWeight() if training.weight == "late" else None
    if training.path == "bridge":
        # Its velocity has no finite mean square without.
        weight = BridgeWeight()
    return FlowMatching(
        _path(training),
        _coupling(training),
        source,
        latent,
        beta=config.latent.beta,
        times=LogitNormal() if training.times == "logit-normal" else Uniform(),
        weight=weight,
        prediction=training.prediction,
    )


def make_physics(
    training: TrainingConfig, objective: Objective, equation: Equation, transform: Transform
) -> PhysicsInformed:
    """The objective of these settings with the residual of the equation in it, of the weight ``training.physics``.

    Only training needs it: the velocity that a model samples by is that of the objective alone.

    **Good values.** For POD coordinates about 0.1: on 16 x 16 cells, after 300 steps of a small network that predicts
    the data, it takes the relative residual of the samples from 0.12 to 0.07 and 3 % of the spread of log K; 1 takes it
    to 0.066 and 11 %. Point values see the noise of single points: there 0.001 takes it from 35 to 10.

    Arguments:
        training: The settings of the training.
        objective: What `make_objective` gives.
        equation: The equation of the data.
        transform: The fitted transform to model space.
    """
    # The settings have no physics for other objectives.
    assert isinstance(objective, FlowMatching)
    return PhysicsInformed(objective, make_residual(equation, transform), training.physics)


def make_residual(equation: Equation, transform: Transform) -> Callable[[Tensor], Tensor]:
    r"""The relative residual of items in model space, as a callable that passes gradients on.

    .. math:: R(x) = \frac{r(u, s)}{\operatorname{rms} f}, \qquad (u, s) = T^{-1}(x), \quad f = r(u, 0),

    so that the mean square over the points is the square of the ``relative_residual`` of `physflow.pde.score`: 1 for
    the zero solution. The size of f is taken as a number, without a gradient. Where the transform is no bijection (a
    POD of low rank), the data do not decode to themselves, and what that leaves of a residual is a floor.

    Arguments:
        equation: The equation, of the fields in the order of the transform.
        transform: The fitted transform T from fields to model space; a copy of it follows the items to their device.

    Returns:
        R, from (batch, ...) to (batch, \*axes). It raises a ValueError where a decoded field is not finite or, for one
        that must be positive, not positive, and where :math:`f` is zero.
    """
    transform = copy.deepcopy(transform)

    def residual(items: Tensor) -> Tensor:
        fields = transform.to(items.device).inverse(items).unbind(1)
        with torch.no_grad():
            f = equation.residual(*equation.trivial(*fields))
            scale = f.square().mean(tuple(range(1, f.ndim)), keepdim=True).sqrt()
        if not (scale > 0).all():
            raise ValueError("a residual is relative to the equation's source, but that is zero everywhere")
        return equation.residual(*fields) / scale

    return residual


def _path(training: TrainingConfig) -> Path:
    if training.path == "cosine":
        return Cosine()
    if training.path == "vp":
        return VP()
    if training.path == "ve":
        return VE(training.sigma)
    kinds: dict[str, type[LinearPath | CondOT | BridgePath]] = {
        "linear": LinearPath,
        "condot": CondOT,
        "bridge": BridgePath,
    }
    return kinds[training.path](training.sigma)


def _coupling(training: TrainingConfig) -> Coupling:
    if training.coupling == "sb":
        return SchroedingerBridge(training.sigma)
    return ExactOT(source_factor=training.ot_factor) if training.coupling == "ot" else Independent()


def make_solver(solver: str | Solver | Sampler) -> Solver | Sampler:
    """The solver or sampler of this name; one that is given is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(solver, Solver | Sampler):
        return solver
    known: dict[str, type[Solver] | type[Sampler]] = {**SOLVERS, **SAMPLERS}
    if solver not in known:
        raise ValueError(f"unknown solver {solver!r}; {nearest(str(solver), known)}")
    return known[solver]()
