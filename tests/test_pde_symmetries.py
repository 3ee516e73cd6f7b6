"""Symmetries: every image of a solution is a solution, and none is missing."""

import numpy as np
import pytest
import torch

from physflow.grid import Grid
from physflow.pde import Darcy, DarcyNodes

CASES = {
    "wells": (Darcy(Grid((6, 6))), 4),
    "wells on 5 x 5": (Darcy(Grid((5, 5))), 4),
    "wells on 6 x 4": (Darcy(Grid((6, 4))), 2),
    "wells on oblong cells": (Darcy(Grid((6, 6), ((0, 1), (0, 2)))), 2),
    "constant": (Darcy(Grid((6, 6)), source="constant", boundary="dirichlet"), 8),
    "constant on 6 x 4": (Darcy(Grid((6, 4)), source="constant", boundary="dirichlet"), 4),
    "no symmetry": (Darcy(Grid((3, 3)), source=np.arange(9.0).reshape(3, 3), boundary="dirichlet"), 1),
    "published": (DarcyNodes(Grid((6, 6), centering="nodes")), 1),
}


@pytest.mark.parametrize(("equation", "count"), CASES.values(), ids=CASES)
def test_images_of_solutions_are_solutions(equation, count):
    g = torch.Generator().manual_seed(0)
    permeability = torch.randn(2, *equation.grid.shape, generator=g, dtype=torch.float64).exp()
    fields = torch.stack(equation.complete(permeability), dim=1)
    symmetries = equation.symmetries()
    assert len(symmetries) == count
    assert torch.equal(symmetries[0](fields), fields)
    images = [symmetry(fields) for symmetry in symmetries]
    for image in images:
        torch.testing.assert_close(equation.solve(image[:, 0]), image[:, 1], rtol=1e-6, atol=1e-9)
    # All different: an image that came twice would count twice in training.
    assert all(not torch.equal(a, b) for k, a in enumerate(images) for b in images[:k])
