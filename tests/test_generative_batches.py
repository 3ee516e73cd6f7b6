"""Training data: in memory, and drawn without end."""

from itertools import islice

import pytest
import torch

from physflow.generative import BatchSource, BatchStream, DrawnBatches, TensorBatches, item_generator


def normal(n, generator):
    return torch.randn(n, 2, generator=generator)


def test_batches_in_memory():
    data: BatchSource = TensorBatches(torch.arange(10.0)[:, None])
    assert len(data) == 10
    assert data.batch(torch.tensor([3, 3, 0])).tolist() == [[3.0], [3.0], [0.0]]


def test_a_drawn_batch_depends_on_seed_and_number_alone():
    stream = DrawnBatches(normal, 8, seed=3)
    assert isinstance(stream, BatchStream)
    first = list(islice(stream.batches(0), 5))
    torch.testing.assert_close(list(islice(stream.batches(3), 2)), first[3:], rtol=0, atol=0)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], next(DrawnBatches(normal, 8, seed=4).batches(0)))


@pytest.mark.parametrize("world", [1, 2, 3, 8, 11])
def test_the_shares_of_the_processes_make_the_batch(world):
    stream = DrawnBatches(normal, 8)
    shares = [next(stream.batches(2, rank, world)) for rank in range(world)]
    assert torch.equal(torch.cat(shares), next(stream.batches(2)))


def test_impossible_streams_are_refused():
    with pytest.raises(ValueError, match="batch_size >= 1 and seed >= 0, got 0 and 0"):
        DrawnBatches(normal, 0)


def test_items_of_one_seed_have_different_generators():
    # 59922 and 74925 once collided in the 32 bits that torch's generator keeps.
    seeds = {item_generator(1, index).initial_seed() for index in [0, 1, 59922, 74925, 2**31]}
    assert len(seeds) == 5
    assert item_generator(1, 0).initial_seed() != item_generator(2, 0).initial_seed()
