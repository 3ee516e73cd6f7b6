"""Five questions to one model: p from K, K from p, both from a few wells, inpainting and super-resolution.

Run it: python examples/condition_on_anything.py --out answers.png

One pair (K, p) is the truth. Each question shows a part of it, with noise, and asks for the rest; the answers are draws
that solve the equation. The picture has a row for each question. The table says how far the mean of the draws is from
the truth, and for how many points the truth lies in their interval of 90 %: about nine in ten, if the spread is right,
but the points of one smooth field are few independent ones.
"""

import argparse

import matplotlib.pyplot as plt
import torch

import physflow
from physflow.fields import to_tensor
from physflow.inference import Coarse, Masked, Observations, Operator

parser = argparse.ArgumentParser()
parser.add_argument("--out", default="answers.png", help="the picture")
parser.add_argument("--draws", type=int, default=100, help="draws for each question")
options = parser.parse_args()

model = physflow.load("darcy-small")
K, p = range(2)
truth = to_tensor(physflow.data.darcy.generate(1, resolution=64, modes=64, seed=7, dtype="float64"), model.fields)
generator = torch.Generator().manual_seed(0)


def seen(operator: Operator, noise: float) -> Observations:
    """What an operator reads of the truth, with noise."""
    values = operator(truth)[0]
    return Observations(operator, values + noise * torch.randn(values.shape, generator=generator), noise)


def some(points: int) -> torch.Tensor:
    """A mask of a few grid points, drawn at random."""
    mask = torch.zeros(truth[0, 0].numel(), dtype=torch.bool)
    mask[torch.randperm(len(mask), generator=generator)[:points]] = True
    return mask.view(truth.shape[2:])


grid = torch.zeros(truth.shape[2:], dtype=torch.bool)
grid[2::4, 2::4] = True
hole = grid.clone()
hole[16:48, 16:48] = False
questions = {
    "p from K: log K at 16 x 16 points": [seen(Masked(K, grid, log=True), 0.05)],
    "K from p: p at 64 points": [seen(Masked(p, some(64)), 0.001)],
    "both: log K at 12 wells, p at 12 others": [
        seen(Masked(K, some(12), log=True), 0.05),
        seen(Masked(p, some(12)), 0.001),
    ],
    "inpainting: log K outside the middle": [seen(Masked(K, hole, log=True), 0.05)],
    "super-resolution: p on 8 x 8 blocks": [seen(Coarse(p, 8), 0.001)],
}


def u(fields: torch.Tensor) -> torch.Tensor:
    """(log K, p), which is what is compared."""
    return torch.stack([fields[:, K].log(), fields[:, p]], 1)


figure, panels = plt.subplots(len(questions), 6, figsize=(13, 2.2 * len(questions)), layout="constrained")
titles = [f"{name}: {what}" for name in ("log K", "p") for what in ("truth", "mean", "spread")]
for ax, title in zip(panels[0], titles, strict=True):
    ax.set_title(title)
print(f"{'error of the mean / spread, inside 90 %':<46}{'log K':>24}{'p':>24}")
for row, (question, observations) in zip(panels, questions.items(), strict=True):
    ds = physflow.condition(model, sum(observations[1:], observations[0]), options.draws, progress=True)
    draws, exact = u(to_tensor(ds, model.fields)), u(truth)[0]
    mean, spread = draws.mean(0), draws.std(0)
    low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
    inside = ((low <= exact) & (exact <= high)).double().mean((1, 2))
    errors = (mean - exact).square().mean((1, 2)).sqrt()
    typical = spread.square().mean((1, 2)).sqrt()
    told = [f"{errors[k]:.2g} / {typical[k]:.2g}, {inside[k]:.0%}" for k in (K, p)]
    print(f"{question:<46}{told[0]:>24}{told[1]:>24}")
    for channel in (K, p):
        scale = {"vmin": float(exact[channel].min()), "vmax": float(exact[channel].max())}
        pictures = (exact[channel], mean[channel], spread[channel])
        for ax, picture, limits in zip(row[3 * channel :], pictures, (scale, scale, {"vmin": 0}), strict=False):
            figure.colorbar(ax.imshow(picture.T, origin="lower", extent=(0, 1, 0, 1), **limits), ax=ax)
            ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(question.replace(": ", "\n"), fontsize=8)
figure.savefig(options.out, dpi=100)
print(f"picture: {options.out}")
