"""Observations: residuals and potentials, joining, assembly by name, contradictions, and the wording of errors."""

import math

import pytest
import torch
from scipy.stats import norm

from physflow.grid import Grid
from physflow.inference.observations import Observation, Observations, assemble, joined
from physflow.inference.operators import Function, Linear, Masked
from physflow.inference.points import Points

GRID = Grid((4, 5), ((0.0, 2.0), (0.0, 1.0)))
FIELDS = ("permeability", "pressure")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some(m=3, seed=0, std=0.1):
    return Observations(Linear(draw(m, 40, seed=seed)), draw(m, seed=seed + 1), std)


@pytest.mark.parametrize("std", [0.3, torch.tensor([0.1, 2.0, 0.5])])
def test_the_potential_is_the_negative_logarithm_of_the_likelihood(std):
    observations = Observations(Linear(draw(3, 40)), draw(3, seed=1), std)
    u = draw(4, 2, 4, 5, seed=2)
    laws = norm(observations.operator(u), observations.noise_std)
    expected = -(laws.logpdf(observations.values) - norm(0, observations.noise_std).logpdf(0)).sum(1)
    torch.testing.assert_close(observations.potential(u), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    assert observations.residual(u.float()).dtype == torch.float32
    assert observations.potential(u[:0]).shape == (0,)


def test_joined_potentials_add_up():
    u, parts = draw(4, 2, 4, 5), [some(3), some(1, 5, 2.0), Observations(lambda u: u[:, 0, 0, :2], draw(2), 0.5)]
    together = joined(parts)
    assert together.size == 6
    torch.testing.assert_close(together.potential(u), sum(part.potential(u) for part in parts))
    torch.testing.assert_close((parts[0] + parts[1]).residual(u), together.residual(u)[:, :4])


def test_seen_through_a_decoder_the_values_stay():
    u, observations = draw(4, 2, 4, 5), some()
    through = observations.through(lambda x: x.reshape(-1, 2, 4, 5) * 2)
    assert torch.equal(through.residual(u.flatten(1) / 2), observations.residual(u))
    assert torch.equal(through.values, observations.values)


def test_assembly_by_name():
    u = draw(3, 2, 4, 5).abs() + 0.1
    mask = draw(4, 5, seed=1) > 0.5
    at, values = [[0.3, 0.2], [2.0, 1.0]], draw(int(mask.sum()))
    observations = assemble(
        [
            Observation("pressure", [1.0, 2.0], 0.1, locations=at),
            Observation("permeability", values, [0.5] * len(values), mask=mask, log=True),
            Observation("pressure", [3.0], 0.2, function=lambda p: p.mean((1, 2))[:, None]),
            Observation(None, draw(4), 0.3, operator=Linear(draw(4, 40))),
        ],
        FIELDS,
        GRID.coordinates(),
    )
    parts = (
        Observations(Points(1, GRID.coordinates(), at), [1.0, 2.0], 0.1),
        Observations(Masked(0, mask, log=True), values, 0.5),
        Observations(Function(lambda u: u[:, 1].mean((1, 2))[:, None]), [3.0], 0.2),
        Observations(Linear(draw(4, 40)), draw(4), 0.3),
    )
    expected = torch.cat([part.residual(u) for part in parts], dim=1)
    torch.testing.assert_close(observations.residual(u), expected, rtol=1e-14, atol=1e-14)


def center(i, j):
    return [float(axis[k]) for axis, k in zip(GRID.coordinates(), (i, j), strict=True)]


def test_two_measurements_at_one_place_count_twice():
    twice = Observation("pressure", [1.0, 1.0], 0.1, locations=[center(1, 2)] * 2)
    once = Observation("pressure", [1.0], 0.1 / math.sqrt(2), locations=[center(1, 2)])
    potentials = [assemble([o], FIELDS, GRID.coordinates()).potential(draw(3, 2, 4, 5)) for o in (twice, once)]
    torch.testing.assert_close(*potentials, rtol=1e-12, atol=0)


def contradiction(gap, field="pressure", log=False):
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0, 0] = mask[1, 2] = True
    first = Observation("pressure", [0.0, 5.0, 1.0], 0.3, locations=[center(3, 3), center(0, 1), center(1, 2)])
    second = Observation(field, [7.0, 1.0 + gap], 0.4, mask=mask, log=log)
    return assemble([first, second], FIELDS, GRID.coordinates())


def test_contradictions_are_named():
    """Noises of 0.3 and 0.4 differ by 0.5: six of these are 3."""
    message = (
        r"sensor 2 of observation 0 and sensor 1 of observation 1 observe 'pressure' at one place, \(0.75, 0.5\), "
        r"but read 1 and 4.05, 6.1 standard deviations of their difference apart; correct one, or raise noise_std"
    )
    with pytest.raises(ValueError, match=message):
        contradiction(3.05)
    assert contradiction(2.95).size == 5
    assert contradiction(50, field="permeability").size == 5
    assert contradiction(50, log=True).size == 5


@pytest.mark.parametrize(
    ("values", "std", "message"),
    [
        (torch.tensor(1.0), 0.1, r"values of shape \(m,\) of at least one sensor, got \(\)"),
        (draw(0), 0.1, r"values of shape \(m,\) of at least one sensor, got \(0,\)"),
        (draw(3), draw(2), r"one noise_std for all or for each of the 3 values, got \(2,\)"),
        (torch.tensor([1.0, math.nan, 2.0]), 0.1, "expected finite values, but number 1 is nan; leave out sensors"),
        (draw(3), 0.0, "noise_std that is positive and finite, got 0; values without noise are a constraint, which a"),
        (draw(3), torch.tensor([1.0, 1.0, -2.0]), "positive and finite, got -2"),
        (draw(2), 0.1, r"expected 3 values, one for each sensor of Linear\(3 x 40\), got 2"),
    ],
)
def test_impossible_observations(values, std, message):
    with pytest.raises(ValueError, match=message):
        Observations(Linear(draw(3, 40)), values, std)


def test_an_operator_that_returns_another_shape():
    with pytest.raises(
        ValueError, match=r"operator to return shape \(4, 2\), a reading for each item and value, got \(4, 3\)"
    ):
        Observations(lambda u: u[:, :3], draw(2), 1.0).residual(draw(4, 5))
    with pytest.raises(ValueError, match="at least one set of observations to join, got none"):
        joined([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"field": "pressure"}, "one of locations, mask, function and operator, got none of them"),
        ({"field": "pressure", "mask": [True], "locations": [[0.0]]}, "function and operator, got locations and mask"),
        (
            {"field": None, "mask": [True]},
            "mask with field=None: locations, mask and function need the name of a field",
        ),
        ({"field": "pressure", "operator": len}, "operator with field='pressure': .* an operator sees all fields"),
        ({"field": "pressure", "function": len, "log": True}, "take the logarithm within the function"),
    ],
)
def test_where_is_said_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Observation(**arguments, values=[1.0], noise_std=0.1)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Observation("presure", [1.0], 0.1, locations=[[0, 0]]), r"1 \(presure\): unknown .*did you mean 'pressure'"),
        (Observation("pressure", [1.0], 0.1, locations=[[0, 9]]), r"1 \(pressure\): sensor 0 at \(0, 9\) lies outside"),
        (Observation("pressure", [1.0], 0.0, locations=[[0, 0]]), r"1 \(pressure\): expected a noise_std that is"),
        (Observation("pressure", [1.0, 2.0], 1.0, locations=[[0, 0]]), r"1 \(pressure\): expected 1 values"),
        (Observation("pressure", [1.0], 1.0, mask=[True]), r"a mask of the grid's shape \(4, 5\), got \(1,\)"),
        (Observation(None, [1.0], -1.0, operator=len), r"1 \(of all fields\): expected a noise_std that is"),
    ],
)
def test_assembly_names_the_observation(observation, message):
    good = Observation("pressure", [1.0], 0.1, locations=[[0, 0]])
    with pytest.raises(ValueError, match=message):
        assemble([good, observation], FIELDS, GRID.coordinates())


LABELS = ("line 7", "line 9")


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (
            [Observation("pressure", [1.0, 9.0], 0.1, locations=[[0.3, 0.3]] * 2, labels=LABELS)],
            "^line 7 and line 9 obs",
        ),
        (
            [Observation("pressure", [1.0, 9.0], 0.1, locations=[[0, 0], [0, 9]], labels=LABELS)],
            r"^line 9 at \(0, 9\) lies",
        ),
        (
            [Observation("permeability", [1.0, 0.0], 0.1, locations=[[0.3, 0.3], [0, 0]], labels=LABELS)],
            r"^line 9 reads 0 of 'permeability', which is positive: is this log permeability\?",
        ),
        (
            [Observation("permeability", [-0.5], 0.1, locations=[[0.3, 0.3]])],
            "sensor 0 of observation 0 reads -0.5 of 'permeability', which is positive: is this log permeability",
        ),
        (
            [Observation("pressure", [-0.5], 0.1, locations=[[0.3, 0.3]], log=True)],
            "log=True for 'pressure', which may be negative and has no logarithm; expected the field itself, or a "
            "field that is positive: permeability",
        ),
    ],
)
def test_sensors_have_names_and_signs(observations, message):
    with pytest.raises(ValueError, match=message):
        assemble(observations, FIELDS, GRID.coordinates(), positive=("permeability",))


def test_signs_are_judged_where_they_are_known():
    negative = Observation("permeability", [-0.5], 0.1, locations=[[0.3, 0.3]])
    logarithm = Observation("permeability", [-0.5], 0.1, locations=[[0.3, 0.3]], log=True)
    assert assemble([negative], FIELDS, GRID.coordinates()).size == 1
    assert assemble([logarithm], FIELDS, GRID.coordinates(), positive=("permeability",)).size == 1


def test_nodes_have_no_wall_beyond_them():
    beyond = Observation("pressure", [1.0], 0.1, locations=[[0.0, 0.0]])
    assert assemble([beyond], FIELDS, GRID.coordinates()).size == 1
    with pytest.raises(ValueError, match=r"sensor 0 at \(0, 0\) lies outside the domain"):
        assemble([beyond], FIELDS, GRID.coordinates(), cells=False)


def test_each_value_has_a_label():
    with pytest.raises(ValueError, match="expected a label for each of the 2 values, got 1"):
        Observation("pressure", [1.0, 2.0], 0.1, locations=[[0, 0]] * 2, labels=["line 2"])
