"""Translate coarse Darcy solutions to fine ones: a flow from one set of data to another, with and without a latent.

Run it: python examples/translate_fidelity.py --out fidelity.png     (about two minutes)

A solution on 16 x 16 cells, interpolated to 64 x 64, is cheap and off by some percent. A flow that starts from it, in
the place of noise, learns from pairs what is missing. With a latent the velocity is told an encoding of its start
besides.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr

import physflow
from physflow.config import TrainingConfig
from physflow.fields import to_dataset, to_tensor
from physflow.generative import MLP, Conditioned, MLPEncoder, NormalLatent, Pairs, ReFlow, train, translate
from physflow.grid import Grid
from physflow.transforms import POD, Chain, Log, PerChannel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="fidelity.png", help="the picture")
parser.add_argument("--samples", type=int, default=2000, help="pairs to train on")
parser.add_argument("--steps", type=int, default=1500, help="steps of training")
options = parser.parse_args()
HELD_OUT = 100

# The fine pairs; and for each the coarse solution for the mean of log K over blocks of 4 x 4 cells.
fine = physflow.data.darcy.generate(options.samples + HELD_OUT, resolution=64, modes=64, progress=True)
names, grid = ("permeability", "pressure"), Grid((64, 64))
fields = to_tensor(fine, names)
blocks = torch.nn.functional.avg_pool2d(fields[:, :1].log(), 4).exp()
coarse = to_dataset(blocks, names[:1], Grid((16, 16)), fine.attrs).assign(pressure=xr.DataArray(0.0))
pressure = physflow.pde.from_dataset(coarse).solve(blocks[:, 0])
start = fields.clone()
start[:, 1] = torch.nn.functional.interpolate(pressure[:, None], scale_factor=4, mode="bilinear")[:, 0]

# Both in the whitened POD coordinates of the fine pairs; the last pairs are new to all.
transform = PerChannel(Chain(Log(), POD()), POD()).fit(fields[:-HELD_OUT])
x0, x1 = (transform(pair).float() for pair in (start, fields))
size, config = x0.shape[1], TrainingConfig(steps=options.steps, batch_size=256)


def translated(latent: bool) -> torch.Tensor:
    """The fine fields that a flow makes of the coarse ones that were held out."""
    torch.manual_seed(0)
    network = MLP(size, 256, 3, latent=8 if latent else 0)
    if latent:
        network = Conditioned(network, NormalLatent(MLPEncoder(size, 128, 2), 128, 8, ("x0",)))
    objective = ReFlow(latent=network.latent if latent else None)
    network = train(network, objective, Pairs(x0[:-HELD_OUT], x1[:-HELD_OUT]), config, progress=True)
    told = network.latent if latent else None
    found = transform.inverse(translate(objective.velocity(network), x0[-HELD_OUT:], latent=told).double())
    # The permeability is known: only the pressure is translated.
    return torch.stack([fields[-HELD_OUT:, 0], found[:, 1]], dim=1)


results = {
    "coarse, interpolated": start[-HELD_OUT:],
    "flow": translated(latent=False),
    "flow with a latent of its start": translated(latent=True),
    "its own POD coordinates": torch.stack(
        [fields[-HELD_OUT:, 0], transform.inverse(transform(fields[-HELD_OUT:]))[:, 1]], dim=1
    ),
}
print(f"{'pressure':<34}{'error':>10}{'residual':>12}      (medians, relative)")
for name, pairs in results.items():
    scores = physflow.pde.score(to_dataset(pairs, names, grid, fine.attrs))
    error, residual = (float(scores[key].median()) for key in ("solution_error", "relative_residual"))
    print(f"{name:<34}{error:>10.2%}{residual:>12.2f}")

figure, axes = plt.subplots(2, 3, figsize=(9, 5.4), layout="constrained")
truth = fields[-1, 1]
shown = {"coarse, interpolated": start[-1, 1], "flow": results["flow"][-1, 1], "fine": truth}
for column, (name, field) in zip(axes.T, shown.items(), strict=True):
    limits = {"vmin": float(truth.min()), "vmax": float(truth.max())}
    pictures = [(name, field, limits, "viridis"), ("less the fine one", field - truth, {}, "RdBu_r")]
    for ax, (title, values, range_, colours) in zip(column, pictures, strict=True):
        if not range_:
            largest = float((shown["coarse, interpolated"] - truth).abs().max())
            range_ = {"vmin": -largest, "vmax": largest}
        image = ax.imshow(np.asarray(values).T, origin="lower", cmap=colours, **range_)
        ax.set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=ax, shrink=0.8)
figure.savefig(options.out, dpi=110)
print(options.out)
