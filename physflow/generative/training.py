r"""Training: a fixed number of steps of Adam on an objective, with averaged weights and exact resumption.

Step :math:`n = 0, 1, \dots, N - 1` draws a batch, evaluates the objective :math:`\ell(\theta)`, limits the
norm of its gradient to `clip` and updates the weights by Adam at the learning rate

.. math:: \eta_n = \eta \min\Bigl(1, \frac{n + 1}{N_w}\Bigr) \cdot
          \begin{cases} 1 & \text{constant} \\
          \tfrac12 \bigl(1 + \cos \pi \frac{\max(0,\, n - N_w)}{N - N_w}\bigr) & \text{cosine} \end{cases}

with :math:`N_w` steps of warm-up. What samples later is an exponential moving average of the weights
(`physflow.generative.averages`).

A set of data is read in epochs, each shuffled anew, in batches of `batch_size`; what remains of an epoch and
is less than a batch is left out. A data set smaller than a batch is one batch. A stream of data has no epochs:
step n takes its batch n (see `physflow.generative.batches`).

Two runs of the same seed, settings, data, machine and versions give the same weights, bit for bit on a CPU,
also where one of them was interrupted: all that is random comes from the run's own generators, whose states
are in the checkpoint.

Under ``torchrun`` every process evaluates the network on its share of the same global batch. Noise, times and
coupling are those of the whole batch in all of them, so that the number of processes changes the speed and,
but for rounding and dropout, nothing else: a minibatch optimal-transport plan, for one, does not shrink as
processes are added. Of a stream each process makes its share of a batch, and all receive the whole.

References:
    Kingma and Ba (2015), Adam: a method for stochastic optimization.
    Tong et al. (2024), Improving and generalizing flow-based generative models with minibatch optimal
    transport (the recipe: warm-up, clipping, average).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import math
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from physflow.config import TrainingConfig, to_dict
from physflow.generative.averages import AveragedWeights
from physflow.generative.batches import BatchSource, BatchStream
from physflow.generative.checkpoints import Checkpoint, Draws, Record
from physflow.generative.interrupts import deferred_interrupt
from physflow.generative.objectives import Objective

__all__ = ["TrainingDiverged", "train"]

# The seed of the noise in every evaluation: validation losses differ by the weights alone, also between runs.
EVALUATION_SEED = 2**31 - 1


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is no longer finite; the weights are those before the step.

    Arguments:
        step: The step that failed, counted from 1.
        loss: Its loss.
        gradient_norm: The norm of its gradient.
        finite: Whether its batch of data was finite.
        checkpoint: The last good checkpoint, or None where there is none.
    """

    def __init__(self, step: int, loss: float, gradient_norm: float, finite: bool, checkpoint: Path | None) -> None:
        fix = (
            "train again in an empty folder with a smaller learning_rate or a longer warmup"
            if finite
            else "the batch of data holds values that are not finite: mend the data"
        )
        kept = "no checkpoint was written" if checkpoint is None else f"the last good checkpoint is {checkpoint}"
        super().__init__(
            f"training diverged at step {step}: the loss is {loss:g}, the norm of its gradient "
            f"{gradient_norm:g}; {fix}; {kept}"
        )
        self.step, self.checkpoint = step, checkpoint


def train(
    network: nn.Module,
    objective: Objective,
    data: BatchSource | BatchStream,
    config: TrainingConfig,
    *,
    validation: BatchSource | None = None,
    folder: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    fingerprint: str = "",
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train a network by minimising an objective over data.

    With a folder, a run that finds its own checkpoint there goes on from it, and one that is complete returns
    at once. Ctrl-C, or the signal SIGTERM, lets the current step end, writes a checkpoint and raises
    `KeyboardInterrupt`; a second one stops at once. Of several processes all stop after the same step.

    Arguments:
        network: The network; moved to `device` and trained in place.
        objective: What is minimised: ``objective.loss(network, x1, generator, average)``, a mean over the items of
            the batch x1; `average` is the network with the averaged weights.
        data: The training data in model space, a set or a stream; cast to the network's dtype.
        config: The settings.
        validation: Data for the validation loss, or None.
        folder: Where ``checkpoint.pt`` and ``metrics.jsonl`` are kept (see
            `physflow.generative.checkpoints`), or None.
        device: Where to train. Under ``torchrun``, ``"cuda"`` is each process's own GPU.
        fingerprint: The fingerprint of the data, kept in the checkpoint.
        settings: What else must be the same to go on from a checkpoint: plain data, such as the network's settings.
        progress: Whether to show a progress bar.

    Returns:
        The network with the averaged weights, in evaluation mode.

    Raises:
        ValueError: If there are no data, a stream has batches of another size, or the folder holds the checkpoint
            of another run.
        TrainingDiverged: If the loss or its gradient is no longer finite. The last checkpoint stays as it is.
    """
    if not isinstance(data, BatchStream) and not hasattr(data, "batch"):
        raise TypeError(
            "expected training data that are read by index (BatchSource) or as a stream (BatchStream), got "
            f"{type(data).__name__}; wrap a tensor: TensorBatches(x)"
        )
    if isinstance(data, BatchStream):
        if data.batch_size != config.batch_size:
            raise ValueError(
                f"expected a stream of batches of batch_size={config.batch_size}, got {data.batch_size}; "
                "make the stream with the batch_size of the training"
            )
    elif len(data) == 0:
        raise ValueError(
            "expected at least one item of training data, got none; give more data or keep less of them for validation"
        )
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK") or torch.cuda.current_device()))
    rank, world = _processes(device)
    run = _Run(network.to(device), config, 0 if isinstance(data, BatchStream) else len(data), device)
    run.keep(None if folder is None else Path(folder), fingerprint, settings or {}, rank)
    if world > 1:
        # Nobody goes on, and perhaps removes the checkpoint, before all have read it.
        distributed.barrier()
    if run.record.step < config.steps:
        # Nobody would see a validation loss that is neither written nor shown.
        watched = validation is not None and len(validation) > 0 and (folder is not None or progress)
        _loop(run, objective, data, validation if watched else None, progress and rank == 0, rank, world)
    return run.average.module.eval()


class _Run:
    """Everything that changes while a network is trained, and the files that keep it."""

    def __init__(self, network: nn.Module, config: TrainingConfig, items: int, device: torch.device) -> None:
        self.network, self.config, self.device = network, config, device
        self.average = AveragedWeights(network, config.ema)
        fused = device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=fused
        )
        self.schedule = LambdaLR(self.optimizer, _learning_rate_factor(config))
        self.draws = Draws(items, config.batch_size, config.seed, device)
        self.record = Record(None)
        self.checkpoint: Checkpoint | None = None
        self.writes = False

    def keep(self, folder: Path | None, fingerprint: str, settings: Mapping[str, Any], rank: int) -> None:
        """Go on from the checkpoint in the folder, if there is one; from now on `save` writes there."""
        if folder is None:
            return
        names = ("network", "average", "optimizer", "schedule", "draws", "record")
        parts = {name: getattr(self, name) for name in names}
        settings = {**settings, **to_dict(self.config), "device": self.device.type}
        items = f"{self.draws.items} items" if self.draws.items else "a stream"
        data = f"fingerprint {fingerprint!r}, {items}"
        self.checkpoint = Checkpoint(folder / "checkpoint.pt", parts, settings, data, to_dict(TrainingConfig()))
        self.checkpoint.restore()
        self.writes = rank == 0
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
            self.record.path = folder / "metrics.jsonl"
            self.record.truncate()

    def save(self) -> None:
        """Write a checkpoint, if there is a folder and this process is the one that writes."""
        if self.checkpoint is not None and self.writes:
            self.checkpoint.write()


def _loop(
    run: _Run,
    objective: Objective,
    data: BatchSource | BatchStream,
    validation: BatchSource | None,
    progress: bool,
    rank: int,
    world: int,
) -> None:
    config, record, device = run.config, run.record, run.device
    parameters = [p for p in run.network.parameters() if p.requires_grad]
    dtype = parameters[0].dtype
    forward: Callable[..., Tensor] = run.network.train()
    average: Callable[..., Tensor] = run.average.module.eval()
    if world > 1:
        forward = DistributedDataParallel(run.network)
    if config.compile:
        forward = torch.compile(forward)
    if world > 1:
        forward, average = _Share(forward, rank, world), _Share(average, rank, world)
    # A curve of about 200 points, and one wherever the validation loss is known.
    write_every = max(1, config.steps // 200)

    with (
        tqdm(total=config.steps, initial=record.step, desc="train", disable=not progress) as bar,
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        deferred_interrupt() as interrupted,
        contextlib.closing(_batches(run, data, rank, world)) as batches,
    ):
        while record.step < config.steps:
            x1 = next(batches).to(device, dtype)
            # Dropout knows only the global generator; seeded by the step, it has no place in the checkpoint.
            _seed(config.seed + world * record.step + rank, device)
            with _autocast(config, device):
                loss = objective.at(record.step / config.steps).loss(forward, x1, run.draws.noise, average)
            run.optimizer.zero_grad()
            # The processes' gradients are averaged, but their shares of the loss add up.
            (world * loss).backward()
            norm = nn.utils.clip_grad_norm_(parameters, config.clip)
            if not (loss.isfinite() and norm.isfinite()):
                path = run.checkpoint.path if run.checkpoint and run.checkpoint.path.exists() else None
                finite = bool(x1.isfinite().all())
                raise TrainingDiverged(record.step + 1, loss.item(), norm.item(), finite, path)
            values = {"learning_rate": float(run.schedule.get_last_lr()[0])}
            run.optimizer.step()
            run.schedule.step()
            run.average.update()
            record.add(loss.item(), norm.item())

            last = record.step == config.steps
            evaluate = record.step % config.evaluate_every == 0 or last
            if validation is not None and evaluate:
                values |= _evaluate(objective, average, validation, config, device, dtype)
            if evaluate or record.step % write_every == 0:
                bar.set_postfix(record.write(**values), refresh=False)
            bar.update()
            stop = _anywhere(interrupted(), device, world)
            if stop or last or record.step % config.checkpoint_every == 0:
                run.save()
            if stop:
                raise KeyboardInterrupt


def _batches(run: _Run, data: BatchSource | BatchStream, rank: int, world: int) -> Generator[Tensor]:
    """The batches of the steps to come, whole in every process."""
    if not isinstance(data, BatchStream):
        while True:
            yield data.batch(run.draws.indices())
    for share in data.batches(run.record.step, rank, world):
        begin = data.batch_size * rank // world
        yield share if world == 1 else _join(share.to(run.device), data.batch_size, begin)
    raise ValueError(f"the stream of training data ended at step {run.record.step}; it must go on without end")


@torch.no_grad()
def _evaluate(
    objective: Objective,
    network: Callable[..., Tensor],
    data: BatchSource,
    config: TrainingConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """The mean loss over all the data, and its parts, with the same noise every time."""
    generator = torch.Generator(device).manual_seed(EVALUATION_SEED)
    total: dict[str, float] = {}
    for indices in torch.arange(len(data)).split(config.batch_size):
        with _autocast(config, device):
            parts = objective.parts(network, data.batch(indices).to(device, dtype), generator)
        for name, value in parts.items():
            total[name] = total.get(name, 0.0) + len(indices) * value.item()
    return {f"validation_{name}": value / len(data) for name, value in total.items()}


def _autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def _learning_rate_factor(config: TrainingConfig) -> Callable[[int], float]:
    """The learning rate of step n in units of the highest, see the module's docstring."""

    def factor(n: int) -> float:
        warm = min(1.0, (n + 1) / max(1, config.warmup))
        if config.schedule == "constant":
            return warm
        done = max(0, n - config.warmup) / max(1, config.steps - config.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def _seed(seed: int, device: torch.device) -> None:
    """Seed the global generator that a network on this device uses."""
    if device.type == "cpu":
        # `torch.manual_seed` also notes the call stack for devices that may be used later, in every step.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class _Share:
    """A network that evaluates one process's share of a batch and receives the rest from the others.

    The loss of the whole result is the loss of the whole batch; its gradient here is that of the process's
    own share.
    """

    def __init__(self, network: Callable[..., Tensor], rank: int, world: int) -> None:
        self.network, self.rank, self.world = network, rank, world

    def __call__(self, x: Tensor, *rest: Tensor | None) -> Any:
        begin, end = (len(x) * r // self.world for r in (self.rank, self.rank + 1))
        own = self.network(x[begin:end], *(None if part is None else part[begin:end] for part in rest))

        def whole(own: Tensor) -> Tensor:
            # In the precision of x, because not every backend adds half precision.
            joined = _join(own.detach().to(x.dtype), len(x), begin)
            return torch.cat([joined[:begin], own, joined[end:]])

        return tuple(whole(part) for part in own) if isinstance(own, tuple) else whole(own)


def _join(share: Tensor, size: int, begin: int) -> Tensor:
    """The whole of which every process holds a share; `begin` is where that of this process lies."""
    whole = share.new_zeros(size, *share.shape[1:])
    whole[begin : begin + len(share)] = share
    distributed.all_reduce(whole)
    return whole


def _anywhere(flag: bool, device: torch.device, world: int) -> bool:
    """Whether it is so in any process: those that were not interrupted would wait for the others forever."""
    if world == 1:
        return flag
    found = torch.tensor(float(flag), device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)


def _processes(device: torch.device) -> tuple[int, int]:
    """The rank of this process and their number, after joining them where ``torchrun`` has started some."""
    if not distributed.is_available():
        return 0, 1
    if distributed.is_torchelastic_launched() and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # The processes of one launch can meet only once, so they stay joined for a next training.
        atexit.register(_leave)
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def _leave() -> None:
    """Part from the other processes, at the end of this one."""
    # A wrapped network that waits in a cycle for its collection would keep the group's threads beyond the interpreter.
    gc.collect()
    distributed.destroy_process_group()
