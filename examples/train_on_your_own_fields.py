"""Train a flow on any gridded Dataset, with no equation at all, and draw new fields from it.

Run it: python examples/train_on_your_own_fields.py
"""

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import physflow
from physflow.config import MLPConfig, ModelConfig, TrainingConfig

# Any Dataset will do whose variables lie over `sample` and a uniform grid with coordinates. These points include the
# ends of the domain, which the attribute `centering` says; without it they would count as the centres of cells.
rng = np.random.default_rng(0)
x, y = np.linspace(0, 1, 24), np.linspace(0, 2, 32)
amplitude, phase = rng.uniform(0.5, 1.5, (400, 1, 1)), rng.uniform(0, 2 * np.pi, (400, 1, 1))
wave = amplitude * np.sin(2 * np.pi * x[:, None] + phase) * np.cos(np.pi * y[None, :])
ds = xr.Dataset({"height": (("sample", "x", "y"), wave)}, coords={"x": x, "y": y}, attrs={"centering": "nodes"})

with tempfile.TemporaryDirectory() as folder:
    path = physflow.data.write(ds, Path(folder) / "waves.nc")
    model = physflow.experiment.train_model(
        path,
        Path(folder) / "model",
        model=ModelConfig(mlp=MLPConfig(width=64, blocks=2)),
        training=TrainingConfig(steps=1500, batch_size=256),
        progress=True,
    )
    samples = physflow.load(Path(folder) / "model").sample(400)

print(model)
for name, field in (("data", ds), ("samples", samples)):
    print(f"{name:8} mean {float(field['height'].mean()):+.3f}  std {float(field['height'].std()):.3f}")
