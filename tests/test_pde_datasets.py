"""Equations rebuilt from the attributes of a dataset."""

import numpy as np
import pytest
import torch

from physflow.fields import to_dataset
from physflow.grid import Grid
from physflow.pde import Burgers, Darcy, DarcyNodes, GrayScott, Heat, NavierStokes, Poisson, from_dataset

EQUATIONS = [
    Darcy(Grid((8, 8))),
    Darcy(Grid((8, 12), ((0, 1), (1, 3))), faces="arithmetic"),
    Darcy(Grid((8, 8)), source="constant", boundary="dirichlet"),
    DarcyNodes(Grid((9, 8), centering="nodes")),
    Poisson(Grid((8, 12), ((0, 1), (1, 3))), "periodic", screening=-2.5),
    Poisson(Grid((9,))),
    Heat(Grid((3, 4, 5), ((0, 2), (0, 1), (1, 2)), axes=("t", "x", "y")), 0.3, "neumann"),
    Burgers(Grid((3, 4), axes=("t", "x")), 0.3, 7),
    GrayScott(Grid((3, 4, 5, 6), axes=("t", "x", "y", "z")), 0.03, 0.05, 1e-3, 1e-4, 7),
    NavierStokes(Grid((3, 8, 9), axes=("t", "x", "y")), 0.3, 0.5, 2, 0.2, 7),
]


def dataset(equation):
    K = torch.ones(2, len(equation.fields), *equation.grid.shape)
    return to_dataset(K, equation.fields, equation.grid, equation.attributes())


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda equation: type(equation).__name__)
def test_rebuilds_the_equation(equation):
    found = from_dataset(dataset(equation))
    assert type(found) is type(equation)
    assert found.grid == equation.grid
    assert found.attributes() == equation.attributes()
    if hasattr(equation, "source_term"):
        torch.testing.assert_close(found.source_term, equation.source_term)


@pytest.mark.parametrize("equation", [EQUATIONS[1], EQUATIONS[3]], ids=["Darcy", "DarcyNodes"])
def test_rebuilds_a_custom_source(equation):
    f = equation.source_term.numpy() * 2
    custom = type(equation)(equation.grid, source=f)
    ds = dataset(custom)
    with pytest.raises(ValueError, match=r"source is 'custom', but it has no variable 'source' over \('x', 'y'\)"):
        from_dataset(ds)
    ds["source"] = (("y", "x"), f.T)
    np.testing.assert_allclose(from_dataset(ds).source_term, f)


@pytest.mark.parametrize("key", ["equation", "source", "boundary", "faces"])
def test_says_which_attribute_is_missing_and_how_to_set_it(key):
    ds = dataset(EQUATIONS[0])
    del ds.attrs[key]
    with pytest.raises(ValueError, match=rf"(?s)lacks the attributes \['{key}'\].*ds\.attrs\.update"):
        from_dataset(ds)


def test_says_which_equations_there_are():
    ds = dataset(EQUATIONS[0])
    ds.attrs["equation"] = "Darci"
    with pytest.raises(ValueError, match="unknown equation 'Darci' in the dataset's attributes; did you mean 'Darcy'"):
        from_dataset(ds)


def test_nodes_need_their_centering():
    ds = dataset(EQUATIONS[3])
    del ds.attrs["centering"]
    with pytest.raises(ValueError, match="DarcyNodes needs a grid of nodes"):
        from_dataset(ds)


class Own(Burgers):
    """An equation of a user."""

    def attributes(self):
        return {**super().attributes(), "equation": "Own"}


def test_an_equation_that_is_imported_is_found():
    equation = Own(Grid((3, 4), axes=("t", "x")), 0.3, 7)
    assert type(from_dataset(dataset(equation))) is Own
    ds = dataset(equation).assign_attrs(equation="Stranger")
    with pytest.raises(
        ValueError, match="an equation of your own is known in Python once the module of its class is imported"
    ):
        from_dataset(ds)


def test_abstract_equations_are_not_found():
    with pytest.raises(ValueError, match="unknown equation 'Semilinear'"):
        from_dataset(dataset(EQUATIONS[-1]).assign_attrs(equation="Semilinear"))


def test_a_class_that_was_edited_takes_the_place_of_the_one_before():
    classes = [
        type("Edited", (Own,), {"attributes": lambda self: {**Own.attributes(self), "equation": "Edited"}})
        for _ in range(2)
    ]
    equation = classes[1](Grid((3, 4), axes=("t", "x")), 0.3, 7)
    assert type(from_dataset(dataset(equation))) is classes[1]
    type("Heat", (Own,), {})
    assert type(from_dataset(dataset(EQUATIONS[6]))) is Heat
