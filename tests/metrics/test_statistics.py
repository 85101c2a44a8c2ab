"""Bootstrap intervals: coverage, agreement with scipy, pairs, ratios of sums, undefined values."""

import numpy as np
import pytest
from scipy import stats

from shapjax.metrics import statistics


def test_95_of_100_intervals_hold_the_true_mean(rng):
    values = rng.exponential(size=(120, 1000))  # 1000 experiments of 120 images, true mean 1
    interval = statistics.bootstrap_mean(values, resamples=1000)
    coverage = np.mean((interval.low <= 1) & (1 <= interval.high))
    assert 0.92 <= coverage <= 0.97  # skewed values are covered slightly less than normal ones
    assert (interval.n == 120).all() and interval.mean.shape == (1000,)


@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_the_interval_is_that_of_scipy(rng, confidence):
    values = rng.gamma(2, size=80)
    ours = statistics.bootstrap_mean(values, confidence=confidence, resamples=40_000)
    theirs = stats.bootstrap((values,), np.mean, confidence_level=confidence, n_resamples=40_000, method="percentile",
                             rng=np.random.default_rng(1)).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert [ours.low, ours.high] == pytest.approx([*theirs], abs=0.02 * (theirs.high - theirs.low))


def test_undefined_values_are_left_out_and_not_counted(rng):
    values = rng.normal(size=(60, 3))
    values[:25, 0] = np.nan
    values[:, 2] = np.nan
    interval = statistics.bootstrap_mean(values, resamples=4000)
    np.testing.assert_array_equal(interval.n, [35, 60, 0])
    np.testing.assert_allclose(interval.mean[:2], [values[25:, 0].mean(), values[:, 1].mean()])
    assert np.isnan([interval.mean[2], interval.low[2], interval.high[2]]).all()
    alone = statistics.bootstrap_mean(values[25:, 0], resamples=4000)
    assert interval.high[0] - interval.low[0] == pytest.approx(alone.high - alone.low, rel=0.1)


def test_one_image_has_no_width():
    assert statistics.bootstrap_mean(np.array([2.5, np.nan]), resamples=50) == (2.5, 2.5, 2.5, 1)


def test_pairs_share_what_makes_images_easy_or_hard(rng):
    difficulty = rng.normal(size=300) * 10
    a, b = difficulty + 0.5 + 0.1 * rng.normal(size=300), difficulty
    b[:100] = np.nan
    paired = statistics.paired_difference(a, b, resamples=2000)
    assert paired.n == 200 and paired.mean == pytest.approx((a - b)[100:].mean())
    assert 0.45 < paired.low < 0.5 < paired.high < 0.55
    assert statistics.bootstrap_mean(a, resamples=2000).high - statistics.bootstrap_mean(a, resamples=2000).low > 1


def test_every_method_is_resampled_alike_with_a_seed(rng):
    values = rng.normal(size=(50, 2))
    both = statistics.bootstrap_mean(values, resamples=300)
    for column in range(2):
        alone = statistics.bootstrap_mean(values[:, column], resamples=300)
        assert (alone.low, alone.high) == pytest.approx((both.low[column], both.high[column]), rel=1e-12)
    assert statistics.bootstrap_mean(values, resamples=300, seed=1).low[0] != both.low[0]


def test_a_ratio_of_sums_is_resampled_by_images_not_by_ratios(rng):
    parts, wholes = rng.uniform(size=(40, 2)), rng.uniform(1, 9, size=(40, 2))
    rows = {"intersection": parts * wholes, "union": wholes}

    def mean_ratio(sums):
        return (sums["intersection"] / sums["union"]).mean(axis=-1)

    interval = statistics.bootstrap(mean_ratio, rows, resamples=3000)
    assert interval.mean == pytest.approx(
        (rows["intersection"].sum(axis=0) / rows["union"].sum(axis=0)).mean()) and interval.n == 40
    draws = rng.integers(40, size=(3000, 40))
    direct = (rows["intersection"][draws].sum(axis=1) / rows["union"][draws].sum(axis=1)).mean(axis=-1)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(direct, [0.025, 0.975]), abs=0.02)


def test_nothing_to_average_or_pair_is_refused():
    with pytest.raises(ValueError, match="0 images at confidence 0.95"):
        statistics.bootstrap_mean(np.zeros(0))
    with pytest.raises(ValueError, match="1 images at confidence 95"):
        statistics.bootstrap_mean(np.zeros(1), confidence=95)
    with pytest.raises(ValueError, match="paired values of 3 and 4 images"):
        statistics.paired_difference(np.zeros(3), np.zeros(4))
