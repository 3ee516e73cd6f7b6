r"""A network asked for any prediction, on the path that it was trained on or on another.

Velocity, data, noise and score at a point of a path are one and the same knowledge (`physflow.generative.paths`). A
`Predictor` holds a network with what it predicts and its path, and answers for all four; as a callable it is the
velocity.

Change of schedule. At times t and :math:`\tau` at which the shares of data and noise are in the same proportion,

.. math:: \frac{\alpha'_t}{\sigma'_t} = \frac{\alpha_\tau}{\sigma_\tau},

the point :math:`x'_t` of one path is that of another but for its scale,
:math:`x_\tau = \frac{\sigma_\tau}{\sigma'_t} x'_t`, so that the predictions of data and noise are the same. A network
trained on one path therefore samples along every other (`Predictor.along`), and needs no new training.

References:
    T. Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, appendix B.
    N. Shaul et al., "Bespoke solvers for generative flow models", ICLR 2024, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from physflow.generative.paths import LinearPath, Path, Quantity, check_prediction, per_item

__all__ = ["LAST_TIME", "Predictor", "time_at"]

LAST_TIME = 1 - 1e-3
"""The latest time for a velocity that is made from another prediction, whose formula is 0/0 at t = 1."""

# As many halvings of [0, 1] as float64 tells apart.
_HALVINGS = 60


class Predictor:
    r"""A network with its path and what it predicts; called like a velocity, v(x, t, z=None).

    The velocity of a network that predicts something else is taken at the nearest time at which the conversion exists:
    that of the data, and on `VP` that of the noise, up to `LAST_TIME`; that of the noise or the score from
    ``1 - LAST_TIME`` on, if the path starts without data. There an error of the network enters the velocity divided by
    what is left: generate with a solver that stays away from the ends (`Euler`, `Midpoint`, `Heun`).

    Arguments:
        network: The network, called as network(x, t) or network(x, t, z), x and the result (batch, ...), t (batch,).
        path: The path on which it was trained.
        given: What it predicts.

    Raises:
        ValueError: If there is no such prediction.
    """

    def __init__(self, network: Callable[..., Tensor], path: Path | None = None, given: Quantity = "velocity") -> None:
        nothing = torch.zeros(0)
        check_prediction(nothing, nothing, given, given)
        self.network, self.path, self.given = network, LinearPath() if path is None else path, given

    def __repr__(self) -> str:
        return f"Predictor({type(self.network).__name__}, {self.path}, {self.given!r})"

    def __call__(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The velocity at x (batch, ...) and t (batch,), z the latent or None."""
        return self.predict(x, self.inside(t), "velocity", z=z)[0]

    def data(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        r"""The data prediction :math:`E[x_1 \mid x_t = x]`; see `predict`."""
        return self.predict(x, t, "data", z=z)[0]

    def noise(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        r"""The noise prediction :math:`E[x_0 \mid x_t = x]`; see `predict`."""
        return self.predict(x, t, "noise", z=z)[0]

    def score(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        r"""The score :math:`\nabla \log p_t(x)`, for a source N(0, I) independent of the data; see `predict`."""
        return self.predict(x, t, "score", z=z)[0]

    def predict(self, x: Tensor, t: Tensor, *wanted: Quantity, z: Tensor | None = None) -> tuple[Tensor, ...]:
        """Several predictions from one evaluation of the network.

        Arguments:
            x: Points of the path, shape (batch, ...).
            t: Times, shape (batch,).
            wanted: The predictions.
            z: The latent, handed to the network unchanged; None calls network(x, t).

        Returns:
            The predictions in this order, each of the shape of x.

        Raises:
            ValueError: Where a conversion does not exist (`Path.convert`).
        """
        value = self.network(x, t) if z is None else self.network(x, t, z)
        return tuple(self.path.convert(value, x, t, given=self.given, wanted=one) for one in wanted)

    def along(self, path: Path) -> Predictor:
        """The same knowledge on another path: what a network trained there would have learnt, were both perfect.

        Where the other path begins with more noise than this one, or ends with less, the nearest end of this one
        answers.

        Arguments:
            path: The path to sample along.

        Raises:
            ValueError: If one of the paths adds noise of its own (a tube, a bridge), so that its points are no points
                of the other.
        """
        for one in (self.path, path):
            half = torch.full((1,), 0.5)
            if not torch.equal(one.score_scale(half), one.sigma(half)) or not _plain(one):
                raise ValueError(f"{one} adds noise of its own, and its points are those of no other path")

        def network(x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
            tau = time_at(self.path, path.alpha(t), path.sigma(t))
            scale = self.path.spread(tau) / path.spread(t)
            return self.predict(per_item(scale, x) * x, self.inside(tau.to(t.dtype)), "data", z=z)[0]

        return Predictor(network, path, "data")

    def inside(self, t: Tensor) -> Tensor:
        """The nearest times, shape (batch,), at which the velocity follows from what is given."""
        if self.given == "velocity":
            return t
        ends = torch.tensor([0.0, 1.0])
        starts_without_data = self.path.alpha(ends)[0] == 0
        first = 1 - LAST_TIME if self.given in ("noise", "score") and starts_without_data else 0.0
        infinite = self.given == "noise" and not self.path.d_sigma(ends)[1].isfinite()
        return t.clamp(first, LAST_TIME if self.given == "data" or infinite else 1.0)


def time_at(path: Path, alpha: Tensor, sigma: Tensor) -> Tensor:
    """When the data's and the source's share on a path are in a given proportion, by bisection.

    Arguments:
        path: The path.
        alpha: The data's share, up to a common factor with `sigma`, shape (batch,).
        sigma: The source's share; 0 is data without noise.

    Returns:
        The times in [0, 1], shape (batch,), in float64: 0 where the path starts with more data than asked for, 1 where
        it ends with more noise.
    """
    alpha, sigma = alpha.double(), sigma.double()
    low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        later = path.alpha(middle) * sigma < path.sigma(middle) * alpha
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2


def _plain(path: Any) -> bool:
    """Whether noise and data predictions of a path hold its whole velocity."""
    t = torch.full((1,), 0.5)
    return all(map(torch.equal, path.shares(t), (path.alpha(t), path.sigma(t), path.d_alpha(t), path.d_sigma(t))))
