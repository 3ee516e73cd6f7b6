"""Train a flow on CIFAR-10 with published settings, and draw 64 images; on one GPU, or on several.

Run it: python examples/cifar10.py cifar-10-binary.tar.gz --out runs/cifar10 --preset cifar10-latent-cfm
or:     torchrun --nproc_per_node 2 examples/cifar10.py cifar-10-binary.tar.gz --out runs/cifar10
Interrupted, the same command goes on; run again, it draws from the model that is there.
"""

import argparse
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import physflow
from physflow.config import builtin_presets, preset
from physflow.data import images
from physflow.experiment import train_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("archive", help="cifar-10-binary.tar.gz, or the folder in it")
parser.add_argument("--out", type=Path, required=True, help="a folder for the data, the model and the samples")
parser.add_argument(
    "--preset", default="cifar10-i-cfm", choices=[n for n in builtin_presets() if n.startswith("cifar10")]
)
parser.add_argument("--steps", type=int, help="steps of training, in place of the published number")
parser.add_argument("--batch_size", type=int, help="samples a step, in place of the published number")
options = parser.parse_args()
first, data, folder = int(os.environ.get("RANK", 0)) == 0, options.out / "data.nc", options.out / "model"
origin = str(Path(options.archive).resolve())

# One process writes the data, the others wait for them.
if first and not data.exists():
    options.out.mkdir(parents=True, exist_ok=True)
    with images.cifar10(options.archive) as ds:
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
    pictures = images.to_pixels(samples).transpose(0, 2, 3, 1).squeeze()
    rows = [np.concatenate(list(row), axis=1) for row in np.split(pictures, 8)]
    plt.imsave(options.out / "samples.png", np.concatenate(rows), cmap="gray")
    print(options.out / "samples.png")
