"""Train SiT-XL/2 or V-SiT-XL/2 on latents of ImageNet, and draw 64 latents; on one GPU, or on several.

Run it: torchrun --nproc_per_node 8 examples/imagenet_sit.py latents.h5 --out runs/sit --preset imagenet-v-sit-xl

The latents are yours: an HDF5 file (sample, 4, 32, 32) from the autoencoder of Stable Diffusion. Interrupted, the same
command goes on; run again, it draws from the model that is there.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

import physflow
from physflow.config import builtin_presets, preset
from physflow.data import images
from physflow.experiment import train_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("latents", help="an HDF5 file of latents")
parser.add_argument("--out", type=Path, required=True, help="a folder for the data, the model and the samples")
parser.add_argument(
    "--preset", default="imagenet-sit-xl", choices=[n for n in builtin_presets() if n.startswith("imagenet")]
)
parser.add_argument("--steps", type=int, help="steps of training, in place of the published number")
parser.add_argument("--batch_size", type=int, help="samples a step, in place of the published number")
options = parser.parse_args()
first, data, folder = int(os.environ.get("RANK", 0)) == 0, options.out / "data.nc", options.out / "model"
origin = str(Path(options.latents).resolve())

# One process writes the data, the others wait for them.
if first and not data.exists():
    options.out.mkdir(parents=True, exist_ok=True)
    with images.latents(options.latents) as ds:
        physflow.data.write(ds.drop_vars("label", errors="ignore").assign_attrs(origin=origin), data)
while not data.exists():
    time.sleep(1)
with physflow.data.open(data) as ds:
    if ds.attrs["origin"] != origin:
        parser.error(f"{options.out} is of other data, {ds.attrs['origin']}: choose another --out")

device = "cuda" if torch.cuda.is_available() else "cpu"
if (folder / "config.yaml").exists():
    print(f"{folder} was trained before")
    model = physflow.load(folder)
else:
    settings, training = preset(options.preset, steps=options.steps, batch_size=options.batch_size)
    model = train_model(data, folder, model=settings, training=training, device=device, progress=True)

if first:
    samples = model.to(device).sample(64, seed=0, solver="heun", steps=10, progress=True)
    # (sample, 4, 32, 32), for the decoder of the autoencoder that made the latents.
    np.save(options.out / "samples.npy", images.to_latents(samples))
    print(options.out / "samples.npy")
