"""Training: the minimum it reaches, the average, the schedule, exact resumption, files, failures, processes."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import threading
from functools import partial
from itertools import chain

import pytest
import torch
from torch import nn

from physflow.config import TrainingConfig
from physflow.generative import checkpoints, training
from physflow.generative.batches import BatchStream, TensorBatches
from physflow.generative.couplings import ExactOT
from physflow.generative.networks import MLP, Preconditioned, UNet
from physflow.generative.objectives import FlowMatching, Objective
from physflow.generative.paths import LinearPath
from physflow.generative.training import TrainingDiverged, train

SHORT = TrainingConfig(steps=12, batch_size=8, warmup=3, learning_rate=1e-2, evaluate_every=4, checkpoint_every=3)


def draw(*shape, seed=100, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(dtype=torch.float32, seed=0):
    """A small network, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(2, 8, 1).to(dtype)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class At(Objective):
    """Flow matching, and an action before the given step (from 1), which may change the loss."""

    def __init__(self, step, action):
        self.step, self.action, self.calls = step, action, 0

    def loss(self, network, x1, generator, average=None):
        loss = FlowMatching().loss(network, x1, generator)
        if torch.is_grad_enabled():
            self.calls += 1
            if self.calls == self.step:
                return self.action(loss)
        return loss


class Seen(Objective):
    """Flow matching that remembers the batches and the weights of every step."""

    def __init__(self):
        self.batches, self.weights = [], []

    def loss(self, network, x1, generator, average=None):
        self.batches.append(x1.clone())
        self.weights.append(weights(network))
        return FlowMatching().loss(network, x1, generator)


class Numbers:
    """A stream of normal numbers, batch k drawn by the seed k, which knows who has opened it and whether it is closed.

    Arguments:
        batch_size: The size of a batch.
        length: The number of batches after which it ends, as a stream must not.
    """

    def __init__(self, batch_size=8, length=10**9):
        self.batch_size, self.length, self.opened, self.closed = batch_size, length, [], 0

    def batches(self, step, rank=0, world=1):
        self.opened.append((step, rank, world))
        begin, end = (self.batch_size * r // world for r in (rank, rank + 1))
        try:
            for k in range(step, self.length):
                yield draw(self.batch_size, 2, seed=k)[begin:end]
        finally:
            self.closed += 1


def crash(loss):
    raise RuntimeError("power cut")


def interrupt(loss, number=signal.SIGINT):
    signal.raise_signal(number)
    return loss


@pytest.fixture(autouse=True)
def default_interrupt():
    """The handler of a program in the foreground, whatever started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_training_reaches_the_exact_minimum(tmp_path):
    """For data N(0, diag(s^2)) the minimum of the loss is pi / 2 times the mean of s.

    Var(x1 - x0 | x_t) = s^2 / (t^2 s^2 + (1 - t)^2) in each coordinate, and its integral over t is s pi / 2.
    """
    s = torch.tensor([0.3, 2.0])
    config = TrainingConfig(steps=400, batch_size=256, learning_rate=3e-3, warmup=20, ema=0.99, evaluate_every=100)
    train(
        MLP(2, 32, 2),
        FlowMatching(),
        TensorBatches(s * draw(20_000, 2)),
        config,
        validation=TensorBatches(s * draw(20_000, 2, seed=101)),
        folder=tmp_path,
    )
    found = [line["validation_loss"] for line in lines(tmp_path) if "validation_loss" in line]
    assert len(found) == 4
    assert found[0] > found[-1]
    # Two standard errors of 40,000 terms are about 0.03.
    assert found[-1] == pytest.approx(math.pi / 2 * 1.15, abs=0.06)


def test_preconditioned_network_begins_at_the_minimum_for_unit_gaussians(tmp_path):
    network = Preconditioned(MLP(2, 8, 1), LinearPath())
    config = TrainingConfig(steps=1, learning_rate=1e-12)
    train(
        network,
        FlowMatching(),
        TensorBatches(draw(9, 2)),
        config,
        validation=TensorBatches(draw(40_000, 2)),
        folder=tmp_path,
    )
    assert lines(tmp_path)[-1]["validation_loss"] == pytest.approx(math.pi / 2, abs=0.03)


@pytest.mark.parametrize("ema", [0.0, 0.3, 0.999])
def test_average_is_the_recursion_of_the_documentation(ema):
    network, seen = small(torch.float64), Seen()
    config = dataclasses.replace(SHORT, ema=ema)
    averaged = train(network, seen, TensorBatches(draw(20, 2)), config)
    after = [*seen.weights[1:], weights(network)]
    expected = after[0]
    for n, theta in enumerate(after[1:], start=1):
        decay = min(ema, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * theta
    torch.testing.assert_close(weights(averaged), expected, rtol=1e-12, atol=1e-14)
    assert not averaged.training


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3, 20])
def test_learning_rate_is_that_of_the_documentation(tmp_path, schedule, warmup):
    config = dataclasses.replace(SHORT, schedule=schedule, warmup=warmup)
    train(small(), FlowMatching(), TensorBatches(draw(20, 2)), config, folder=tmp_path)
    expected = []
    for n in range(12):
        rate = 1e-2 * (min(1, (n + 1) / warmup) if warmup else 1)
        if schedule == "cosine" and n > warmup:
            rate *= 0.5 * (1 + math.cos(math.pi * (n - warmup) / (12 - warmup)))
        expected.append(rate)
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx(expected)
    if schedule == "cosine" and warmup < 12:
        assert expected[-1] < 0.05 * 1e-2


def test_metrics_are_means_since_the_line_before(tmp_path):
    config = dataclasses.replace(SHORT, steps=401, evaluate_every=7, checkpoint_every=1000)
    losses = []

    class Recorded(FlowMatching):
        def loss(self, network, x1, generator, average=None):
            loss = super().loss(network, x1, generator)
            if torch.is_grad_enabled():
                losses.append(loss.item())
            return loss

    train(
        small(), Recorded(), TensorBatches(draw(20, 2)), config, validation=TensorBatches(draw(5, 2)), folder=tmp_path
    )
    found = lines(tmp_path)
    # A line every 401 // 200 steps, at every evaluation and at the end.
    steps = sorted({*range(2, 402, 2), *range(7, 402, 7), 401})
    assert [line["step"] for line in found] == steps
    assert [line["step"] for line in found if "validation_loss" in line] == [*range(7, 402, 7), 401]
    means = [sum(losses[a:b]) / (b - a) for a, b in zip([0, *steps], steps, strict=False)]
    assert [line["loss"] for line in found] == pytest.approx(means)
    assert set(found[0]) == {"step", "loss", "gradient_norm", "learning_rate"}


def test_gradient_is_clipped_and_its_norm_is_recorded_before(tmp_path):
    """Adam divides its step by the size of the gradient, so the clip is read off the gradient that is left."""
    network = small()
    config = dataclasses.replace(SHORT, steps=1, clip=1e-3)
    train(network, FlowMatching(), TensorBatches(draw(20, 2)), config, folder=tmp_path)
    left = torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()
    assert left == pytest.approx(1e-3, rel=1e-3)
    assert lines(tmp_path)[0]["gradient_norm"] > 1e-2


class Dropping(nn.Module):
    """A network whose training draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.inner = small()
        self.dropout = nn.Dropout(0.3)

    def forward(self, x, t, z=None):
        return self.inner(self.dropout(x), t)


def field_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(1, 4, (1, 2), 1, dropout=0.1)


CASES = {
    "mlp": (small, FlowMatching(), TensorBatches(draw(20, 2))),
    "dropout": (Dropping, FlowMatching(coupling=ExactOT()), TensorBatches(draw(20, 2))),
    "fewer items than a batch": (small, FlowMatching(), TensorBatches(draw(5, 2))),
    "unet": (field_network, FlowMatching(LinearPath(0.1)), TensorBatches(draw(9, 1, 4, 4))),
    "stream": (Dropping, FlowMatching(coupling=ExactOT()), Numbers()),
}


@pytest.mark.parametrize(("build", "objective", "data"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("action", [interrupt, crash], ids=["interrupted", "crashed"])
@pytest.mark.parametrize("step", [1, 5, 12])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, build, objective, data, action, step):
    validation = TensorBatches(data.items[:3] if hasattr(data, "items") else draw(3, 2))
    whole, broken = build(), build()
    expected = train(whole, objective, data, SHORT, validation=validation, folder=tmp_path / "a")

    class Broken(At):
        def loss(self, network, x1, generator, average=None):
            self.calls += torch.is_grad_enabled()
            loss = objective.loss(network, x1, generator)
            return self.action(loss) if self.calls == self.step and torch.is_grad_enabled() else loss

    stops = KeyboardInterrupt if action is interrupt else RuntimeError
    with pytest.raises(stops):
        train(broken, Broken(step, action), data, SHORT, validation=validation, folder=tmp_path / "b")
    again = build()
    with torch.random.fork_rng():
        torch.manual_seed(99)  # The global generator has moved on, as it has in another process.
        found = train(again, objective, data, SHORT, validation=validation, folder=tmp_path / "b")
    assert torch.equal(weights(found), weights(expected))
    assert torch.equal(weights(again), weights(whole))
    assert (tmp_path / "b" / "metrics.jsonl").read_text() == (tmp_path / "a" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_step_and_writes_a_checkpoint(tmp_path, number):
    config = dataclasses.replace(SHORT, checkpoint_every=1000)
    with pytest.raises(KeyboardInterrupt):
        train(small(), At(5, partial(interrupt, number=number)), TensorBatches(draw(20, 2)), config, folder=tmp_path)
    stored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert stored["parts"]["record"]["step"] == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_interrupt_without_a_folder_is_raised():
    with pytest.raises(KeyboardInterrupt):
        train(small(), At(5, interrupt), TensorBatches(draw(20, 2)), SHORT)


def test_second_interrupt_stops_at_once():
    objective = At(5, lambda loss: interrupt(interrupt(loss)) / 0)
    with pytest.raises(KeyboardInterrupt):
        train(small(), objective, TensorBatches(draw(20, 2)), SHORT)


def test_training_outside_the_main_thread_and_with_another_handler():
    expected = weights(train(small(), FlowMatching(), TensorBatches(draw(20, 2)), SHORT))
    found = []

    def run():
        found.append(weights(train(small(), FlowMatching(), TensorBatches(draw(20, 2)), SHORT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    interrupts = []
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    found.append(weights(train(small(), At(3, interrupt), TensorBatches(draw(20, 2)), SHORT)))
    assert interrupts == [signal.SIGINT]
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)


def test_complete_run_returns_at_once(tmp_path):
    data = TensorBatches(draw(20, 2))
    expected = train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    found = train(small(seed=1), At(1, crash), data, SHORT, folder=tmp_path)
    assert torch.equal(weights(found), weights(expected))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_no_steps_are_no_change(tmp_path):
    network = small()
    found = train(network, At(1, crash), TensorBatches(draw(20, 2)), TrainingConfig(steps=0), folder=tmp_path)
    assert torch.equal(weights(found), weights(network))


def test_resuming_with_other_settings_is_refused(tmp_path):
    data = TensorBatches(draw(20, 2))
    train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    other = dataclasses.replace(SHORT, learning_rate=0.5, seed=3)
    with pytest.raises(
        ValueError, match=r"learning_rate \(checkpoint 0.01, now 0.5\), seed \(checkpoint 0, now 3\); give"
    ):
        train(small(), FlowMatching(), data, other, folder=tmp_path)


def test_a_checkpoint_from_before_a_setting_has_its_default(tmp_path):
    data, path = TensorBatches(draw(20, 2)), tmp_path / "checkpoint.pt"
    first = train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    stored = torch.load(path, weights_only=True)
    del stored["settings"]["physics"]
    torch.save(stored, path)
    again = train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    assert torch.equal(weights(again), weights(first))
    other = dataclasses.replace(SHORT, clip=0.5, physics=0.1)
    torch.save(stored, path)
    with pytest.raises(ValueError, match=r"physics \(checkpoint 0\.0, now 0\.1\)"):
        train(small(), FlowMatching(), data, other, folder=tmp_path)


def test_resuming_with_another_network_is_refused(tmp_path):
    data = TensorBatches(draw(20, 2))
    train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"the network in .*checkpoint\.pt does not fit: it was made for another network"
    ):
        train(MLP(2, 16, 1), FlowMatching(), data, SHORT, folder=tmp_path)


def test_resuming_on_other_data_warns(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(small(), At(5, interrupt), TensorBatches(draw(20, 2)), SHORT, folder=tmp_path, fingerprint="a")
    with pytest.warns(UserWarning, match=r"fingerprint 'a', 20 items; now fingerprint 'b', 9 items.*goes on") as caught:
        train(small(), FlowMatching(), TensorBatches(draw(9, 2)), SHORT, folder=tmp_path, fingerprint="b")
    assert caught[0].filename == __file__
    assert lines(tmp_path)[-1]["step"] == 12


BAD = {
    "nan": (lambda loss: loss * math.nan, "the loss is nan"),
    "infinite": (lambda loss: loss / 0, "the loss is inf"),
    "infinite gradient": (lambda loss: loss + (loss - loss.detach()).sqrt(), "the norm of its gradient (nan|inf)"),
}


@pytest.mark.parametrize(("action", "message"), BAD.values(), ids=BAD)
def test_divergence_keeps_the_last_good_checkpoint(tmp_path, action, message):
    network = small()
    with pytest.raises(TrainingDiverged, match=message) as caught:
        train(network, At(8, action), TensorBatches(draw(20, 2)), SHORT, folder=tmp_path)
    assert caught.match(
        r"diverged at step 8: .*smaller learning_rate or a longer warmup; the last good checkpoint is .*"
    )
    assert isinstance(caught.value, RuntimeError)
    assert (caught.value.step, caught.value.checkpoint) == (8, tmp_path / "checkpoint.pt")
    stored = torch.load(caught.value.checkpoint, weights_only=True)
    assert stored["parts"]["record"]["step"] == 6
    assert weights(network).isfinite().all()


def test_divergence_by_bad_data_says_so():
    items = draw(20, 2)
    items[3] = math.nan
    with pytest.raises(TrainingDiverged, match=r"data holds values that are not finite.*no checkpoint was written"):
        train(small(), FlowMatching(), TensorBatches(items), SHORT)


def test_empty_data_are_refused():
    with pytest.raises(ValueError, match="at least one item of training data, got none"):
        train(small(), FlowMatching(), TensorBatches(draw(0, 2)), SHORT)


@pytest.mark.parametrize(("items", "size"), [(10, 8), (24, 8), (5, 5), (1, 1)])
def test_epochs_are_shuffled_and_every_item_counts_once(items, size):
    seen = Seen()
    train(small(), seen, TensorBatches(torch.arange(2.0 * items).view(items, 2)), SHORT)
    batches = [batch[:, 0].div(2).int().tolist() for batch in seen.batches]
    assert {len(batch) for batch in batches} == {size}
    per_epoch = items // size
    epochs = [list(chain(*batches[k : k + per_epoch])) for k in range(0, 12, per_epoch)]
    assert all(len(set(epoch)) == per_epoch * size for epoch in epochs)
    if items > 1:
        assert len({tuple(epoch) for epoch in epochs}) > 1
        assert set(chain(*epochs)) == set(range(items))


def test_step_k_takes_batch_k_of_a_stream():
    stream, seen = Numbers(), Seen()
    assert isinstance(stream, BatchStream)
    train(small(), seen, stream, SHORT)
    assert len(seen.batches) == 12
    assert all(torch.equal(batch, draw(8, 2, seed=k)) for k, batch in enumerate(seen.batches))
    assert (stream.opened, stream.closed) == ([(0, 0, 1)], 1)


def test_a_stream_goes_on_where_the_run_does_and_is_closed_whatever_happens(tmp_path):
    stream = Numbers()
    with pytest.raises(KeyboardInterrupt):
        train(small(), At(5, interrupt), stream, SHORT, folder=tmp_path)
    assert stream.closed == 1
    with pytest.raises(RuntimeError, match="power cut"):
        train(small(), At(3, crash), stream, SHORT, folder=tmp_path)
    assert stream.closed == 2
    train(small(), FlowMatching(), stream, SHORT, folder=tmp_path)
    # Steps 0 to 4 by the first, a checkpoint after step 5 by the second, which failed in its third.
    assert stream.opened == [(0, 0, 1), (5, 0, 1), (6, 0, 1)]
    train(small(), FlowMatching(), stream, SHORT, folder=tmp_path)
    assert len(stream.opened) == stream.closed == 3


def test_a_stream_in_place_of_a_set_is_other_data(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(small(), At(5, interrupt), TensorBatches(draw(20, 2)), SHORT, folder=tmp_path, fingerprint="a")
    with pytest.warns(UserWarning, match=r"fingerprint 'a', 20 items; now fingerprint 'a', a stream"):
        train(small(), FlowMatching(), Numbers(), SHORT, folder=tmp_path, fingerprint="a")


def test_streams_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a stream of batches of batch_size=8, got 9; make the stream with"):
        train(small(), FlowMatching(), Numbers(9), SHORT)
    with pytest.raises(ValueError, match="the stream of training data ended at step 7; it must go on without end"):
        train(small(), FlowMatching(), Numbers(length=7), SHORT)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_processes_join_their_shares_of_a_stream(monkeypatch, world):
    """Each makes its own rows; the sum over the processes is the whole batch."""
    whole = draw(8, 2, seed=3)
    run = training._Run(small(), SHORT, 0, torch.device("cpu"))
    run.record.step = 3
    parts = []
    monkeypatch.setattr(training.distributed, "all_reduce", parts.append)
    for rank in range(world):
        batches = training._batches(run, Numbers(), rank, world)
        found = next(batches)
        batches.close()
    assert len(parts) == (world if world > 1 else 0)
    torch.testing.assert_close(sum(parts) if parts else found, whole, rtol=0, atol=0)
    rows = [part.abs().sum(1) > 0 for part in parts]
    assert not parts or torch.equal(sum(row.int() for row in rows), torch.ones(8, dtype=torch.int32))


def test_seed_decides_and_the_global_generator_is_left_alone(tmp_path):
    data = TensorBatches(draw(20, 2))
    before = torch.get_rng_state()
    first, second = (train(Dropping(), FlowMatching(), data, SHORT, folder=tmp_path / str(i)) for i in range(2))
    other = train(Dropping(), FlowMatching(), data, dataclasses.replace(SHORT, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))
    assert (tmp_path / "0/metrics.jsonl").read_text() == (tmp_path / "1/metrics.jsonl").read_text()


def test_dropout_is_drawn_anew_at_every_step():
    masks = []

    class Watched(Dropping):
        def forward(self, x, t, z=None):
            masks.append(tuple(self.dropout(torch.ones(20)).tolist()))
            return super().forward(x, t)

    train(Watched(), FlowMatching(), TensorBatches(draw(20, 2)), SHORT)
    assert len(set(masks)) == 12


def test_record_goes_on_with_the_means_it_had_begun():
    first, second = checkpoints.Record(None), checkpoints.Record(None)
    first.add(1.0, 10.0)
    second.load_state_dict(first.state_dict())
    second.add(2.0, 20.0)
    assert second.write(learning_rate=0.1) == {"step": 2, "loss": 1.5, "gradient_norm": 15.0, "learning_rate": 0.1}
    second.add(4.0, 40.0)
    assert second.write()["loss"] == 4.0


def test_validation_noise_is_the_same_at_every_step_and_for_every_seed(tmp_path):
    """Weights that hardly move have one validation loss, over all the data whatever the batch."""
    found = set()
    for seed in range(2):
        config = dataclasses.replace(SHORT, learning_rate=1e-30, seed=seed)
        folder = tmp_path / str(seed)
        train(
            small(),
            FlowMatching(),
            TensorBatches(draw(20, 2)),
            config,
            validation=TensorBatches(draw(11, 2)),
            folder=folder,
        )
        found |= {line["validation_loss"] for line in lines(folder) if "validation_loss" in line}
    assert len(found) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_keep_their_dtype_and_the_loss_falls(tmp_path, dtype, precision):
    config = dataclasses.replace(SHORT, precision=precision, steps=100, batch_size=64)
    data = TensorBatches(0.1 * draw(200, 2, dtype=torch.float64))
    network = train(small(dtype), FlowMatching(), data, config, folder=tmp_path, validation=data)
    assert weights(network).dtype == dtype
    losses = [line["validation_loss"] for line in lines(tmp_path) if "validation_loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_half_a_line_of_metrics_is_mended(tmp_path):
    data = TensorBatches(draw(20, 2))
    train(small(), FlowMatching(), data, SHORT, folder=tmp_path / "a")
    with pytest.raises(RuntimeError, match="power cut"):
        train(small(), At(5, crash), data, SHORT, folder=tmp_path / "b")
    with (tmp_path / "b/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    train(small(), FlowMatching(), data, SHORT, folder=tmp_path / "b")
    assert (tmp_path / "b/metrics.jsonl").read_text() == (tmp_path / "a/metrics.jsonl").read_text()


def test_metrics_of_a_run_without_checkpoint_are_begun_anew(tmp_path):
    data = TensorBatches(draw(20, 2))
    with pytest.raises(RuntimeError, match="power cut"):
        train(small(), At(3, crash), data, SHORT, folder=tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 13))


def test_failure_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    data, save = TensorBatches(draw(20, 2)), torch.save

    def full(state, path):
        if state["parts"]["record"]["step"] == 6:
            path.write_bytes(b"half")
            raise OSError("no space left on device")
        save(state, path)

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    monkeypatch.setattr(checkpoints.torch, "save", save)
    found = train(small(), FlowMatching(), data, SHORT, folder=tmp_path)
    assert torch.equal(weights(found), weights(train(small(), FlowMatching(), data, SHORT)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "metrics.jsonl"]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(small(), FlowMatching(), TensorBatches(draw(20, 2)), SHORT)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_on_demand_only(capsys):
    data = TensorBatches(draw(20, 2))
    train(small(), FlowMatching(), data, SHORT)
    assert capsys.readouterr().err == ""
    train(small(), FlowMatching(), data, SHORT, validation=data, progress=True)
    shown = capsys.readouterr().err
    assert "train" in shown
    assert "12/12" in shown
    assert "validation_loss" in shown


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_of_a_batch_add_up_to_its_gradient(monkeypatch, world):
    """Every process receives the whole; their gradients add up to its gradient, also where a share is empty."""
    network, x, t = (
        small(torch.float64),
        draw(4, 2, dtype=torch.float64),
        draw(4, seed=1, dtype=torch.float64).sigmoid(),
    )
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1
    whole = network(x, t)
    expected = torch.autograd.grad(whole.square().mean(), list(network.parameters()))
    monkeypatch.setattr(training.distributed, "all_reduce", lambda tensor: tensor.copy_(whole.detach()))
    total = [torch.zeros_like(g) for g in expected]
    for rank in range(world):
        result = training._Share(network, rank, world)(x, t)
        torch.testing.assert_close(result, whole)
        gradient = torch.autograd.grad(result.square().mean(), list(network.parameters()))
        total = [a + b for a, b in zip(total, gradient, strict=True)]
    for a, b in zip(total, expected, strict=True):
        torch.testing.assert_close(a, b)


PROGRAM = """
import sys, torch, warnings
from physflow.config import TrainingConfig
from physflow.generative import MLP, ExactOT, FlowMatching, TensorBatches, train
class Numbers:
    batch_size = 7
    def batches(self, step, rank=0, world=1):
        while True:
            whole = torch.randn(7, 2, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            yield whole[7 * rank // world : 7 * (rank + 1) // world]
            step += 1
x = torch.randn(20, 2, generator=torch.Generator().manual_seed(100), dtype=torch.float64)
config = TrainingConfig(steps=12, batch_size=7, warmup=3, learning_rate=1e-2, evaluate_every=4, checkpoint_every=3)
for name in sys.argv[1:]:
    torch.manual_seed(0)
    data = Numbers() if name.startswith("stream") else TensorBatches(x)
    train(MLP(2, 8, 1).double(), FlowMatching(coupling=ExactOT()), data, config,
          validation=TensorBatches(x[:5]), folder=name)
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """The same weights and metrics within rounding, from an odd batch, of a set (twice in one launch) and a stream."""
    (tmp_path / "program.py").write_text(PROGRAM)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([sys.executable, "program.py", "one", "stream-one"], cwd=tmp_path, check=True, timeout=120)
    subprocess.run([*run, "program.py", "two", "again", "stream-two"], cwd=tmp_path, check=True, timeout=240)
    for alone, together in [("one", "two"), ("one", "again"), ("stream-one", "stream-two")]:
        a, b = (torch.load(tmp_path / name / "checkpoint.pt")["parts"]["average"] for name in (alone, together))
        for name, value in a.items():
            torch.testing.assert_close(b[name], value, rtol=1e-10, atol=1e-12)
        for x, y in zip(lines(tmp_path / alone), lines(tmp_path / together), strict=True):
            assert x == pytest.approx(y, rel=1e-9)
    two, again = (torch.load(tmp_path / name / "checkpoint.pt")["parts"]["average"] for name in ("two", "again"))
    assert all(torch.equal(two[name], again[name]) for name in two)


INTERRUPTED = """
import os, signal, torch
from physflow.config import TrainingConfig
from physflow.generative import MLP, FlowMatching, TensorBatches, train
class Told(FlowMatching):
    calls = 0
    def loss(self, *arguments):
        self.calls += 1
        if self.calls == 5 and os.environ.get("RANK") == "1":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return super().loss(*arguments)
x = torch.randn(20, 2, generator=torch.Generator().manual_seed(100))
try:
    train(MLP(2, 8, 1), Told(), TensorBatches(x), TrainingConfig(steps=1000, batch_size=4), folder="model")
except KeyboardInterrupt:
    print("stopped")
"""


def test_processes_stop_together_when_one_is_interrupted(tmp_path):
    (tmp_path / "program.py").write_text(INTERRUPTED)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "program.py"]
    done = subprocess.run(run, cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout.count("stopped") == 2
    stored = torch.load(tmp_path / "model" / "checkpoint.pt", weights_only=True)
    assert stored["parts"]["record"]["step"] == 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_network_trains_as_the_plain_one(tmp_path):
    data = TensorBatches(draw(20, 2))
    plain = train(small(), FlowMatching(), data, SHORT)
    compiled = train(
        small(), FlowMatching(), data, dataclasses.replace(SHORT, compile=True), validation=data, folder=tmp_path
    )
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-6)
