"""Settings of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from physflow.config.checks import at_least, fraction, literals, positive

__all__ = ["TrainingConfig"]

# What would be accepted and ignored.
_UNUSED = {
    "consistency": ("prediction", "weight", "times", "physics"),
    "regression": ("path", "sigma", "prediction", "weight", "times", "coupling", "source", "physics"),
}


@dataclass(frozen=True)
class TrainingConfig:
    """How a flow is trained: always a fixed number of steps, never a wall-clock time.

    Attributes:
        steps: Number of gradient steps.
        batch_size: Samples per step.
        learning_rate: Peak step size of the optimiser.
        weight_decay: Weight decay of AdamW; 0 is Adam.
        schedule: Constant, or a cosine decay to zero after the warm-up.
        warmup: Steps over which the learning rate rises from zero.
        clip: Largest norm of the gradient.
        ema: Decay of the exponential moving average of the weights, which is what samples.
        objective: Flow matching; consistency flow matching; or regression on the latent, the anchor of a flow. ReFlow,
            which trains on the samples of another model, is for Python: physflow.generative.ReFlow.
        path: Straight line (I-CFM), straight with shrinking noise (CondOT), cosine, or Schroedinger bridge; those of
            diffusion models, variance preserving (vp) and exploding (ve, up to 50 times the spread of the data).
        sigma: Width of the path: of the line's tube, of the noise left at the data (condot, ve), of the bridge.
        segments: Pieces of time in which consistency flow matching makes trajectories straight, in the second half of
            its steps; the first is flow matching to their ends.
        times: How training times are drawn.
        prediction: What the network predicts.
        weight: Weight of the loss over time: even, or late, 1 / max(1 - t, 0.05).
        physics: Weight of the equation's residual, relative to its source, at the estimates of the clean sample, beside
            the mean squared error; for data with an equation. It lowers the residual and may cost spread: for samples
            that are to be used as they are, without completion by the solver. Start at 0.01 and compare the spread; 0
            is without.
        fresh: Train on new samples made on the fly, none seen twice; the file serves the transform and the validation.
        symmetries: Train on all images of the data under their equation's symmetries; the law must have them too.
        flips: Train on mirror images as well, left and right exchanged; for images, not for data with an equation.
        coupling: How noise and data are paired: at random, by optimal transport in a batch, or by the entropic plan
            of the Schroedinger bridge of width sigma (sb).
        ot_factor: Noise samples for each data sample among which optimal transport chooses.
        source: Law of the noise: white, or a correlated Gaussian field.
        precision: Arithmetic of the network's forward pass.
        compile: Compile the network (torch.compile).
        validation: Fraction of the data kept out of training, for the validation loss.
        evaluate_every: Steps between two validation losses.
        checkpoint_every: Steps between two checkpoints, from which an interrupted training resumes.
        seed: Seed of the weights, the batches and the noise.
    """

    steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.999
    objective: Literal["flow", "consistency", "regression"] = "flow"
    path: Literal["linear", "condot", "cosine", "bridge", "vp", "ve"] = "linear"
    sigma: float = 0.0
    segments: int = 2
    times: Literal["uniform", "logit-normal"] = "uniform"
    prediction: Literal["velocity", "data", "noise"] = "velocity"
    weight: Literal["even", "late"] = "even"
    physics: float = 0.0
    fresh: bool = False
    symmetries: bool = False
    flips: bool = False
    coupling: Literal["independent", "ot", "sb"] = "independent"
    ot_factor: int = 1
    source: Literal["gaussian", "gaussian-process"] = "gaussian"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    validation: float = 0.02
    evaluate_every: int = 200
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(0, steps=self.steps, warmup=self.warmup, seed=self.seed)
        at_least(1, batch_size=self.batch_size, segments=self.segments, ot_factor=self.ot_factor)
        at_least(1, evaluate_every=self.evaluate_every, checkpoint_every=self.checkpoint_every)
        positive(learning_rate=self.learning_rate, clip=self.clip)
        fraction(weight_decay=self.weight_decay, ema=self.ema, validation=self.validation)
        literals(self)
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma must be finite and not negative, got {self.sigma!r}")
        if not 0 <= self.physics < math.inf:
            raise ValueError(f"physics, a weight, must be finite and not negative, got {self.physics!r}")
        for name in _UNUSED.get(self.objective, ()):
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if value != default:
                raise ValueError(f"objective={self.objective!r} has no use for {name}={value!r}: keep {default!r}")
        if self.objective == "consistency" and self.path not in ("linear", "condot"):
            raise ValueError(f"objective='consistency' needs a straight path, linear or condot, got path={self.path!r}")
        if self.path in ("cosine", "vp") and self.sigma != 0:
            raise ValueError(f"path={self.path!r} has no width: leave sigma at 0, got {self.sigma:g}")
        if self.path == "vp" and self.prediction == "velocity":
            raise ValueError(
                "path='vp' has a velocity whose error is infinite at the data: use prediction='noise' or 'data'"
            )
        if self.path == "ve" and not 0 < self.sigma < 50:
            raise ValueError(
                f"path='ve' needs 0 < sigma < 50, the noise left at the data, such as sigma=0.01; got {self.sigma:g}"
            )
        if self.path == "condot" and not 0 <= self.sigma < 1:
            raise ValueError(f"path='condot' needs 0 <= sigma < 1, the noise left at the data, got {self.sigma:g}")
        if self.segments != 2 and self.objective != "consistency":
            raise ValueError(f"segments={self.segments} is for objective='consistency', got {self.objective!r}")
        if self.coupling == "sb" and self.path != "bridge":
            raise ValueError(f"coupling='sb' goes with path='bridge', of the same width sigma, got path={self.path!r}")
        if self.ot_factor > 1 and self.coupling != "ot":
            raise ValueError(f"ot_factor={self.ot_factor} is for coupling='ot', got coupling={self.coupling!r}")
        if self.path == "bridge" and (self.prediction != "velocity" or self.weight == "late"):
            raise ValueError(
                "path='bridge' is learnt as a velocity with a weight of its own, t (1 - t): use prediction='velocity' "
                "and weight='even'"
            )
        if self.path == "bridge" and self.physics > 0:
            raise ValueError(
                f"physics={self.physics:g} needs the estimate of the clean sample, which the velocity of path='bridge' "
                "does not tell: use another path, or physics=0"
            )
        for setting, value in (("path", "bridge"), ("coupling", "sb")):
            if getattr(self, setting) == value and self.sigma == 0:
                raise ValueError(
                    f"{setting}={value!r} needs sigma > 0, the width of the bridge; sigma=0 is path='linear' with "
                    "coupling='ot'"
                )
