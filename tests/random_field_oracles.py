"""What the tests of random fields compare with: dense covariance matrices, and responses to unit noise."""

import numpy as np


def dense(grid, covariance):
    """The covariance matrix of all pairs of points."""
    return covariance(*(x.reshape(-1, 1) - x.reshape(1, -1) for x in grid.mesh()))


def responses(monkeypatch, module, field, samples):
    """The fields of the first samples as linear maps of the noise of sample 0, shape (samples, points, numbers)."""
    drawn = []

    def unit_normals(seed, indices, size, out=None):
        # The seed says where the 1 is; the noise of all samples is the same.
        drawn.append(size)
        out = np.empty((len(indices), size), np.float32) if out is None else out
        out[...] = np.arange(size) == seed
        return out

    monkeypatch.setattr(module, "normals", unit_normals)
    assert not field.draw(-1, 0, samples).any(), "linear: no noise, no field"
    columns = [field.draw(seed, 0, samples).reshape(samples, -1) for seed in range(drawn[0])]
    return np.stack(columns, axis=-1)
