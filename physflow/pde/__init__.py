"""Partial differential equations as objects: residual, solution, derivative and score of one discretisation.

`Darcy` is conservative finite volumes on cells, `DarcyNodes` the published scheme on nodes; `Poisson` is Poisson's
equation, screened Poisson and Helmholtz. `Heat`, `Burgers`, `GrayScott` and `NavierStokes` are equations of motion
(`Evolution`), with fields over time and space. `from_dataset` rebuilds the equation of a Dataset and `score` judges its
fields by it.
"""

from physflow.pde.burgers import Burgers
from physflow.pde.darcy import Darcy
from physflow.pde.darcy_nodes import DarcyNodes
from physflow.pde.datasets import attributes_of, from_dataset
from physflow.pde.equation import Equation, Symmetry, check_device, identity
from physflow.pde.evolution import Evolution
from physflow.pde.gray_scott import GrayScott
from physflow.pde.heat import Heat
from physflow.pde.navier_stokes import NavierStokes
from physflow.pde.poisson import Poisson
from physflow.pde.scores import score, score_fields
from physflow.pde.semilinear import Semilinear

__all__ = [
    "Burgers",
    "Darcy",
    "DarcyNodes",
    "Equation",
    "Evolution",
    "GrayScott",
    "Heat",
    "NavierStokes",
    "Poisson",
    "Semilinear",
    "Symmetry",
    "attributes_of",
    "check_device",
    "from_dataset",
    "identity",
    "score",
    "score_fields",
]
