"""The metrics by name."""

import pytest

from shapjax.errors import UserError
from shapjax.metrics import registry


def test_metrics_that_need_masks_or_true_values_come_with_them():
    without = {metric.key for metric in registry.applicable(truth=False, masks=False)}
    assert {"deletion", "road"} <= without and not {"shapley_pearson", "map", "miou_correct"} & without
    assert {metric.key for metric in registry.applicable(truth=True, masks=True)} == set(registry.METRICS)


def test_unknown_metrics_and_those_without_their_data_are_refused_in_one_line():
    assert [m.key for m in registry.select(["road", "aopc", "road"], truth=False, masks=False)] == ["road", "aopc"]
    with pytest.raises(UserError, match="'insertoin'; did you mean insertion"):
        registry.select(["insertoin"], truth=True, masks=True)
    with pytest.raises(UserError, match="'map' needs masks of the objects"):
        registry.select(["map"], truth=True, masks=False)
    with pytest.raises(UserError, match="'shapley_pearson' needs true Shapley values"):
        registry.select(["shapley_pearson"], truth=False, masks=True)
