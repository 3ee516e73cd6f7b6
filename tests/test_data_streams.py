"""The stream of fresh batches: what `generate` gives, in order, once, resumable, and without threads left behind."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import physflow
from physflow.config import DataConfig
from physflow.data import streams
from physflow.data.darcy import FIELDS, generate
from physflow.data.streams import DarcyStream
from physflow.fields import to_tensor
from physflow.generative import BatchStream
from physflow.pde import identity
from physflow.transforms import Standardize

SMALL = {"resolution": 8, "modes": 6}
CONFIG = DataConfig(samples=3, seed=5, **SMALL)
BLOCK = 128


def take(iterator, number):
    return list(islice(iterator, number))


def numbers(batches):
    """The sample numbers in batches of a stream whose samples are their own numbers."""
    return [batch.flatten().int().tolist() for batch in batches]


def background():
    return [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


@pytest.fixture(scope="module")
def expected():
    """The first 700 pairs."""
    return to_tensor(generate(700, seed=5, **SMALL), FIELDS, torch.float32)


@pytest.fixture
def numbered(monkeypatch):
    """Every sample is its own number, and the list grows by the first number of each block that is made."""
    made = []

    def make(config, first, device):
        made.append(first)
        return np.arange(first, first + BLOCK, dtype=np.float32).reshape(BLOCK, 1, 1, 1)

    monkeypatch.setattr(streams, "make_block", make)
    return made


@pytest.mark.parametrize("batch_size", [1, 7, 100, 128, 300])
@pytest.mark.parametrize("first", [0, 1, 127, 128, 350])
def test_batches_are_the_samples_of_the_generator(expected, batch_size, first):
    batches = take(DarcyStream(CONFIG, batch_size, first=first, workers=2), min(350 // batch_size, 5))
    assert {batch.shape for batch in batches} == {(batch_size, 2, 8, 8)}
    assert {batch.dtype for batch in batches} == {torch.float32}
    found = torch.cat(batches)
    assert torch.equal(found, expected[first : first + len(found)])


@pytest.mark.parametrize(
    "settings",
    [
        {"resolution": (8, 5), "extent": (2.0, 1.0), "modes": None},
        {"resolution": (6, 8), "preset": "fno", "boundary": "dirichlet", "source": "constant"},
        {"resolution": 8, "discretization": "nodes"},
        {"resolution": 200, "modes": None},
    ],
    ids=str,
)
def test_of_any_law_and_grid(settings):
    """Also of one so large that a block is a few samples."""
    fields = to_tensor(generate(9, **settings), FIELDS, torch.float32)
    found = torch.cat(take(DarcyStream(DataConfig(**settings), 4, first=1), 2))
    assert torch.equal(found, fields[1:])


@pytest.mark.parametrize("workers", [None, 1, 5])
@pytest.mark.parametrize("prefetch", [1, 9])
def test_workers_change_nothing(expected, workers, prefetch):
    found = take(DarcyStream(CONFIG, 50, workers=workers, prefetch=prefetch), 12)
    assert torch.equal(torch.cat(found), expected[:600])


@pytest.mark.parametrize(
    "make_pool",
    [
        lambda: ThreadPoolExecutor(2),
        pytest.param(lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")), marks=pytest.mark.slow),
    ],
    ids=["threads", "processes"],
)
def test_nor_does_the_executor_which_stays_open(expected, make_pool):
    transform = Standardize().fit(expected)
    with make_pool() as executor:
        stream = DarcyStream(CONFIG, 50, executor=executor, workers=2, transform=transform)
        assert torch.equal(torch.cat(take(stream, 6)), transform(expected[:300]))
        assert executor.submit(int, 3).result() == 3


def test_a_float64_law_streams_as_float32():
    config = DataConfig(dtype="float64", **SMALL)
    stored = to_tensor(generate(20, dtype="float64", **SMALL), FIELDS)
    found = take(DarcyStream(config, 20), 1)[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, stored.float())


def test_iterating_again_begins_again_and_steps_are_positions(numbered):
    stream = DarcyStream(CONFIG, 10, first=4)
    whole = numbers(take(stream, 40))
    assert whole == [list(range(4 + 10 * k, 14 + 10 * k)) for k in range(40)]
    assert numbers(take(stream, 2)) == whole[:2]
    assert numbers(take(stream.batches(30), 10)) == whole[30:]
    assert numbers(take(DarcyStream(CONFIG, 10, first=4 + 30 * 10), 10)) == whole[30:]


def test_every_block_is_made_once(numbered):
    take(DarcyStream(CONFIG, 50, first=100, workers=1, prefetch=1), 20)
    assert numbered[:9] == list(range(0, 9 * BLOCK, BLOCK))
    assert len(numbered) == len(set(numbered))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_processes_share_each_batch(numbered, world):
    stream = DarcyStream(CONFIG, 7, first=120)
    shares = [numbers(take(stream.batches(2, rank, world), 9)) for rank in range(world)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == numbers(take(stream.batches(2), 9))


def test_it_is_a_stream_of_training_data_and_no_set():
    stream = DarcyStream(CONFIG, 7)
    assert isinstance(stream, BatchStream)
    assert not hasattr(stream, "__len__")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch_size", [50, 128])
def test_workers_of_a_loader_take_turns(expected, context, batch_size):
    loader = DataLoader(
        DarcyStream(CONFIG, batch_size, first=3), batch_size=None, num_workers=2, multiprocessing_context=context
    )
    found = torch.cat(take(loader, 5))
    assert torch.equal(found, expected[3 : 3 + len(found)])


def test_workers_of_a_loader_share_no_sample(numbered, monkeypatch):
    """The same in this process: worker w of W takes the batches w, w + W, ..."""

    class Info:
        num_workers = 3

    stream, found = DarcyStream(CONFIG, 100), []
    for Info.id in range(3):
        monkeypatch.setattr(streams, "get_worker_info", lambda: Info)
        found.append(numbers(take(stream, 4)))
    in_turn = [batch for turn in zip(*found, strict=True) for batch in turn]
    assert list(chain(*in_turn)) == list(range(1200))
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="use num_workers=0"):
        iter(DarcyStream(CONFIG, 100, executor=executor))


def test_the_transform_maps_each_sample_in_a_thread(expected):
    transform, threads = Standardize().fit(expected), set()

    def watched(fields):
        threads.add(threading.current_thread())
        assert fields.shape == (BLOCK, 2, 8, 8)
        return transform(fields)

    found = torch.cat(take(DarcyStream(CONFIG, 90, first=10, transform=watched), 6))
    assert torch.equal(found, transform(expected)[10:550])
    assert threading.main_thread() not in threads
    assert not found.requires_grad
    assert not found.is_inference()


def test_images_are_drawn_for_each_sample_by_their_seed(expected):
    images = (identity, lambda fields: -fields, lambda fields: fields.flip(2))
    settings = {"images": images, "image_seed": 5}
    found = torch.cat(take(DarcyStream(CONFIG, 100, **settings), 7))
    which = torch.stack([(found == image(expected)).flatten(1).all(1) for image in images])
    # Each sample is one image of itself, each image is as frequent as the other: 700 draws, five standard deviations.
    assert torch.equal(which.sum(0), torch.ones(700, dtype=torch.int64))
    assert (which.double().mean(1) - 1 / 3).abs().max() < 5 * (2 / 9 / 700) ** 0.5
    # Nor do they follow the first coefficient of the field, which has the same seed.
    sign = expected[:, 0].log().mean((1, 2)) > 0
    assert (which[0][sign].double().mean() - which[0][~sign].double().mean()).abs() < 5 * (8 / 9 / 700) ** 0.5
    again = torch.cat(take(DarcyStream(CONFIG, 64, first=200, workers=1, **settings), 2))
    assert torch.equal(again, found[200:328])
    other = torch.cat(take(DarcyStream(CONFIG, 100, images=images, image_seed=6), 1))
    assert not torch.equal(other, found[:100])


class TestThreads:
    def test_only_so_many_blocks_are_ahead(self, numbered):
        assert wait_until(lambda: not background()), "those of the test before"
        iterator = iter(DarcyStream(CONFIG, 1, workers=2, prefetch=3))
        next(iterator)
        assert wait_until(lambda: len(numbered) == 5)
        time.sleep(0.05)
        assert len(numbered) == 5
        take(iterator, BLOCK)
        assert wait_until(lambda: len(numbered) == 6)
        assert len(background()) == 2
        iterator.close()

    def test_blocks_are_delivered_in_order(self, monkeypatch):
        def slow_first(config, first, device):
            time.sleep(0.2 if first == 0 else 0)
            return np.full((BLOCK, 1, 1, 1), first, dtype=np.float32)

        monkeypatch.setattr(streams, "make_block", slow_first)
        found = take(DarcyStream(CONFIG, BLOCK, workers=3), 4)
        assert [int(batch[0]) for batch in found] == [0, 128, 256, 384]

    def test_leaving_the_loop_ends_them(self, numbered):
        assert wait_until(lambda: not background()), "those of the test before"
        for _ in DarcyStream(CONFIG, 10, workers=3):
            assert len(background()) == 3
            break
        assert wait_until(lambda: not background())

        def fail():
            for _ in DarcyStream(CONFIG, 10, workers=3):
                raise OSError("the consumer failed")

        with pytest.raises(OSError, match="the consumer failed"):
            fail()
        assert wait_until(lambda: not background())
        iterator = iter(DarcyStream(CONFIG, 10, workers=3))
        next(iterator)
        del iterator
        assert wait_until(lambda: not background())
        made = len(numbered)
        time.sleep(0.05)
        assert len(numbered) == made

    def test_leaving_the_loop_cancels_what_an_executor_has_not_begun(self, monkeypatch):
        begun, go_on = [], threading.Event()

        def wait(config, first, device):
            begun.append(first)
            if first:
                go_on.wait(10)
            return np.zeros((BLOCK, 1, 1, 1), dtype=np.float32)

        monkeypatch.setattr(streams, "make_block", wait)
        with ThreadPoolExecutor(1) as executor:
            iterator = iter(DarcyStream(CONFIG, 10, workers=1, prefetch=8, executor=executor))
            next(iterator)
            assert wait_until(lambda: len(begun) == 2)
            iterator.close()
            go_on.set()
        assert begun == [0, BLOCK]

    @pytest.mark.parametrize(("workers", "left"), [(1, 3), (3, 1), (9, 1)])
    def test_torch_computes_alone_in_each_and_the_caller_keeps_the_rest(self, monkeypatch, workers, left):
        found, before = set(), torch.get_num_threads()

        def look(config, first, device):
            found.add(torch.get_num_threads())
            return np.zeros((BLOCK, 1, 1, 1), dtype=np.float32)

        monkeypatch.setattr(streams, "make_block", look)
        try:
            torch.set_num_threads(4)
            iterator = iter(DarcyStream(CONFIG, BLOCK, workers=workers))
            take(iterator, 20)
            assert torch.get_num_threads() == left
            iterator.close()
            assert torch.get_num_threads() == 4
        finally:
            torch.set_num_threads(before)
        assert found == {1}


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
            ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, got 2.5"),
            ({"first": -1}, "first must be a whole number of at least 0, got -1"),
            ({"prefetch": 0}, "prefetch must be a whole number of at least 1, got 0"),
            ({"workers": 0}, "workers must be a whole number of at least 1, got 0"),
            ({"image_seed": -3}, "image_seed must be a whole number of at least 0, got -3"),
            ({"images": ()}, "at least one image of each sample, got none"),
            ({"device": "gpu"}, "no device 'gpu' on this machine; valid: cpu"),
        ],
        ids=str,
    )
    def test_settings(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            DarcyStream(CONFIG, **{"batch_size": 8, **arguments})

    def test_positions(self):
        stream = DarcyStream(CONFIG, 8)
        with pytest.raises(ValueError, match="step must be a whole number of at least 0, got -1"):
            stream.batches(-1)
        for rank, world in [(2, 2), (-1, 2), (0, 9)]:
            with pytest.raises(ValueError, match=f"got rank={rank}, world={world} and batch_size=8"):
                stream.batches(0, rank, world)

    def test_an_impossible_law_fails_before_any_thread(self):
        with pytest.raises(ValueError, match="embedding of this covariance is not positive"):
            DarcyStream(DataConfig(resolution=8, modes=None, correlation_length=100.0), 8)

    def test_an_error_names_its_samples(self, monkeypatch):
        def fail(config, first, device):
            if first == 2 * BLOCK:
                raise FloatingPointError("sample 3 was not solved")
            return np.zeros((BLOCK, 1, 1, 1), dtype=np.float32)

        monkeypatch.setattr(streams, "make_block", fail)
        iterator = iter(DarcyStream(CONFIG, BLOCK, workers=2))
        take(iterator, 2)
        message = r"samples 256 to 383 of the stream failed \(the error counts from 256\): sample 3 was not solved"
        with pytest.raises(RuntimeError, match=message) as caught:
            next(iterator)
        assert isinstance(caught.value.__cause__, FloatingPointError)
        assert wait_until(lambda: not background())


@pytest.mark.slow
def test_the_example_runs():
    program = Path(physflow.__file__).parents[1] / "examples" / "train_on_fresh_samples.py"
    found = subprocess.run(
        [sys.executable, program, "--steps", "3"], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.splitlines()[-1] == f"distinct samples seen: {3 * 256}"
