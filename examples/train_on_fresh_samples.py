"""Train a flow on Darcy pairs that are made while it trains: it never sees one twice.

Run it: python examples/train_on_fresh_samples.py --steps 200
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import physflow
from physflow.assembly import make_network, make_objective, make_transform, sizes_of
from physflow.config import DataConfig, MLPConfig, ModelConfig, TrainingConfig
from physflow.data.darcy import FIELDS, equation_of
from physflow.data.streams import DarcyStream
from physflow.generative import TensorBatches, train

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200, help="training steps")
steps = parser.parse_args().steps

# The first samples serve the transform and the validation; the stream begins after them.
data = DataConfig(samples=1024, resolution=24, modes=16)
held = physflow.fields.to_tensor(physflow.data.darcy.generate(**vars(data)), FIELDS, torch.float32)
settings = ModelConfig(mlp=MLPConfig(width=128, blocks=2))
training = TrainingConfig(steps=steps, batch_size=256, warmup=20, evaluate_every=50, symmetries=True)
transform = make_transform(settings, FIELDS).fit(held)
grid = equation_of(data).grid

stream = DarcyStream(
    data,
    training.batch_size,
    first=data.samples,
    transform=transform,
    images=equation_of(data).symmetries(),
    image_seed=training.seed,
)
with tempfile.TemporaryDirectory() as folder:
    train(
        make_network(settings, training, sizes_of(transform, FIELDS), grid),
        make_objective(training, settings, grid),
        stream,
        training,
        validation=TensorBatches(transform(held)),
        folder=folder,
        progress=True,
    )
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]

for line in lines:
    if "validation_loss" in line:
        print(f"step {line['step']:5}  loss {line['loss']:.4f}  validation loss {line['validation_loss']:.4f}")
# Batch k holds the samples first + k B .. first + (k + 1) B - 1: all are different.
print(f"distinct samples seen: {steps * training.batch_size}")
