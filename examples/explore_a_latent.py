"""Train Latent-CFM with two latent components, and look at what they do.

Run it: python examples/explore_a_latent.py --out latent

It leaves four pictures: fields over the grid of latents beside those that an autoencoder decodes; many fields of one
latent; the rate against its weight beta; the reconstruction loss of the autoencoder.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import physflow
from physflow.autoencoder import Autoencoder
from physflow.config import EncoderConfig, LatentConfig, ModelConfig, TrainingConfig, UNetConfig
from physflow.fields import to_tensor
from physflow.fitting import train_model
from physflow.generative import FlowMatching, latent_grid, latent_values
from physflow.model import Model
from physflow.report import plot_losses, plot_one_latent, plot_rate, plot_traversal

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("latent"), help="folder of the pictures and the models")
parser.add_argument("--steps", type=int, default=500, help="training steps of each model")
options = parser.parse_args()
out, steps = options.out, options.steps
out.mkdir(parents=True, exist_ok=True)
data = out / "data.nc"
pairs = physflow.data.darcy.generate(2000, resolution=16, modes=16, out=data, overwrite=True)
encoder = EncoderConfig(width=64, channels=8, multipliers=(1, 2, 4))
training = TrainingConfig(steps=steps, batch_size=64, warmup=20)


def trained(name: str, latent: LatentConfig) -> Model:
    """A small model of point values with this latent."""
    unet = UNetConfig(channels=16, multipliers=(1, 2), blocks=1)
    config = ModelConfig(space="pixel", network="unet", unet=unet, latent=latent)
    return train_model(data, out / name, model=config, training=training, overwrite=True, progress=True)


# Two stages: an autoencoder first, then the flow on its frozen encoder.
two_stage = LatentConfig("vae", dimension=2, beta=1e-3, pretraining_steps=steps, encoder=encoder)
model, autoencoder = trained("two-stage", two_stage), Autoencoder(out / "two-stage")

# 1. The same noise everywhere: only the latent acts.
n = 5
z = latent_grid(n, dimension=2)
made = {"Latent-CFM": model.decode(z, seed=1, one_noise=True), "autoencoder": autoencoder.decode(z)}


def on_grid(ds: xr.Dataset, name: str) -> np.ndarray:
    """One variable over rows and columns of the grid."""
    return ds[name].values.reshape(n, n, *ds[name].shape[1:])


plot_traversal(
    {name: on_grid(ds, "pressure") for name, ds in made.items()},
    {name: on_grid(ds, "residual_mse") for name, ds in made.items()},
    z_values=(latent_values(n), latent_values(n)),
    label="pressure",
).savefig(out / "traversal.png")

# 2. What a latent leaves open: one z, many noises.
one = pairs.isel(sample=[0])
many = model.decode(np.repeat(model.encode(one).values, 100, axis=0), seed=2)
plot_one_latent(np.log(one["permeability"].values[0]), np.log(many["permeability"].values), label="log K").savefig(
    out / "one-latent.png"
)

# 3. The dearer the rate, the less the latent tells, and the less it helps the velocity.
betas, rates, errors = (1e-4, 1e-3, 1e-2, 1e-1), [], []
for beta in betas:
    one_stage = trained(f"one-stage-{beta:g}", LatentConfig("posterior", dimension=2, beta=beta, encoder=encoder))
    assert isinstance(one_stage.objective, FlowMatching)
    with torch.no_grad():
        items = one_stage.transform(to_tensor(pairs, one_stage.fields)).float()
        error, rate = one_stage.objective.terms(one_stage.network, items, torch.Generator().manual_seed(0))
    rates.append(float(rate))
    errors.append(float(error))
plot_rate(betas, rates, errors, distortion="flow-matching error").savefig(out / "rate.png")

# 4. The losses of the two stages.
records = {
    name: [json.loads(line) for line in (out / "two-stage" / folder / "metrics.jsonl").read_text().splitlines()]
    for name, folder in (("autoencoder", "vae"), ("flow", "."))
}
plot_losses(records, quantities=("loss", "validation_error")).savefig(out / "losses.png")
print(f"pictures: {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
