"""Selection of samples by a score, and the shift that it states."""

import numpy as np
import pytest
import xarray as xr

from physflow.fields import SAMPLE
from physflow.selection import candidates, selected, shift_of


def samples(scores, fields):
    """Samples of one positive and one signed field, and their scores."""
    K = np.asarray(fields, dtype=np.float64)
    dims = (SAMPLE, "x")
    return xr.Dataset({"K": (dims, np.exp(K)), "p": (dims, K), "score": (SAMPLE, np.asarray(scores, dtype=np.float64))})


def test_the_least_scores_are_kept_in_the_order_of_the_samples():
    ds = samples([3, 1, np.nan, 2, 0], np.arange(10.0).reshape(5, 2))
    kept = selected(ds, 3, "score", ("K", "p"))
    assert kept["score"].values.tolist() == [1, 2, 0]
    assert kept["p"].values[:, 0].tolist() == [2, 6, 8]
    assert (kept.attrs["selected_from"], kept.attrs["selected_by"]) == (5, "score")


def test_the_shift_is_that_of_the_moments():
    G = np.random.default_rng(0).normal(size=(200, 6)) * np.linspace(0.5, 2, 200)[:, None]
    ds = samples(np.arange(200), G)
    kept = selected(ds, 50, "score", ("K", "p"))
    for shift, name in zip(shift_of(ds, kept, ("K", "p")), ("log K", "p"), strict=True):
        assert shift.field == name
        assert shift.mean == pytest.approx((G[:50].mean() - G.mean()) / G.std(), rel=1e-9)
        assert shift.std == pytest.approx(G[:50].std() / G.std(), rel=1e-9)
        ratio = G[:50].var(0, ddof=1).mean() / G.var(0, ddof=1).mean()
        assert shift.spread == pytest.approx(ratio**0.5, rel=1e-9)
        assert str(shift) in kept.attrs["selection_shift"]
        assert shift.std < 0.7


def test_few_samples_taken_at_random_keep_the_spread():
    G, rng = np.random.default_rng(0).normal(size=(400, 50)), np.random.default_rng(1)
    ds = samples(range(400), G)
    found = [shift_of(ds, ds.isel({SAMPLE: rng.choice(400, 4, replace=False)}), ("p",))[0].spread for _ in range(100)]
    # The variance of four samples is that of all on average; its root, over 50 points, a little less.
    assert abs(np.square(found).mean() - 1) < 4 * np.square(found).std() / 10
    assert np.isnan(shift_of(ds, ds.isel({SAMPLE: [0]}), ("p",))[0].spread)


def test_the_shift_is_printed_if_asked(capsys):
    selected(samples(range(4), np.arange(8.0).reshape(4, 2)), 2, "score", ("p",))
    assert capsys.readouterr().out == ""
    selected(samples(range(4), np.arange(8.0).reshape(4, 2)), 2, "score", ("p",), show=True)
    assert capsys.readouterr().out.startswith("2 of 4 samples by score; p: mean moved by -0.87")


def test_fields_that_are_constant_or_missing_have_no_shift():
    ds = samples(range(3), np.ones((3, 2)))
    assert np.isnan(shift_of(ds, ds, ("p",))[0].std)
    ds["p"][:] = np.nan
    assert np.isnan(shift_of(ds, ds, ("p",))[0].spread)


def test_samples_that_are_not_finite_do_not_count():
    ds = samples(range(3), [[0.0, 1.0], [2.0, 3.0], [np.nan, 1.0]])
    shift = shift_of(ds, ds.isel({SAMPLE: [0, 1]}), ("p",))[0]
    assert (shift.mean, shift.std) == (0, 1)


@pytest.mark.parametrize(
    ("n", "share", "expected"), [(10, 1, 10), (10, 0.1, 100), (3, 0.7, 5), (0, 0.5, 0), (7, 0.07, 100)]
)
def test_as_many_are_drawn_as_the_share_asks(n, share, expected):
    assert candidates(n, share) == expected


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        candidates(10, share)


def test_what_cannot_be_selected_is_refused():
    ds = samples([1, np.nan], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="cannot select by 'scor'; did you mean 'score'"):
        selected(ds, 1, "scor", ("p",))
    with pytest.raises(ValueError, match="the samples have no scores"):
        selected(ds.drop_vars("score"), 1, "score", ("p",))
    with pytest.raises(ValueError, match="only 1 of 2 have a finite score: draw more"):
        selected(ds, 2, "score", ("p",))


def test_to_select_solutions_by_their_rounding_is_refused():
    ds = samples([3e-8, 1e-8, 2e-8], np.zeros((3, 2))).rename(score="solution_error")
    with pytest.raises(ValueError, match=r"which is rounding, as after completion.*draw lots"):
        selected(ds, 2, "solution_error", ("p",))
