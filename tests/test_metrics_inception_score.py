"""The Inception Score: closed forms, the definition, parts, errors."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from physflow.metrics import InceptionScore, inception_score


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("classes", [1, 2, 1008])
def test_a_classifier_that_says_the_same_of_all_has_one(classes):
    found = inception_score(torch.zeros(20, classes), "logits")
    assert found.mean == pytest.approx(1, abs=1e-12)
    assert found.std == pytest.approx(0, abs=1e-12)
    p = normal(1, classes).softmax(1).expand(20, -1)
    assert inception_score(p, "probabilities").mean == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_sure_predictions_of_k_balanced_classes_have_k(k):
    """Of ten classes, the others never occur."""
    p = torch.eye(10)[torch.arange(k).repeat(30)]
    assert inception_score(p, "probabilities", 10).mean == pytest.approx(k)
    assert inception_score(1000 * p, "logits", 3) == InceptionScore(pytest.approx(k), pytest.approx(0, abs=1e-12))


def test_two_classes_of_unequal_share_have_the_exponential_of_the_entropy():
    p = torch.eye(2)[torch.tensor([0, 0, 0, 1])]
    assert inception_score(p, "probabilities", 1).mean == pytest.approx(math.exp(entropy([0.75, 0.25])))


def test_it_is_the_definition_for_each_part():
    """103 samples in 10 parts of 10 or 11 consecutive ones."""
    logits = 2 * normal(103, 5)
    p = logits.softmax(1).numpy()
    parts = [p[i * 103 // 10 : (i + 1) * 103 // 10] for i in range(10)]
    scores = [np.exp(np.mean([entropy(row, part.mean(0)) for row in part])) for part in parts]
    found = inception_score(logits, "logits")
    assert (found.mean, found.std) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))
    assert inception_score(torch.from_numpy(p), "probabilities") == InceptionScore(
        pytest.approx(found.mean), pytest.approx(found.std)
    )


def test_one_sample_in_each_part_has_one():
    assert inception_score(normal(10, 4), "logits") == InceptionScore(pytest.approx(1), pytest.approx(0, abs=1e-12))
    assert inception_score(normal(1, 4), "logits", 1).std == 0


def test_probabilities_in_half_precision_are_scaled_to_one():
    logits = normal(50, 1000)
    expected = inception_score(logits, "logits", 1).mean
    assert inception_score(logits.softmax(1).half(), "probabilities", 1).mean == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("predictions", "kind", "splits", "message"),
    [
        (torch.zeros(10, 2), "scores", 1, "kind must be 'logits' or 'probabilities', got 'scores'"),
        (torch.zeros(10), "logits", 1, r"of shape \(n, classes\), got \(10,\)"),
        (torch.zeros(10, 0), "logits", 1, r"of shape \(n, classes\), got \(10, 0\)"),
        (torch.zeros(0, 3), "logits", 1, "splits=1 for 0 samples"),
        (torch.zeros(9, 3), "logits", 10, "a sample in each, got splits=10 for 9 samples"),
        (torch.zeros(9, 3), "logits", 0, "expected at least one part .* splits=0"),
        (torch.tensor([[0.0, float("nan")]]), "logits", 1, "NaN or infinite"),
        (torch.tensor([[0.5, 0.4]]), "probabilities", 1, "off by 0.1; are these logits"),
        (torch.tensor([[1.5, -0.5]]), "probabilities", 1, "got a least of -0.5"),
    ],
)
def test_predictions_that_have_no_score_are_refused(predictions, kind, splits, message):
    with pytest.raises(ValueError, match=message):
        inception_score(predictions, kind, splits)
