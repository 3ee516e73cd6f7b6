"""Put the model of a finished experiment into the package, with its card.

    physflow run darcy-small --alone --training.steps 12000 --out runs/released
    python benchmarks/release_model.py runs/released physflow/models/darcy-small \
        --command "physflow run darcy-small --alone --training.steps 12000"

The network's weights are kept in half precision. The scores on the card are those of the weights as kept: samples are
drawn from the folder that is written, and `tests/test_shipped_models.py` draws them again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import yaml

import physflow
from physflow.config import to_dict
from physflow.experiment import load_experiment
from physflow.machine import machine, versions
from physflow.summary import moments, summarize

LIMIT = 8 * 2**20
"""The most bytes that a shipped model may take."""

TEXT = """
# {name}

Pairs of permeability K and pressure p on 64 x 64 cells that solve the Darcy equation div(K grad p) + f = 0 between
walls without flux, with wells in two corners; log K is a Gaussian field of exponential covariance (64 modes,
correlation length 0.1, standard deviation 1 before the truncation).

```bash
physflow sample {name} --out samples.nc --samples 100
```

The model draws log K from its own law, N(0, I) in POD coordinates, and the pressure from a flow that is told them
(`ModelConfig.latent`, kind `fields`). **The law of K is given, not learnt**: its spread is right by construction, and
what the scores judge is p given K. It needs no training data to draw from, and holds none.

{parameters:,} parameters, trained on {processor}, {threads} threads, by

    {command}

The scores above are medians and quartiles over {samples} samples with seed {seed}, {solver} with {steps} steps, before
any correction. `std_ratio` is the standard deviation of the samples over that of the data. Other grids, walls, wells
and laws of K need a model of their own.
"""


def main() -> None:
    """Write the folder, draw from it, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="the folder of a finished experiment")
    parser.add_argument("out", type=Path, help="the folder of the model, in the package")
    parser.add_argument("--command", required=True, help="the command that made the experiment, for the card")
    options = parser.parse_args()

    config = load_experiment(options.experiment / "experiment.yaml")
    trained = physflow.load(options.experiment / "model")
    trained.save(options.out, half=True)
    model = physflow.load(options.out)
    sampling = config.sampling
    ds = model.sample(sampling.samples, sampling.seed, sampling.solver, sampling.steps, progress=True)
    with physflow.data.open(options.experiment / "data.nc") as data:
        ratios = {
            name: moments(ds[name], name in model.config.log)[1] / moments(data[name], name in model.config.log)[1]
            for name in model.fields
        }
    facts = {
        "name": options.out.name,
        "license": "Apache-2.0",
        "command": options.command,
        "data": to_dict(config.data),
        "data_fingerprint": model.fingerprint,
        "seeds": {"data": config.data.seed, "training": config.training.seed, "sampling": sampling.seed},
        "sampling": to_dict(sampling),
        "scores": {name: dict(row) for name, row in summarize(ds).items()},
        "std_ratio": ratios,
        "versions": versions(),
    }
    text = TEXT.format(
        **facts["sampling"],
        name=facts["name"],
        command=options.command,
        processor=machine()["processor"],
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in model.network.parameters()),
    )
    (options.out / "card.md").write_text(f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n{text}")
    size = sum(os.path.getsize(path) for path in options.out.iterdir())
    print(f"{options.out}: {size / 2**20:.2f} MiB")
    if size > LIMIT:
        raise SystemExit(f"a shipped model may take {LIMIT // 2**20} MiB; train a smaller network")


if __name__ == "__main__":
    main()
