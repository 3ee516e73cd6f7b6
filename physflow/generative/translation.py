r"""Translation: a flow from one set of data to another.

A flow starts from any law that can be drawn from. Where that law is another set of data, it carries samples of the one
to samples of the other:

* of unpaired sets by `FlowMatching` with the source `Items`, best with a coupling by optimal transport, so that each
  sample goes to one that is near;
* of paired sets, a coarse and a fine simulation of the same case, by `ReFlow` on their `Pairs`, with or without a
  latent of the coarse one.

Neither law needs a density, so that there is none to be told. A velocity is a map of x and t alone: it carries two
samples that meet to the same place. Where the target has more to it than the source, what is missing must come from
noise: a tube around the line (``LinearPath(0.1)``), or noise beside the source.

References:
    X. Liu, C. Gong, Q. Liu, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    ICLR 2023, section 5.
    A. Samaddar et al., "Efficient flow matching using latent variables", 2025, section 5 (latents of a low fidelity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physflow.generative.batches import BatchSource
from physflow.generative.integrators import Heun, Solver, integrate
from physflow.generative.latents.base import Latent
from physflow.generative.paths import Velocity
from physflow.generative.samplers.base import normals
from physflow.generative.sources import Source

__all__ = ["Items", "translate"]

_HEUN = Heun()


@dataclass(frozen=True)
class Items(Source):
    """A set of data as a source: its items, drawn with replacement.

    Arguments:
        data: The items, such as `TensorBatches`, in the space of the target.

    Raises:
        ValueError: If there are none.
    """

    data: BatchSource

    def __post_init__(self) -> None:
        if len(self.data) == 0:
            raise ValueError("expected at least one item to start from, got none")

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Items chosen at random; see `Source.sample`.

        Raises:
            ValueError: If the items have another shape than the target's.
        """
        indices = torch.randint(len(self.data), (shape[0],), generator=generator, device=generator.device)
        items = self.data.batch(indices.cpu())
        if items.shape != tuple(shape):
            raise ValueError(
                f"expected items of the shape {tuple(shape[1:])} of the target, got {tuple(items.shape[1:])}: bring "
                "both to one grid first"
            )
        return items.to(device, dtype)


@torch.no_grad()
def translate(
    velocity: Velocity,
    x0: Tensor,
    solver: Solver = _HEUN,
    steps: int = 20,
    *,
    latent: Latent | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Samples of the source carried to the target.

    Arguments:
        velocity: v(x, t, z=None), trained from the one to the other.
        x0: Samples of the source, shape (batch, ...).
        solver: The numerical method.
        steps: The number of equal steps of one with fixed steps.
        latent: The trained latent of the source's samples, one that reads :math:`x_0` alone; None without.
        generator: Where z is drawn from its posterior: a generator, or one for each item; None takes its mean.

    Returns:
        The samples, of the shape of `x0`.

    Raises:
        ValueError: If the latent reads something else than :math:`x_0`.
        SolverDiverged: If a state stops being finite.
    """
    z = None
    if latent is not None:
        if latent.inputs != ("x0",):
            raise ValueError(
                f"a translation knows its start alone, but the posterior of z reads {', '.join(latent.inputs)}: train "
                "one "
                'with inputs=("x0",)'
            )
        posterior = latent.posterior(x0=x0)
        z = posterior.sample(None if generator is None else normals(generator)(posterior.mean))
    return integrate(velocity, x0, solver, steps, z)
