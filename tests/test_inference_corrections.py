"""Completion: the inputs stay as they are, to the last bit, and the solutions solve."""

import pytest
import torch

from physflow.grid import Grid
from physflow.inference import Completion
from physflow.pde import Darcy

GRID = Grid((6, 5))


def fields(samples, dtype):
    g = torch.Generator().manual_seed(0)
    return torch.rand(samples, 2, *GRID.shape, generator=g, dtype=torch.float64).add(0.5).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [0, 1, 4])
def test_completion(samples, dtype):
    darcy = Darcy(GRID)
    given = fields(samples, dtype)
    completed = Completion(darcy.complete)(given)
    assert completed.dtype == dtype
    assert torch.equal(completed[:, 0], given[:, 0])
    residual = darcy.residual(*completed.double().unbind(1))
    assert (
        residual.abs().max().item() < (1e-3 if dtype == torch.float32 else 1e-6) if samples else residual.numel() == 0
    )


def test_completion_twice_is_completion_once():
    complete = Completion(Darcy(GRID).complete)
    once = complete(fields(3, torch.float64))
    torch.testing.assert_close(complete(once), once)
