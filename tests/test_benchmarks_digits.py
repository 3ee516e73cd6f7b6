"""The benchmark of digits: the classifier that compares, and the whole in short."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from physflow import results
from physflow.data.images import digits, to_pixels

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
benchmark, classifier, latents = (importlib.import_module(n) for n in ("digits", "digits_classifier", "digits_latents"))


@pytest.mark.parametrize("resolution", [8, 16])
def test_the_classifier_knows_digits(resolution):
    ds = digits(resolution)
    images, labels = torch.from_numpy(to_pixels(ds)), torch.from_numpy(ds["label"].values)
    features = classifier.trained(images[:1400], labels[:1400], 150)
    assert classifier.accuracy(features, images[1400:], labels[1400:]) > 0.8
    assert features(images[:3]).shape == (3, classifier.WIDTH)
    assert features.distance_name == "Frechet distance (classifier of digits)"


def test_every_method_can_be_trained():
    for n in (8, 16):
        assert set(benchmark.methods(n, quick=False)) == set(benchmark.NAMES)


def test_the_whole_in_short(tmp_path, monkeypatch):
    words = [
        "digits.py",
        "--quick",
        "--resolution",
        "8",
        "--methods",
        "i-cfm",
        "v-rfm-sum",
        "--out",
        str(tmp_path / "o"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    benchmark.main()
    found = results.Results.read(tmp_path / "o")
    samples = [row for row in found.rows if row.get("part") == "samples"]
    assert {(row["method"], row["evaluations"]) for row in samples} == {
        (benchmark.NAMES[key], n) for key in ("i-cfm", "v-rfm-sum") for n in benchmark.NFE
    }
    assert all(row["distance"] > 0 for row in samples)
    for picture in found.pictures:
        assert (tmp_path / "o" / picture.file).stat().st_size > 5000
    before = (tmp_path / "o" / "table.md").read_text()
    benchmark.main()
    assert (tmp_path / "o" / "table.md").read_text() == before


def test_the_analysis_in_short(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["digits_latents.py", "--quick", "--out", str(tmp_path)])
    latents.main()
    found = results.Results.read(tmp_path)
    adaptive = [row["evaluations"] for row in found.rows if row.get("grid") == "adaptive"]
    assert len(adaptive) == len(latents.METHODS)
    assert min(adaptive) > 5
    assert {picture.file for picture in found.pictures} == {
        *("manifold.png", "traversal.png", "one-latent.png", "evaluations.png", "training.png"),
    }
    for picture in found.pictures:
        assert (tmp_path / picture.file).stat().st_size > 5000
