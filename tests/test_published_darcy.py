"""What the published Darcy data are: a fine set of pairs, stored with the pressure transposed.

The public generator (Jacobsen et al., 2023: 16 modes, coefficients uniform on [0, 2.5], 64 x 64 nodes,
product rule) numbers its unknowns by (j, i) and its fields by (i, j), so every stored pressure is the
transpose of the one that was solved. The score is theirs: mean square of the product-rule residual, one-sided
at the walls, here at the spacing of the nodes, 1/63. The published medians of generated fields under it lie
between 3.3 and 5.9.
"""

import numpy as np
import pytest

from physflow.data.darcy import generate
from physflow.pde import score

SAMPLES = 12


@pytest.fixture(scope="module")
def published():
    return generate(SAMPLES, resolution=64, preset="cocogen-16", discretization="nodes", seed=0)


def test_aligned_pairs_satisfy_the_equation(published):
    assert published.sizes == {"sample": SAMPLES, "x": 64, "y": 64}
    found = score(published)
    assert found["strong_residual_mse"].median() < 5e-3
    assert found["solution_error"].max() < 1e-5


def test_no_pressure_at_all_scores_less_than_the_published_medians(published):
    found = score(published.assign(pressure=0 * published["pressure"]))
    np.testing.assert_allclose(found["strong_residual_mse"], 3.125, rtol=1e-12)


def test_transposed_pressure_loses_the_equation(published):
    transposed = published["pressure"].transpose("sample", "y", "x").values
    found = score(published.assign(pressure=(("sample", "x", "y"), transposed)))
    assert found["strong_residual_mse"].median() >= 500 * score(published)["strong_residual_mse"].median()
    assert found["solution_error"].median() > 0.1


def test_the_fixed_signs_give_the_published_statistics():
    # The published mean is 1.149; its "standard deviation" 7.815 divides by rows where it should by points: 7.815 / 8.
    permeability = generate(200, resolution=64, preset="cocogen-16", discretization="nodes")["permeability"]
    assert abs(float(permeability.mean()) - 1.149) < 0.1
    assert abs(float(permeability.std()) - 7.815 / 8) < 0.1
