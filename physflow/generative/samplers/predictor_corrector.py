r"""Predictor-corrector: after each step to a new time, steps of Langevin's dynamics at that time.

Langevin's dynamics :math:`dx = \nabla \log p_t\, ds + \sqrt 2\, dw` leave :math:`p_t` as it is, and so take away what
the predictor did wrong. A step of them is

.. math:: x \leftarrow x + \epsilon_t \nabla \log p_t(x) + \sqrt{2 \epsilon_t}\, \xi, \qquad
          \epsilon_t = 2 r^2 \sigma_t^2,

with r the ratio of signal to noise of the step: the score has about the size :math:`\sqrt d / \sigma_t`, and noise
:math:`\sqrt d`. The published step takes those two norms from the batch at hand, by which each sample depends on its
neighbours; their expected size does as well, and it is what is taken here.

References:
    Y. Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021, section 4.2
    and appendix G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from physflow.config.checks import at_least, positive
from physflow.generative.integrators import at
from physflow.generative.paths import Path, per_item
from physflow.generative.predictors import Predictor
from physflow.generative.samplers.base import Noise, Sampler
from physflow.generative.samplers.sde import EulerMaruyama

__all__ = ["PredictorCorrector"]


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A sampler with steps of Langevin's dynamics after each of its steps, but for the last, where no noise is left.

    Arguments:
        predictor: The sampler.
        corrections: The steps of Langevin's dynamics after each of its steps, one evaluation each.
        ratio: The ratio r of signal to noise; 0.16 is the published choice for images.

    Raises:
        ValueError: If a number is out of range.
    """

    predictor: Sampler = field(default_factory=EulerMaruyama)
    corrections: int = 1
    ratio: float = 0.16

    def __post_init__(self) -> None:
        at_least(1, corrections=self.corrections)
        positive(ratio=self.ratio)

    def times(self, path: Path, steps: int) -> Sequence[float]:
        """The times of the predictor."""
        return self.predictor.times(path, steps)

    def step(self, model: Predictor, x: Tensor, t: float, t_next: float, noise: Noise, z: Tensor | None) -> Tensor:
        """One step of the predictor, then those of the corrector; see `Sampler.step`."""
        x = self.predictor.step(model, x, t, t_next, noise, z)
        if t_next == 1:
            return x
        time = at(t_next, x)
        size = per_item(2 * self.ratio**2 * model.path.sigma(time) ** 2, x)
        for _ in range(self.corrections):
            x = x + size * model.predict(x, time, "score", z=z)[0] + (2 * size).sqrt() * noise(x)
        return x
