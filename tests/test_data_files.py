"""Files of fields: exact round trips, whole or not at all, streaming reads, truncated and foreign files."""

import errno
import pickle

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from physflow.data import files
from physflow.data.files import FieldReader, FieldWriter, Metadata
from physflow.fields import to_dataset
from physflow.grid import Grid

GRID = Grid((4, 6))
NAMES = ("permeability", "pressure")


def fields(samples=7):
    return torch.rand(samples, 2, *GRID.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(tmp_path):
    return files.write(to_dataset(fields(), NAMES, GRID, {"seed": 3, "std": 1.5}), tmp_path / "data.nc")


def test_round_trip(path):
    with files.open(path) as ds:
        xr.testing.assert_identical(ds.load(), to_dataset(fields(), NAMES, GRID, {"seed": 3, "std": 1.5}))


def test_each_field_is_one_contiguous_array_in_the_file(path):
    content = path.read_bytes()
    with h5py.File(path) as file:
        for c, name in enumerate(NAMES):
            assert file[name].chunks is None
            assert np.array_equal(
                np.frombuffer(content, "<f4", 7 * 24, offset=file[name].id.get_offset()), fields()[:, c].ravel()
            )


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_written_in_pieces_it_is_the_same_file(tmp_path, samples):
    expected = to_dataset(fields(samples), NAMES, GRID, {"seed": 3})
    contents = set()
    for firsts in (range(0, samples, 3), range(samples - samples % 3, -1, -3)):
        with FieldWriter(tmp_path / "pieces.nc", expected, samples, overwrite=True) as writer:
            for first in firsts:
                writer.put(first, fields(samples)[first : first + 3].numpy())
        with files.open(tmp_path / "pieces.nc") as ds:
            xr.testing.assert_identical(ds.load(), expected)
        contents.add((tmp_path / "pieces.nc").read_bytes())
    assert len(contents) == 1, "the order of the pieces leaves no trace"


def test_the_type_and_any_coordinates_are_those_of_the_template(tmp_path):
    expected = to_dataset(fields().double(), NAMES, GRID).assign_coords(x=[0.1, 0.3, 0.5, 0.7 + 1e-9])
    with FieldWriter(tmp_path / "a.nc", expected, 7) as writer:
        writer.put(0, fields().double().numpy())
    with files.open(tmp_path / "a.nc") as ds:
        xr.testing.assert_identical(ds.load(), expected)


def test_two_writers_of_one_name_do_not_share_a_temporary_file(tmp_path):
    template = to_dataset(fields(), NAMES, GRID)
    with (
        FieldWriter(tmp_path / "a.nc", template, 7, writer="one") as one,
        FieldWriter(tmp_path / "a.nc", template, 7, writer="two") as two,
    ):
        assert (one.part.name, two.part.name) == (".a.nc.one.part", ".a.nc.two.part")
        two.put(0, fields().numpy())
        one.put(0, fields().numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        FieldWriter(tmp_path / "a.nc", to_dataset(fields(), NAMES, GRID), 7) as writer,
    ):
        writer.put(0, fields(2).numpy())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        (tmp_path / ".data.nc.part").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(OSError, match=r"writing .*data.nc failed, nothing was kept .*No space left on device"):
        files.write(to_dataset(fields(), NAMES, GRID), tmp_path / "data.nc")
    assert not (tmp_path / "data.nc").exists()


def test_a_full_disk_in_the_middle_of_pieces(tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OSError, match="nothing was kept under that name"),
        FieldWriter(tmp_path / "a.nc", to_dataset(fields(), NAMES, GRID), 7) as writer,
    ):
        monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
        writer.put(0, fields(2).numpy())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(RuntimeError), files.atomic(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == before


def test_an_existing_file_is_refused(path):
    with pytest.raises(FileExistsError, match=r"data.nc exists"):
        files.write(to_dataset(fields(), NAMES, GRID), path)
    files.write(to_dataset(fields(2), NAMES, GRID), path, overwrite=True)
    assert len(FieldReader(path, NAMES)) == 2


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        files.write(to_dataset(fields(), NAMES, GRID), tmp_path / "nowhere" / "a.nc")


@pytest.mark.parametrize("kept", [100, 3000])
def test_a_truncated_file(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"data.nc is not a readable netCDF-4/HDF5 file; it may be truncated"):
        files.open(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a.nc"):
        files.open(tmp_path / "a.nc")


class TestReader:
    @pytest.mark.parametrize("indices", [[0], [3, 1, 1, 6], [], slice(2, 5), slice(0, 0)])
    def test_reads_what_is_asked_for_in_order(self, path, indices):
        assert torch.equal(FieldReader(path, NAMES).read(indices), fields()[indices])

    def test_batches_cover_all(self, path):
        assert torch.equal(torch.cat(list(FieldReader(path, NAMES).batches(3))), fields())

    def test_axes_in_another_order(self, tmp_path):
        files.write(to_dataset(fields(), NAMES, GRID).transpose("sample", "y", "x"), tmp_path / "a.nc")
        assert torch.equal(FieldReader(tmp_path / "a.nc", NAMES).read([2, 0]), fields()[[2, 0]])

    def test_travels_to_another_process(self, path):
        reader = FieldReader(path, NAMES)
        reader.read([0])
        assert torch.equal(pickle.loads(pickle.dumps(reader)).read([1]), fields()[[1]])
        reader.close()

    def test_samples_last_is_refused(self, tmp_path):
        files.write(to_dataset(fields(), NAMES, GRID).transpose("x", "y", "sample"), tmp_path / "a.nc")
        with pytest.raises(ValueError, match="'sample' must be the first dimension"):
            FieldReader(tmp_path / "a.nc", NAMES)

    def test_unknown_field(self, path):
        with pytest.raises(ValueError, match="no variable 'presure'; did you mean 'pressure'"):
            FieldReader(path, ["presure"])


LAWS = [
    (
        {"covariance": "exponential", "correlation_length": 0.1, "std": 1.0, "coefficients": "normal"},
        ("modes", "levels"),
    ),
    (
        {"covariance": "matern", "correlation_length": (0.2, 0.1), "angle": 30.0, "smoothness": 1.5, "modes": 3},
        ("alpha",),
    ),
    ({"covariance": "cosine", "alpha": 2.0, "tau": 3.0, "levels": (3.0, 12.0)}, ("correlation_length", "std")),
]


@pytest.mark.parametrize(("law", "left_out"), LAWS, ids=str)
def test_metadata_round_trip(tmp_path, law, left_out):
    metadata = Metadata(
        equation="Darcy",
        source="wells",
        boundary="neumann",
        faces="harmonic",
        centering="cells",
        permeability_law="lognormal",
        seed=0,
        tolerance=1e-8,
        fingerprint="f",
        physflow_version="0",
        **law,
    )
    attrs = metadata.to_attrs()
    assert set(law) < set(attrs)
    assert not set(left_out) & set(attrs)
    assert Metadata.from_attrs({**attrs, "seed": np.int64(0), "foreign": 1}) == metadata
    with files.open(files.write(to_dataset(fields(), NAMES, GRID, attrs), tmp_path / "a.nc")) as ds:
        assert Metadata.from_attrs(ds.attrs) == metadata
    with pytest.raises(ValueError, match=r"lacks the attributes \['seed'\]"):
        Metadata.from_attrs({key: value for key, value in attrs.items() if key != "seed"})
