"""Training data from a file: batch by batch it is what reading and transforming everything gives."""

import torch

from physflow.data import FieldReader, files
from physflow.data.batches import FileBatches, encode, rows
from physflow.fields import to_dataset
from physflow.grid import Grid
from physflow.pde import identity
from physflow.transforms import Standardize


def test_batches_of_a_file(tmp_path):
    values = torch.rand(600, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    path = files.write(to_dataset(values, ("a", "b"), Grid((4, 5))), tmp_path / "data.nc")
    reader = FieldReader(path, ("a", "b"))
    transform = Standardize().fit(lambda: rows(reader, 10, 590))
    expected = transform(values[10:590])
    torch.testing.assert_close(expected.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(encode(reader, transform, 10, 590), expected)
    batches = FileBatches(reader, transform, 10, 590)
    assert len(batches) == 580
    indices = torch.tensor([579, 0, 3, 3])
    assert torch.equal(batches.batch(indices), expected[indices])
    assert list(rows(reader, 5, 5)) == []


def test_images_are_more_items(tmp_path):
    values = torch.rand(20, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    path = files.write(to_dataset(values, ("a", "b"), Grid((4, 4))), tmp_path / "data.nc")
    reader, images = FieldReader(path, ("a", "b")), (identity, lambda fields: -fields.transpose(2, 3))
    transform = Standardize().fit(values)
    expected = transform(torch.cat([values[3:17], -values[3:17].transpose(2, 3)]))
    assert torch.equal(encode(reader, transform, 3, 17, images), expected)
    batches = FileBatches(reader, transform, 3, 17, images)
    assert len(batches) == 28
    indices = torch.tensor([27, 0, 13, 14, 5])
    assert torch.equal(batches.batch(indices), expected[indices])
