r"""Replacement: observed numbers are put into the state at every time.

Some numbers of :math:`x_1` are known, :math:`x_1[M] = y`. After each step of a solver those of the state are replaced
by what they must be at that time,

.. math:: x_{t'}[M] \leftarrow \alpha_{t'} y + \sigma_{t'} n,

with noise n that a sample keeps, :math:`n = (x_t[M] - \alpha_t y) / \sigma_t`, or fresh noise. At the end they are y
exactly. The others follow only because the velocity reads the observed ones beside them: they do not become a draw of
the posterior, whatever the number of steps, because a replaced state is no longer one that the unobserved part goes
with. Going back over the step several times lets the two parts settle,

.. math:: x_t = \frac{\alpha_t}{\alpha_{t'}} x_{t'} +
                \Bigl(\sigma_t^2 - \frac{\alpha_t^2}{\alpha_{t'}^2} \sigma_{t'}^2\Bigr)^{1/2} \xi, \qquad
          \xi \sim N(0, I),

and lessens that error, at the price of as many more evaluations. A baseline: noise of the observations is
ignored, and only numbers of x themselves can be observed.

References:
    A. Lugmayr et al., "RePaint: inpainting using denoising diffusion probabilistic models", CVPR 2022, algorithm 1.
    Y. Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021,
    appendix I.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from physflow.config.checks import at_least
from physflow.generative import Heun, LinearPath, Path, RightHandSide, RungeKutta

__all__ = ["Replacement"]


@dataclass(frozen=True, eq=False)
class Replacement(RungeKutta):
    r"""A solver for `physflow.generative.integrate` that replaces the observed numbers after each step.

    Arguments:
        mask: True at the observed numbers, of the shape of an item of x.
        values: Their values y in the space of x, shape (m,), in the order of ``item[mask]``.
        path: The path for which the velocity was made, of a source N(0, I) independent of the data.
        solver: The solver that takes the steps.
        resample: How often each step is undone and taken again.
        generator: Fresh noise after each step, and for undoing it; None keeps the noise of each sample, which is then
            a smooth function of its start.

    Raises:
        ValueError: If mask and values do not fit each other, a value is not finite, or resampling has no generator.
    """

    mask: Tensor
    values: Tensor
    path: Path = field(default_factory=LinearPath)
    solver: RungeKutta = field(default_factory=Heun)
    resample: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        mask, values = torch.as_tensor(self.mask), torch.as_tensor(self.values)
        if mask.dtype != torch.bool or values.shape != (int(mask.sum()),):
            raise ValueError(
                f"expected a mask of booleans and a value for each point it chooses, got a mask of {mask.dtype} with "
                f"{int(mask.sum())} points and values of shape {tuple(values.shape)}"
            )
        if not values.isfinite().all():
            raise ValueError("expected finite values, some are NaN or infinite; leave them out of the mask")
        at_least(0, resample=self.resample)
        if self.resample and self.generator is None:
            raise ValueError("undoing steps draws random numbers; pass a torch.Generator as generator")
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "values", values)

    def step(self, f: RightHandSide, x: Tensor, t: float, t_next: float) -> Tensor:
        """The state at `t_next` from the state x at `t`.

        Raises:
            ValueError: If the step goes back in time, or the items have another shape than the mask.
        """
        if t_next <= t:
            raise ValueError(f"replacement goes from noise to data, but a step leads from t = {t:g} to {t_next:g}")
        if x.shape[1:] != self.mask.shape:
            raise ValueError(f"expected items of the mask's shape {tuple(self.mask.shape)}, got {tuple(x.shape[1:])}")
        after = self._replaced(self.solver.step(f, x, t, t_next), x, t, t_next)
        for _ in range(self.resample):
            x = self._undone(after, t, t_next)
            after = self._replaced(self.solver.step(f, x, t, t_next), x, t, t_next)
        return after

    def _replaced(self, after: Tensor, before: Tensor, t: float, t_next: float) -> Tensor:
        (alpha, alpha_next), (sigma, sigma_next) = self._schedules(before, t, t_next)
        mask, y = self.mask.to(after.device), self.values.to(after)
        noise = (before[:, mask] - alpha * y) / sigma if self.generator is None else self._normal(after[:, mask])
        after = after.clone()
        after[:, mask] = alpha_next * y + sigma_next * noise
        return after

    def _undone(self, after: Tensor, t: float, t_next: float) -> Tensor:
        (alpha, alpha_next), (sigma, sigma_next) = self._schedules(after, t, t_next)
        share = alpha / alpha_next
        return share * after + (sigma**2 - (share * sigma_next) ** 2).sqrt() * self._normal(after)

    def _schedules(self, x: Tensor, t: float, t_next: float) -> tuple[Tensor, Tensor]:
        times = torch.tensor([t, t_next], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        return self.path.alpha(times).to(x.dtype), self.path.sigma(times).to(x.dtype)

    def _normal(self, like: Tensor) -> Tensor:
        assert self.generator is not None
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=self.generator.device).to(
            like.device
        )
