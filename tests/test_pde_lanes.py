"""The vector type of compiled code: against numpy, lane by lane."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import physflow
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
    def kernel():
        pass

    name = f"test_pde_lanes.{kernel.__qualname__}"
    old, new, other = (tmp_path / f for f in (f"{name}-1.py311.nbi", f"{name}-2.py311.nbi", "test_pde_lanes.f-1.nbi"))
    for path, age in ((old, 0), (new, 4e9), (other, 0)):
        path.touch()
        os.utime(path, (age, age))
    lanes._forget_outdated(tmp_path, kernel)
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


@pytest.mark.slow
def test_a_change_of_what_is_called_compiles_anew(tmp_path):
    """Wherever numba keeps what it compiles: a copy of the package with another cycle takes other iterations."""
    package = tmp_path / "physflow"
    shutil.copytree(Path(physflow.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import torch; from physflow.pde import compiled_solver as c; K = torch.rand(8, 32, 32).double() + 0.1; "
        "f = torch.zeros(32, 32).double(); f[0, 0], f[-1, -1] = 1, -1; "
        "print(int(c.solve(K, f, (1.0, 1.0))[2].max()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def iterations():
        command = [sys.executable, "-c", "import torch; torch.manual_seed(0); " + code]
        return int(subprocess.check_output(command, env=environment, cwd=tmp_path))

    before = iterations()
    source = package / "pde" / "compiled_multigrid.py"
    old, new = "store(x, o, load(x, o) + load(coarse", "store(x, o, load(x, o) - load(coarse"
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    assert iterations() > 2 * before
