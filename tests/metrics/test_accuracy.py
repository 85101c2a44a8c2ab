"""Classification metrics against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as reference

from shapjax.metrics import accuracy


@pytest.fixture
def logits_and_labels(rng):
    return 5 * rng.normal(size=(200, 7)).astype(np.float32), rng.integers(0, 7, 200)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_agrees_with_scikit_learn(logits_and_labels, k):
    logits, labels = logits_and_labels
    expected = reference.top_k_accuracy_score(labels, logits, k=k, labels=np.arange(7))
    assert accuracy.top_k_correct(logits, labels, k=k).mean() == pytest.approx(expected)


def test_with_k_of_all_classes_or_more_everything_is_right(logits_and_labels):
    assert all(accuracy.top_k_correct(*logits_and_labels, k=k).all() for k in (7, 10))


def test_a_logit_that_is_no_number_is_never_right():
    assert not accuracy.top_k_correct(np.full((2, 3), np.nan, np.float32), np.array([0, 2]), k=5).any()


def test_cross_entropy_agrees_with_scikit_learn(logits_and_labels):
    logits, labels = logits_and_labels
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = reference.log_loss(labels, probabilities, labels=np.arange(7))
    assert accuracy.cross_entropy(logits, labels).mean() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_certain_mistakes_is_finite_and_exact():
    assert accuracy.cross_entropy(np.array([[1000.0, -1000.0]]), np.array([1])) == pytest.approx(2000.0)
    assert accuracy.cross_entropy(np.array([[1000.0, -1000.0]]), np.array([0])) == 0.0
