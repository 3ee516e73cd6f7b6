"""Images: every value back as it was, the way round, each format, and files that are not what they should be."""

import gzip
import io
import re
import struct
import sys
import tarfile

import h5py
import matplotlib.image
import numpy as np
import pytest
import xarray as xr
from sklearn.datasets import load_digits

import physflow
from physflow.data import images
from physflow.data.images import cifar as cifar_module
from physflow.data.images import published

RANDOM = np.random.default_rng(0)
idx_module = sys.modules["physflow.data.images.idx"]
"""Its function has the same name."""


def pixels(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


# Fields and pixels.


@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (2, 3, 1, 7), (0, 1, 4, 4), (1, 3, 1, 1)])
def test_pixels_come_back(shape):
    u = pixels(*shape)
    assert np.array_equal(images.to_pixels(images.from_pixels(u)), u)


def test_every_value_comes_back():
    u = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    ds = images.from_pixels(u)
    assert float(ds["intensity"].min()) == -1
    assert float(ds["intensity"].max()) == 1
    assert np.array_equal(images.to_pixels(ds), u)


def test_the_way_round():
    """The pixel of the top row and the third column lies at the largest y and the third x."""
    u = np.zeros((1, 1, 4, 5), dtype=np.uint8)
    u[0, 0, 0, 2] = 255
    ds = images.from_pixels(u)
    assert ds["intensity"].dims == ("sample", "x", "y")
    assert float(ds["intensity"].sel(sample=0, x=2.5, y=3.5)) == 1
    assert physflow.fields.grid_of(ds).bounds == ((0, 5), (0, 4))


def test_samples_beyond_black_and_white_are_clipped():
    ds = images.from_pixels(pixels(1, 1, 2, 2))
    ds["intensity"].values[0, 0] = 1.7, -3.0
    found = images.to_pixels(ds)
    assert found[0, 0, 1, 0] == 255
    assert found[0, 0, 0, 0] == 0


@pytest.mark.parametrize(
    ("u", "labels", "message"),
    [
        (pixels(2, 4, 4), None, r"shape \(sample, channel, row, column\) with 1 or 3 channels, got \(2, 4, 4\)"),
        (pixels(2, 2, 4, 4), None, r"1 or 3 channels, got \(2, 2, 4, 4\)"),
        (pixels(2, 1, 0, 4), None, r"got \(2, 1, 0, 4\)"),
        (np.zeros((1, 1, 2, 2)), None, "expected whole numbers from 0 to 255, got float64"),
        (np.full((1, 1, 2, 2), 256), None, "expected values from 0 to 255, got 256 to 256"),
        (pixels(2, 1, 4, 4), np.zeros(3, dtype=int), r"one label for each of 2 images, .* got int64 of shape \(3,\)"),
        (pixels(2, 1, 4, 4), np.zeros(2), "got float64"),
    ],
)
def test_what_is_no_image(u, labels, message):
    with pytest.raises(ValueError, match=message):
        images.from_pixels(u, labels)


def test_fields_that_are_no_images():
    ds = physflow.data.heat.generate(1, 4, instants=2)
    with pytest.raises(ValueError, match=r"expected the fields 'intensity', or 'red', .* got \['temperature'\]"):
        images.to_pixels(ds)


# Digits.


def test_digits():
    ds, published = images.digits(), load_digits()
    assert dict(ds.sizes) == {"sample": 1797, "x": 8, "y": 8}
    assert np.array_equal(ds["label"], published.target)
    assert physflow.fields.field_names(ds) == ("intensity",)
    # In 17 shades, of which 8 is the mean of black and white.
    upright = ds["intensity"].values.swapaxes(1, 2)[:, ::-1]
    np.testing.assert_allclose(upright, published.images / 8 - 1, atol=1e-7)


def test_digits_twice_as_fine():
    coarse, fine = (images.digits(n)["intensity"].values for n in (8, 16))
    assert fine.shape == (1797, 16, 16)
    # Interpolated between centres: the mean of four is near the pixel that they lie in, and edges are kept.
    means = fine.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4))
    assert np.corrcoef(means.ravel(), coarse.ravel())[0, 1] > 0.97
    quarter = 0.75 * coarse[:, 0] + 0.25 * coarse[:, 1]
    np.testing.assert_allclose(fine[:, 1, 0], quarter[:, 0], atol=1 / 255)


def test_digits_of_another_size():
    with pytest.raises(ValueError, match="expected a resolution of 8 or 16 pixels, got 28"):
        images.digits(28)


# IDX.


def idx_bytes(values, kind=8):
    return bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder, name, values):
    content = idx_bytes(values)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


@pytest.mark.filterwarnings("ignore:.*is not the published file")
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_mnist(tmp_path, split, stem, ending):
    u, y = pixels(7, 5, 4), RANDOM.integers(0, 10, 7, dtype=np.uint8)
    write_idx(tmp_path, f"{stem}-images-idx3-ubyte{ending}", u)
    write_idx(tmp_path, f"{stem}-labels-idx1-ubyte{ending}", y)
    ds = images.mnist(tmp_path, split)
    assert np.array_equal(images.to_pixels(ds)[:, 0], u)
    assert np.array_equal(ds["label"], y)
    assert ds.attrs["split"] == split


def test_mnist_without_labels(tmp_path):
    write_idx(tmp_path, "train-images-idx3-ubyte", pixels(2, 4, 4))
    assert "label" not in images.mnist(tmp_path)


def test_checksums(tmp_path, monkeypatch):
    path = write_idx(tmp_path, "train-images-idx3-ubyte.gz", pixels(2, 4, 4))
    with pytest.warns(UserWarning, match="not the published file of MNIST or Fashion-MNIST .*its MD5 sum is"):
        images.mnist(tmp_path)
    digest = published.hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(idx_module._SUMS, "train-images", {digest: "MNIST"})
    images.mnist(tmp_path)


def damaged(content):
    return [
        (b"", "is no IDX file: it begins with b''"),
        (b"PK\3\4" + content, "is no IDX file: it begins with"),
        (content[:10], "should hold 0 = 0 bytes"),
        (content[:-3], "should hold 3 x 4 x 5 = 60 bytes of images by its header, and holds 57: the download"),
        (content + b"\0", "and holds more than 60"),
        (idx_bytes(pixels(3)), r"type 8 over 1 axes: labels\?; expected images, unsigned bytes \(type 8\) over 3"),
        (idx_bytes(pixels(3, 4, 5), 13), "holds numbers of type 13 over 3 axes"),
        (content[:4] + struct.pack(">3I", 2**31, 2**31, 2**31), "the download may be cut short"),
    ]


@pytest.mark.parametrize(("content", "message"), damaged(idx_bytes(pixels(3, 4, 5))))
def test_damaged_idx(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        images.idx(tmp_path / "a")


def test_a_gz_that_is_cut_short(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(pixels(30, 40, 5)))[:-100])
    with pytest.raises(ValueError, match=r"a.gz cannot be read .*cut short; get it again"):
        images.idx(tmp_path / "a.gz")


def test_a_gz_with_wrong_bytes(tmp_path):
    """Wherever they are: every file is read whole, with its checksum, or refused with the reason."""
    content = gzip.compress(idx_bytes(pixels(30, 40, 5)))
    for place in range(12, len(content) - 8, len(content) // 40):
        wrong = bytearray(content)
        wrong[place] ^= 255
        (tmp_path / "a.gz").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"get it again|no IDX file|expected"):
            images.idx(tmp_path / "a.gz")


def test_labels_of_another_set(tmp_path):
    u, y = write_idx(tmp_path, "u", pixels(3, 4, 5)), write_idx(tmp_path, "y", pixels(4))
    with pytest.raises(ValueError, match=r"holds 4 labels, but .* 3 images: files of two sets\?"):
        images.idx(u, y)
    with pytest.raises(ValueError, match=r"over 3 axes: images\?; expected labels"):
        images.idx(u, u)


def test_idx_that_is_missing(tmp_path):
    (tmp_path / "other").touch()
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*holds other; get the files from https"):
        images.mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        images.mnist(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"expected the folder of the IDX files, got the file .*other; .*images\.idx reads"
    ):
        images.mnist(tmp_path / "other")
    with pytest.raises(ValueError, match="unknown split 'tests'; did you mean 'test'"):
        images.mnist(tmp_path, "tests")


# CIFAR-10.


@pytest.fixture
def records(monkeypatch):
    """Files of 3 records in place of 10,000."""
    monkeypatch.setattr(cifar_module, "_RECORDS", 3)
    return {
        name: np.concatenate([RANDOM.integers(0, 10, (3, 1), dtype=np.uint8), pixels(3, 3072)], axis=1)
        for names in cifar_module._FILES.values()
        for name in names
    }


def write_cifar(folder, records):
    folder.mkdir()
    for name, values in records.items():
        (folder / name).write_bytes(values.tobytes())


def pack(path, records):
    with tarfile.open(path, "w:gz") as tar:
        for name, values in records.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = values.size
            tar.addfile(info, io.BytesIO(values.tobytes()))


@pytest.mark.filterwarnings("ignore:.*is not the published file")
@pytest.mark.parametrize("where", ["folder", "parent", "archive", "parent of the archive"])
def test_cifar(tmp_path, records, where):
    if "archive" in where:
        pack(tmp_path / "cifar-10-binary.tar.gz", records)
    else:
        write_cifar(tmp_path / "cifar-10-batches-bin", records)
    name = {"folder": "cifar-10-batches-bin", "archive": "cifar-10-binary.tar.gz"}.get(where, "")
    for split, count in (("train", 15), ("test", 3)):
        ds = images.cifar10(tmp_path / name, split)
        every = np.concatenate([records[file] for file in cifar_module._FILES[split]])
        assert ds.sizes["sample"] == count
        assert np.array_equal(ds["label"], every[:, 0])
        assert np.array_equal(images.to_pixels(ds), every[:, 1:].reshape(-1, 3, 32, 32))


def test_the_archive_has_a_checksum(tmp_path, records):
    pack(tmp_path / "cifar-10-binary.tar.gz", records)
    with pytest.warns(UserWarning, match="is not the published file of CIFAR-10"):
        images.cifar10(tmp_path)


def test_cifar_that_is_wrong(tmp_path, records):
    folder = tmp_path / "cifar-10-batches-bin"
    with pytest.raises(
        FileNotFoundError, match=r"data_batch_1.bin.*in cifar-10-batches-bin, or cifar-10-binary.tar.gz"
    ):
        images.cifar10(tmp_path)
    write_cifar(folder, records)
    (folder / "data_batch_2.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"data_batch_2.bin of .* has 3 bytes, expected 3 records of 3073 bytes"):
        images.cifar10(folder)
    records["data_batch_2.bin"][1, 0] = 10
    (folder / "data_batch_2.bin").write_bytes(records["data_batch_2.bin"].tobytes())
    with pytest.raises(ValueError, match="has the label 10, expected 0 to 9"):
        images.cifar10(folder)
    (folder / "data_batch_2.bin").rename(folder / "data_batch_2")
    with pytest.raises(ValueError, match="holds the version for Python, a pickle, which is not read"):
        images.cifar10(folder)


@pytest.mark.filterwarnings("ignore:.*is not the published file")
def test_archives_that_are_wrong(tmp_path, records):
    path = tmp_path / "cifar-10-binary.tar.gz"
    pack(path, {"test_batch.bin": records["test_batch.bin"]})
    with pytest.raises(ValueError, match=r"holds no cifar-10-batches-bin/data_batch_1.bin"):
        images.cifar10(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"(?s)cannot be read .*cut short\?"):
        images.cifar10(path)


# Folders.


def write_png(path, values):
    path.parent.mkdir(exist_ok=True)
    matplotlib.image.imsave(path, values)


def grey(path, values):
    """A PNG of grey values: `imsave` writes colours alone."""
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


def test_a_folder(tmp_path):
    u = pixels(3, 4, 5)
    for k, image in enumerate(u):
        grey(tmp_path / f"{k}.png", image)
    (tmp_path / "notes.txt").touch()
    ds = images.folder(tmp_path)
    assert np.array_equal(images.to_pixels(ds)[:, 0], u)
    assert "label" not in ds


def test_a_folder_of_classes(tmp_path):
    u = pixels(3, 3, 4, 5)
    for (kind, name), image in zip([("cat", "1"), ("cat", "2"), ("ant", "1")], u, strict=True):
        grey(tmp_path / kind / f"{name}.PNG", image.transpose(1, 2, 0))
    ds = images.folder(tmp_path)
    assert np.array_equal(images.to_pixels(ds), u[[2, 0, 1]])
    assert ds["label"].values.tolist() == [0, 1, 1]
    assert ds.attrs["classes"] == "ant, cat"


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        images.folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"expected PNG files in .* found nothing"):
        images.folder(tmp_path)
    grey(tmp_path / "a.png", pixels(4, 5))
    grey(tmp_path / "b.png", pixels(4, 6))
    message = re.escape("a.png has (channels, rows, columns) = (1, 4, 5) and b.png (1, 4, 6); scale them")
    with pytest.raises(ValueError, match=message):
        images.folder(tmp_path)
    write_png(tmp_path / "b.png", pixels(4, 5, 4))
    with pytest.raises(ValueError, match=r"b.png has an alpha channel"):
        images.folder(tmp_path)
    grey(tmp_path / "b.png", RANDOM.integers(0, 2**16, (4, 5), dtype=np.uint16))
    with pytest.raises(ValueError, match=r"b.png has 16 bits a channel; save it with 8"):
        images.folder(tmp_path)
    for bits, color in ((16, 2), (4, 0), (1, 0)):
        header = struct.pack(">2I5B", 5, 4, bits, color, 0, 0, 0)
        (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header)
        with pytest.raises(ValueError, match=f"b.png has {bits} bits a channel; save it with 8"):
            images.folder(tmp_path)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b.png cannot be read as PNG"):
        images.folder(tmp_path)
    grey(tmp_path / "cat" / "b.png", pixels(4, 5))
    with pytest.raises(ValueError, match="holds 2 images itself and 1 in sub-folders, such as cat"):
        images.folder(tmp_path)


# Latents.


def write_latents(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (4, 4, 4, 4)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_latents(tmp_path, shape, dtype):
    u, y = RANDOM.standard_normal(shape).astype(dtype), np.arange(shape[0])
    with images.latents(write_latents(tmp_path / "u.h5", latents=u, labels=y)) as ds:
        assert not ds["latent_1"].variable._in_memory
        assert physflow.fields.field_names(ds) == ("latent_0", "latent_1", "latent_2", "latent_3")
        assert physflow.fields.grid_of(ds).shape == (shape[3], shape[2])
        assert np.array_equal(ds["latent_2"].isel(sample=slice(1, 3)), u[1:3, 2, ::-1].swapaxes(1, 2))
        assert np.array_equal(ds["label"], y)
        assert np.array_equal(images.to_latents(ds), u)


@pytest.mark.parametrize("names", [["intensity"], ["latent_0", "latent_2"]])
def test_fields_that_are_no_latents(names):
    ds = images.from_pixels(np.zeros((2, 1, 3, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"expected the fields 'latent_0', 'latent_1' .* got \['"):
        images.to_latents(xr.Dataset({name: ds["intensity"] for name in names}))


@pytest.mark.parametrize(
    ("datasets", "asked", "message"),
    [
        ({"u": np.zeros((2, 3))}, {}, "expected one dataset .* found none among .*is this a file of latents"),
        ({"a": np.zeros((2, 1, 2, 2)), "b": np.ones((2, 1, 2, 2))}, {}, r"found \['a', 'b'\].* name it \(name=\)"),
        ({"a": np.zeros((2, 1, 2, 2))}, {"name": "b"}, "holds no dataset 'b'; .*a"),
        ({"a": np.zeros((2, 1, 2))}, {"name": "a"}, r"expected 'a' in .* got float64 of shape \(2, 1, 2\)"),
        ({"a": np.zeros((2, 1, 2, 2)), "y": np.arange(3)}, {}, "one label for each of 2 images"),
        (
            {"a": np.zeros((2, 1, 2, 2)), "y": np.arange(2), "n": np.arange(2)},
            {},
            "several datasets that may be labels",
        ),
        ({"a": np.zeros((2, 1, 2, 2)), "y": np.zeros(2)}, {"labels": "y"}, "got float64"),
    ],
)
def test_latents_that_are_wrong(tmp_path, datasets, asked, message):
    with pytest.raises(ValueError, match=message):
        images.latents(write_latents(tmp_path / "u.h5", **datasets), **asked)


def test_latents_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        images.latents(tmp_path / "u.h5")
    (tmp_path / "u.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"cannot be read as HDF5"):
        images.latents(tmp_path / "u.h5")


def test_images_are_data_like_others(tmp_path):
    """Written, trained on, sampled."""
    config = physflow.config
    images.digits().isel(sample=slice(40)).drop_vars("label").to_netcdf(tmp_path / "digits.nc", engine="h5netcdf")
    network = config.UNetConfig(channels=4, multipliers=(1, 2), blocks=1)
    model = config.ModelConfig("pixel", log=(), network="unet", unet=network)
    training = config.TrainingConfig(steps=2, batch_size=8, warmup=1)
    physflow.fitting.train_model(tmp_path / "digits.nc", tmp_path / "model", model=model, training=training)
    ds = physflow.load(tmp_path / "model").sample(3, seed=0, steps=2)
    assert images.to_pixels(ds).shape == (3, 1, 8, 8)
    assert isinstance(ds, xr.Dataset)


def test_flips_mirror_left_and_right(tmp_path):
    u = pixels(4, 3, 4, 6)
    ds = images.from_pixels(u)
    training = physflow.config.TrainingConfig(steps=1, batch_size=4, warmup=0, flips=True)
    same, mirrored = physflow.fitting._images(training, None, physflow.fields.grid_of(ds))
    fields = physflow.fields.to_tensor(ds)
    assert same(fields) is fields
    ds["red"].values[:] = mirrored(fields)[:, 0]
    assert np.array_equal(images.to_pixels(ds)[:, 0], u[:, 0, :, ::-1])
    pairs = physflow.data.darcy.generate(4, 8, modes=4, out=tmp_path / "pairs.nc")
    pairs.close()
    with pytest.raises(ValueError, match=r"flips=true mirrors images along x: it needs data .* without an equation"):
        physflow.fitting.train_model(tmp_path / "pairs.nc", tmp_path / "model", training=training)
