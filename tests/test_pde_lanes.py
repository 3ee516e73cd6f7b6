"""The vector type of compiled code: against numpy, lane by lane."""

import os

import numpy as np
import pytest
from numba import njit

from physflow.pde import lanes
from physflow.pde.lanes import LANES, broadcast, load, narrow, store, widen


@njit
def arithmetic(a, b, out):
    x, y = load(a, 0), load(b, LANES)
    store(out, 0, x + y)
    store(out, LANES, x - y)
    store(out, 2 * LANES, x * y)
    store(out, 3 * LANES, x / y)
    store(out, 4 * LANES, x + broadcast(out[0]))


@njit
def convert(single, double, to_double, to_single):
    store(to_double, 0, widen(load(single, 0)))
    store(to_single, 0, narrow(load(double, 0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arithmetic_is_that_of_numpy(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2 * LANES)).astype(dtype)
    out = np.full(5 * LANES, 7, dtype)
    arithmetic(a, b, out)
    x, y = a[:LANES], b[LANES:]
    # The compiler may divide by a product with the reciprocal.
    np.testing.assert_allclose(out, np.concatenate([x + y, x - y, x * y, x / y, x + (x + y)[0]]), rtol=1e-6)


def test_conversions_round_as_numpy_does():
    rng = np.random.default_rng(1)
    single, double = rng.standard_normal(LANES).astype(np.float32), rng.standard_normal(LANES)
    to_double, to_single = np.zeros(LANES), np.zeros(LANES, np.float32)
    convert(single, double, to_double, to_single)
    assert np.array_equal(to_double, single.astype(np.float64))
    assert np.array_equal(to_single, double.astype(np.float32))


def test_a_vector_goes_only_where_its_type_fits():
    @njit
    def wrong(a, out):
        store(out, 0, load(a, 0))

    with pytest.raises(Exception, match="store"):
        wrong(np.zeros(LANES), np.zeros(LANES, np.float32))


def test_what_an_older_source_gave_is_forgotten(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    old, new, other = (tmp_path / "__pycache__" / name for name in ("compiled_a.nbi", "compiled_b.nbi", "c.nbi"))
    for path in (tmp_path / "compiled_a.py", old, new, other):
        path.touch()
    for path, age in ((old, 0), (other, 0), (tmp_path / "compiled_a.py", 2e9), (new, 3e9)):
        os.utime(path, (age, age))
    lanes._forget_outdated(tmp_path)
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
