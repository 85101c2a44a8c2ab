"""The table tells differences between methods from chance, and better from worse."""

import numpy as np
import pytest

from shapjax.attribution.registry import METHODS
from shapjax.evaluation import table
from shapjax.metrics.registry import METRICS

KEYS = ("phi", "random", "rise")


def result(values, metric, **others):
    curves = {f"curve/{name}": np.full((len(values), 2), i) for i, name in enumerate(table.CURVES)}
    return {f"metric/{metric}": np.array(values), "cost/passes": 2.0, "cost/seconds": 3.0, "cost/peak_bytes": np.nan,
            **curves, **others}


def column(*values, metric="deletion", **others):
    """Returns the entries of one metric, from each method's values an image."""
    keys = KEYS[: len(values)]
    found = {key: result(v, metric.removesuffix("_correct"), **others) for key, v in zip(keys, values, strict=True)}
    rows = table.summarize(found, [METHODS[key] for key in keys], [METRICS[metric]], coalitions=2048)
    return [row["values"][metric] for row in rows]


def test_what_is_not_worse_is_decided_image_by_image_not_by_overlapping_intervals(rng):
    level = rng.normal(size=60)  # images differ far more than methods
    best, slightly, noisy = column(level, level + 0.1, level + rng.normal(size=60) * 3 + 0.01)
    assert best["best"] and best["not_worse"] and best["difference"] is None
    assert slightly["low"] < best["high"]  # the intervals overlap, and yet:
    assert not slightly["not_worse"] and slightly["difference"]["low"] == pytest.approx(0.1)
    assert noisy["not_worse"] and not noisy["best"]


@pytest.mark.parametrize(("metric", "sign"), [("deletion", -1), ("insertion", 1)])
def test_better_has_a_direction(metric, sign, rng):
    level = rng.normal(size=40)
    best, worse = column(level, level - sign, metric=metric)
    assert best["best"] and not worse["best"] and not worse["not_worse"]


@pytest.mark.parametrize(("metric", "sign"), [("deletion", -1), ("insertion", 1)])
def test_a_method_that_is_better_on_every_common_image_is_not_worse(metric, sign, rng):
    """The method with the best mean is undefined on the hard images."""
    level = np.concatenate([rng.normal(size=20), np.full(20, -10 * sign)])
    easy_only = np.where(np.arange(40) < 20, level - 0.1 * sign, np.nan)
    best, other = column(easy_only, level, metric=metric)
    assert best["best"] and best["images"] == 20 and not other["best"]
    assert other["difference"]["mean"] == pytest.approx(0.1 * sign) and other["difference"]["low"] * sign > 0
    assert other["not_worse"]


def test_a_metric_that_is_undefined_for_all_images_is_null_and_for_some_counts_the_rest():
    undefined, some = column([np.nan] * 4, [np.nan, 1.0, 2.0, 3.0])
    assert undefined is None and some["images"] == 3 and some["mean"] == 2 and some["best"]


@pytest.mark.parametrize("metric", ["sparseness", "infidelity"])
def test_metrics_that_cannot_rank_have_no_best(metric):
    assert not any(entry["best"] or entry["not_worse"] for entry in column([1.0, 2.0], [3.0, 4.0], metric=metric))


def counts(correct, labeled, inside, union):
    return [correct, labeled, *inside, *union]


def test_segmentation_is_counted_over_the_dataset_and_of_correct_images_leaves_the_others_out():
    rows = [counts(6, 10, (4, 2), (7, 7)), counts(20, 20, (15, 5), (15, 5)), counts(1, 40, (1, 0), (20, 40))]
    correct = np.array([True, True, False])
    found = {name: column(rows, metric=name, correct=correct)[0] for name in (
        "pixel_accuracy", "miou", "pixel_accuracy_correct", "miou_correct")}
    assert found["pixel_accuracy"]["mean"] == pytest.approx(27 / 70)
    assert found["pixel_accuracy_correct"]["mean"] == pytest.approx(26 / 30)
    assert found["miou"]["mean"] == pytest.approx((20 / 42 + 7 / 52) / 2)
    assert found["miou_correct"]["mean"] == pytest.approx((19 / 22 + 7 / 12) / 2)
    assert [entry["images"] for entry in found.values()] == [3, 3, 2, 2]
    assert column([0.5, 0.7, 0.1], metric="map_correct", correct=correct)[0]["mean"] == pytest.approx(0.6)
    assert column([0.5, 0.7, 0.1], metric="map_correct", correct=~correct & correct) == [None]


def test_segmentation_of_two_methods_is_compared_on_the_same_images(rng):
    good = np.array([counts(9, 10, (5, 4), (6, 5))] * 30)
    worse = good - np.array(counts(2, 0, (1, 1), (-1, -1)))
    best, other = column(good, worse, metric="miou")
    assert best["best"] and not other["not_worse"]
    assert other["difference"]["mean"] == pytest.approx((4 / 7 + 3 / 6) / 2 - (5 / 6 + 4 / 5) / 2)


def test_a_row_says_what_a_method_is_and_costs():
    found = {key: result([1.0, 2.0], "aopc") for key in ("kernel_shap", "phi")}
    found["phi"]["cost/peak_bytes"] = 7.0
    sampled, phi = table.summarize(found, [METHODS[key] for key in found], [METRICS["aopc"]], coalitions=2048)
    assert sampled["key"] == "kernel_shap" and sampled["title"] == METHODS["kernel_shap"].title
    assert sampled["options"] == "2\u00a0048 coalitions" and phi["options"] == ""
    assert sampled["cost"] == {"passes": 2, "seconds": 3, "peak_bytes": None} and phi["cost"]["peak_bytes"] == 7
    assert [phi["curves"][name] for name in table.CURVES] == [[i, i] for i in range(4)]
    line = table.line(phi)
    assert line.startswith("phi ") and "aopc 1.50" in line and "3 s an image" in line
