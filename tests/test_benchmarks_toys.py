"""The benchmarks of the triangle and of the primer: their scores against the law itself, and a short run of each."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from physflow.config import TrainingConfig
from physflow.generative import FlowMatching, item_generator
from physflow.metrics import Resampled
from physflow.results import Results

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    if not FOLDER.exists():
        pytest.skip("the benchmarks are part of the repository, not of the package")
    monkeypatch.syspath_prepend(str(FOLDER))
    import harness
    import primer
    import triangle

    return harness, primer, triangle


def run(script, monkeypatch, out, *words):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "--out", str(out), *words])
    script.main()
    return Results.read(out)


def test_the_law_of_the_triangle_scores_chance_alone(scripts):
    triangle = scripts[2]
    n = 40_000
    found = triangle.scores(triangle.data(n, item_generator(0, 0)), {"w2": Resampled(triangle.data, 100)})
    rarest = float(triangle.LAW.weights.min())
    assert found["largest_error_of_a_share"] < 5 * ((1 - rarest) / (rarest * n)) ** 0.5
    assert found["rms_error_of_the_shares"] < found["largest_error_of_a_share"]
    # exp(-FAR^2 / 2) of the plane's normal law lies beyond FAR standard deviations.
    assert found["share_between_modes"] == pytest.approx(0.000335, abs=0.0004)
    assert abs(found["excess_w2"]) < 0.1


def test_what_is_wrong_with_samples_of_the_triangle_is_seen(scripts):
    triangle = scripts[2]
    law = triangle.LAW
    one_mode = law.modes[3] + 0.5 * triangle.STD * torch.randn(
        1000, 2, generator=item_generator(0, 0), dtype=torch.float64
    )
    found = triangle.scores(one_mode, {"w2": Resampled(triangle.data, 100, 3)})
    assert found["largest_error_of_a_share"] == pytest.approx(float(1 / law.weights[3] - 1), rel=1e-5)
    assert found["excess_w2"] > 0.5
    between = (law.modes[0] + law.modes[1]) / 2
    assert triangle.scores(between.expand(200, 2), {})["share_between_modes"] == float(4 * triangle.STD < 0.5)


def test_every_method_of_the_triangle_trains_and_draws(scripts, tmp_path):
    harness, _, triangle = scripts
    x = triangle.data(400, item_generator(0, 0))
    config = TrainingConfig(steps=2, batch_size=64, warmup=0, evaluate_every=10)
    bench = harness.Benchmark(tmp_path, {"training": {"steps": config.steps}})
    assert len({method.folder for method in triangle.METHODS + triangle.SWEEP}) == 9
    for method in triangle.METHODS:
        model = triangle.trained(method, x, config, bench)
        for draw in model["priors"]:
            samples = triangle.generated(model, draw, 50, seed=1)
            assert samples.shape == (50, 2), (method, draw)
            assert samples.isfinite().all(), (method, draw)
            assert torch.equal(samples, triangle.generated(model, draw, 50, seed=1)), (method, draw)
        assert (model["encoder_parameters"] > 0) == (method.latent != "none"), method


def test_the_exact_velocity_of_the_primer_has_the_least_loss(scripts):
    primer = scripts[1]
    least, error = primer.EXACT.minimum("velocity", 50_000, item_generator(0, 1))

    def network(x, t, z=None):
        return primer.exact(x, t)

    loss = primer.loss_of(network, FlowMatching(source=primer.Drawn(primer.source)), 10)
    assert loss == pytest.approx(float(least), abs=5 * float(error) + 0.02 * float(least))


@pytest.mark.slow
def test_the_primer_runs_and_goes_on(scripts, tmp_path, monkeypatch):
    primer = scripts[1]
    results = run(primer, monkeypatch, tmp_path, "--quick")
    assert [row["method"] for row in results.rows] == ["data", "exact velocity", "I-CFM"]
    assert 0 < results.rows[2]["excess_loss"] < 0.5
    assert {p.file for p in results.pictures} == {p.name for p in tmp_path.glob("*.png")}
    with Image.open(tmp_path / "flow.png") as image:
        assert image.n_frames == primer.FRAMES + 1
    monkeypatch.setattr(primer, "scores", None)
    assert run(primer, monkeypatch, tmp_path, "--quick").rows == results.rows


@pytest.mark.slow
def test_the_triangle_runs(scripts, tmp_path, monkeypatch):
    results = run(scripts[2], monkeypatch, tmp_path, "--quick")
    methods = [row["method"] for row in results.rows if row["part"] == "methods" and row["published"]]
    assert methods == ["data", *(method.name for method in scripts[2].METHODS)]
    assert all((tmp_path / p.file).exists() for p in results.pictures)


def test_samples_of_the_triangle_that_are_not_finite_are_counted(scripts):
    triangle = scripts[2]
    x = triangle.data(1000, item_generator(0, 0))
    broken = torch.cat([x, torch.full((3, 2), float("nan"))])
    assert triangle.scores(broken, {}) == triangle.scores(x, {}) | {"missing": 3}
