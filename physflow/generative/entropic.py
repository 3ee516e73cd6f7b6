r"""Entropic couplings: optimal transport blurred by an entropy term, and the Schroedinger bridge.

Between n source and n data items of weight 1/n the entropic plan of regularisation :math:`\epsilon` is

.. math:: \min_P \sum_{ij} P_{ij} C_{ij} + \epsilon \sum_{ij} P_{ij} \log P_{ij}, \qquad
          C_{ij} = \lVert x_0^{(i)} - x_1^{(j)} \rVert^2,

over :math:`P \ge 0` with all row and column sums 1/n. It has the form
:math:`P_{ij} = \exp((f_i + g_j - C_{ij}) / \epsilon)`. Sinkhorn's iteration makes the rows and the columns
right in turn. It runs here on the potentials :math:`f` and :math:`g` themselves, so that no
:math:`\exp(-C / \epsilon)` underflows (and on factors beside them, which is faster, as long as these stay
moderate), and from a large regularisation down to the one asked for, since each
plan is a good start for the next. The smaller :math:`\epsilon` is beside the differences of the costs, the
more iterations it takes.

References:
    M. Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013.
    G. Peyre, M. Cuturi, "Computational optimal transport", 2019, sections 4.2 and 4.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.generative.couplings import Coupling, check_batches

__all__ = ["SchroedingerBridge", "Sinkhorn"]

_FALL = 0.25  # the regularisation from one stage to the next
_LOOSE = 0.05  # the error at which a stage before the last one is left
_LARGE = 1e100  # the factor beyond which the potentials take it over


@dataclass(frozen=True)
class Sinkhorn(Coupling):
    r"""The entropic plan between the two minibatches for the squared Euclidean cost.

    A large regularisation gives the independent coupling, a small one the optimal permutation. The data items
    stay as they are; for each of them a source item is drawn from the plan's conditional law
    :math:`P_{\cdot j} / \sum_i P_{ij}`, so a source item may be used several times or not at all. The law of
    one drawn item is :math:`p_0`, whatever the regularisation.

    Arguments:
        regularisation: :math:`\epsilon`, in the unit of the data squared.
        tolerance: The iteration ends when :math:`\sum_i \lvert n^{-1} - \sum_j P_{ij} \rvert` is at most this;
            the column sums are exact.
        max_iterations: The most iterations (row and column updates), over all stages.

    Raises:
        ValueError: If an argument is not positive, or not finite.

    References:
        See the module.
    """

    regularisation: float
    tolerance: float = 1e-4
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        for name in ("regularisation", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        count = self.max_iterations
        if isinstance(count, bool) or int(count) != count or count < 1:
            raise ValueError(f"max_iterations must be a whole number of at least 1, got {count}")

    def plan(self, x0: Tensor, x1: Tensor) -> Tensor:
        r"""The plan :math:`P`.

        Arguments:
            x0: Source samples, shape (n, ...).
            x1: Data samples, same shape.

        Returns:
            P[i, j] in float64, shape (n, n), on the device of the samples; it sums to 1.

        Raises:
            ValueError: If the shapes differ, the batch is empty, or a sample is not finite.
            RuntimeError: If the tolerance is not met within `max_iterations`.
        """
        check_batches(x0, x1)
        with torch.no_grad(), torch.autocast(x0.device.type, enabled=False):
            return self._plan(_squared_distances(x0, x1))

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Source items drawn from the plan given the data items, and the data as they are; see `Coupling`.

        Raises:
            ValueError: If there is no generator, or as `plan` does.
            RuntimeError: As `plan` does.
        """
        if generator is None:
            raise ValueError(f"{self} draws random numbers; pass a torch.Generator as generator")
        # Drawn where the generator lives: one seed gives one draw on every device.
        conditionals = self.plan(x0, x1).T.to(generator.device)
        rows = torch.multinomial(conditionals, 1, generator=generator)[:, 0]
        return x0[rows.to(x0.device)], x1

    def _plan(self, cost: Tensor) -> Tensor:
        f, g = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
        # The plan of a regularisation beyond all costs is all but independent.
        epsilon, iterations = max(cost.max().item(), self.regularisation), 0
        while True:
            last = epsilon <= self.regularisation
            f, g, iterations = self._balanced(cost, f, g, epsilon, self.tolerance if last else _LOOSE, iterations)
            if last:
                return torch.exp((f[:, None] + g - cost) / epsilon)
            epsilon = max(_FALL * epsilon, self.regularisation)

    def _balanced(
        self, cost: Tensor, f: Tensor, g: Tensor, epsilon: float, tolerance: float, iterations: int
    ) -> tuple[Tensor, Tensor, int]:
        """Potentials whose plan has the right columns, and rows within the tolerance; and the iterations so far."""
        log_n, error = math.log(len(cost)), math.inf
        while iterations < self.max_iterations:
            f = -epsilon * (torch.logsumexp((g - cost) / epsilon, 1) + log_n)
            g = -epsilon * (torch.logsumexp((f[:, None] - cost) / epsilon, 0) + log_n)
            # From here on the same updates as factors u and v of this kernel, while they are neither large nor small.
            kernel = torch.exp((f[:, None] + g - cost) / epsilon + log_n)
            u, v = torch.ones_like(f), torch.ones_like(g)
            while True:
                iterations += 1
                row_sums = kernel @ v
                error = (u * row_sums - 1).abs().mean().item()
                done = error <= tolerance
                next_u = 1 / row_sums
                next_v = 1 / (next_u @ kernel)
                low, high = torch.aminmax(torch.cat([next_u, next_v]))
                if done or iterations >= self.max_iterations or not (low > 1 / _LARGE and high < _LARGE):
                    break
                u, v = next_u, next_v
            f, g = f + epsilon * u.log(), g + epsilon * v.log()
            if done:
                return f, g, iterations
        raise RuntimeError(
            f"{self} did not converge: after {iterations} iterations the source's weights are off by {error:.3g} at "
            f"regularisation {epsilon:.3g}, the mean cost being {cost.mean().item():.3g}; "
            "raise regularisation, tolerance or max_iterations, or use ExactOT"
        )


@dataclass(frozen=True)
class SchroedingerBridge(Coupling):
    r"""The ends of the Schroedinger bridge: the entropic plan of regularisation :math:`2 \sigma^2` (SB-CFM).

    Of all processes from :math:`p_0` to :math:`p_1` the Schroedinger bridge is the nearest, in relative entropy,
    to a Brownian motion of diffusion :math:`\sigma`. Given its ends it is a Brownian bridge, so it is learned
    with a `BridgePath` of the same :math:`\sigma`; the law of its ends is the entropic plan with
    :math:`\epsilon = 2 \sigma^2`, here within the minibatch.

    Arguments:
        sigma: The diffusion :math:`\sigma`, in the unit of the data.
        tolerance: See `Sinkhorn`.
        max_iterations: See `Sinkhorn`.

    Raises:
        ValueError: If an argument is not positive, or not finite.

    References:
        A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
        transport", TMLR 2024, section 3.2 (SB-CFM).
    """

    sigma: float
    tolerance: float = 1e-4
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma, the diffusion, must be positive and finite, got {self.sigma}")
        self._sinkhorn()

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Source items drawn from the plan given the data items; see `Sinkhorn`."""
        return self._sinkhorn()(x0, x1, generator)

    def _sinkhorn(self) -> Sinkhorn:
        return Sinkhorn(2 * self.sigma**2, self.tolerance, self.max_iterations)


def _squared_distances(x0: Tensor, x1: Tensor) -> Tensor:
    """C (n, n) in float64; from the differences themselves, which lose no digits to an offset."""
    a, b = (x.unsqueeze(-1).flatten(1).double() for x in (x0, x1))
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
