import hypothesis
import numpy as np
import pytest
import torch

# The same examples in every run, and no failure because a machine was slow.
hypothesis.settings.register_profile("physflow", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("physflow")


@pytest.fixture
def generator():
    """A seeded torch generator: no test draws from the global one."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def rng():
    """A seeded numpy generator."""
    return np.random.default_rng(0)
