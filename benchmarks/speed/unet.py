"""What a step of training costs: the U-Net of CIFAR-10 here and in torchcfm, each in its own loop, in turns.

Run it alone on the machine:

    pip download --no-deps torchcfm==1.0.7 && unzip torchcfm-1.0.7-py3-none-any.whl -d torchcfm
    python benchmarks/speed/unet.py --torchcfm torchcfm --out benchmarks/results/speed-unet

Both networks have the 35,746,307 parameters of Tong et al. (2024) and both loops do what their training does: noise,
times and target of I-CFM, loss, gradient and its limit, Adam with a warm-up, the average of the weights. A turn trains
either for a few steps from new weights on the same images (digits, magnified to 32 x 32 pixels in three colours), with
noise of its own. Told are the median over turns of the median time of a step, likewise the ratio of the two within a
turn, and the mean loss with its standard error over the turns; all of the second half of each turn, for in the first
the memory is still being claimed.
"""

import argparse
import copy
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from tqdm import tqdm

from physflow.config import TrainingConfig
from physflow.data.images import digits
from physflow.generative import FlowMatching, TensorBatches, train
from physflow.generative.networks import UNet
from physflow.machine import commit, machine, versions
from physflow.results import Quantity, Results, Table

RATE, DECAY, CLIP = 2e-4, 0.9999, 1.0


class Watched(FlowMatching):
    """The objective, noting when each step began and what its loss was."""

    def __init__(self):
        super().__init__()
        self.started, self.losses = [], []

    def loss(self, *arguments):
        """The loss of a step."""
        self.started.append(time.perf_counter())
        value = super().loss(*arguments)
        self.losses.append(value.detach())
        return value


def ours(images, options, seed):
    """Train here: the times and the losses of the steps."""
    torch.manual_seed(seed)
    network, objective = UNet(3, 128, (1, 2, 2, 2), 2, attention=(16,), resolution=32, dropout=0.1), Watched()
    config = TrainingConfig(
        steps=options.steps,
        batch_size=options.batch,
        learning_rate=RATE,
        warmup=options.steps,
        schedule="constant",
        clip=CLIP,
        ema=DECAY,
        precision=options.precision,
        seed=seed,
    )
    train(network, objective, TensorBatches(images), config, device=options.device)
    return np.diff(objective.started), [loss.item() for loss in objective.losses]


def theirs(images, options, seed):
    """Train with torchcfm, in the loop of its CIFAR-10 example."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models.unet.unet import UNetModelWrapper

    torch.manual_seed(seed)
    network = UNetModelWrapper(
        dim=(3, 32, 32),
        num_res_blocks=2,
        num_channels=128,
        channel_mult=[1, 2, 2, 2],
        num_heads=4,
        num_head_channels=64,
        attention_resolutions="16",
        dropout=0.1,
    ).to(options.device)
    average = copy.deepcopy(network)
    matcher = ConditionalFlowMatcher(sigma=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / options.steps)
    device, half = torch.device(options.device), options.precision == "bfloat16"
    started, losses = [], []
    for _ in range(options.steps):
        x1 = images[torch.randint(len(images), (options.batch,))].to(device)
        started.append(time.perf_counter())
        optimizer.zero_grad()
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = torch.mean((network(t, xt) - ut) ** 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        warmup.step()
        averaged = average.state_dict()
        for key, value in network.state_dict().items():
            averaged[key].data.copy_(averaged[key].data * DECAY + value.data * (1 - DECAY))
        losses.append(loss.item())
    return np.diff(started), losses


def measured(images, options):
    """One row for each of both."""
    times, losses = {ours: [], theirs: []}, {ours: [], theirs: []}
    for turn in tqdm(range(options.turns), desc="turns"):
        # Whoever goes first may find the machine cooler.
        for who in (ours, theirs) if turn % 2 else (theirs, ours):
            seconds, curve = who(images, options, turn)
            times[who].append(statistics.median(seconds[len(seconds) // 2 :]))
            losses[who].append(statistics.fmean(curve[len(curve) // 2 :]))
    return [
        {
            "network": name,
            "seconds": statistics.median(times[who]),
            "ratio": statistics.median(a / b for a, b in zip(times[who], times[theirs], strict=True)),
            "loss": statistics.fmean(losses[who]),
            "error": statistics.stdev(losses[who]) / math.sqrt(options.turns),
        }
        for name, who in (("physflow", ours), ("torchcfm", theirs))
    ]


def main():
    """Time both and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--torchcfm", type=Path, required=True, help="the folder that the wheel was unpacked to")
    parser.add_argument("--turns", type=int, default=6, help="how often each is trained, at least 2")
    parser.add_argument("--steps", type=int, default=16, help="steps of training in a turn, at least 4")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    if options.turns < 2 or options.steps < 4:
        parser.error(f"expected at least 2 turns of 4 steps, got {options.turns} of {options.steps}")
    if not (options.torchcfm / "torchcfm").is_dir():
        parser.error(f"no package torchcfm in {options.torchcfm}: download and unpack its wheel, as told above")
    sys.path.insert(0, str(options.torchcfm))
    images = interpolate(torch.from_numpy(digits(8)["intensity"].values)[:, None], size=(32, 32), mode="bilinear")
    settings = {name: getattr(options, name) for name in ("turns", "steps", "batch", "device", "precision")}
    results = Results(
        title="What a step of training costs",
        text=__doc__.split("\n\n", 3)[3].strip(),
        command="python benchmarks/speed/unet.py --torchcfm FOLDER --out DIR "
        + " ".join(f"--{key} {value}" for key, value in settings.items()),
        settings=settings,
        seeds=tuple(range(options.turns)),
        rows=tuple(measured(images.expand(-1, 3, -1, -1).contiguous(), options)),
        tables=(
            Table(
                f"Batches of {options.batch} images on {options.device}, {options.precision}",
                ("network",),
                (
                    Quantity("seconds", "a step, s"),
                    Quantity("ratio", "ratio of times"),
                    Quantity("loss", "mean loss, second half"),
                    Quantity("error", "its standard error"),
                ),
            ),
        ),
        pictures=(),
        hardware={**machine(), "threads": torch.get_num_threads()},
        versions={**versions(), "torchcfm": "1.0.7"},
        commit=commit(),
    )
    results.write(options.out)
    print(results.markdown())


if __name__ == "__main__":
    main()
