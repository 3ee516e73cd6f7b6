r"""Toy distributions: laws of points in few dimensions of which everything is known.

`GaussianMixture` has exact samples, density, score and moments, and `GaussianMixture.flow` the exact velocity, score,
density and predictions of the flow to it, with the minimum of the flow-matching loss: what a trained model would do if
it were perfect. Mixtures by name: `triangle`, `four_gaussians`, `ring`, `two_modes`. `Checkerboard` and `Moons` have
exact samples and density.

.. code-block:: python

    flow = ring().flow(LinearPath(), source=ring(radius=1 / 3))
    x1 = integrate(flow.velocity, flow.source.sample(1000, generator), RK4(), 100)
    loss, error = flow.minimum("velocity", 10_000, generator)
"""

from physflow.data.toys.base import Toy
from physflow.data.toys.checkerboard import Checkerboard
from physflow.data.toys.flows import Blur, MixtureFlow, Schedules
from physflow.data.toys.gaussian_mixtures import GaussianMixture
from physflow.data.toys.moons import Moons
from physflow.data.toys.settings import four_gaussians, ring, triangle, two_modes

__all__ = [
    "Blur",
    "Checkerboard",
    "GaussianMixture",
    "MixtureFlow",
    "Moons",
    "Schedules",
    "Toy",
    "four_gaussians",
    "ring",
    "triangle",
    "two_modes",
]
