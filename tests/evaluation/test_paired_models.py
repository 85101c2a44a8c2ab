"""Two models on the same images: differences are paired by image, and of the same images only."""

import json

import numpy as np
import pytest

from shapjax.errors import UserError
from shapjax.evaluation import paired_models

N, EXPLAINED = 200, 30


def write(directory, *, seed=0, better=0.0, labels=None, step=7, images=EXPLAINED):
    """Writes an evaluation of a model whose luck is that of the images, and who is better by so much."""
    images_rng, rng = np.random.default_rng(0), np.random.default_rng(seed)
    luck, labels = images_rng.uniform(size=N), images_rng.integers(0, 3, images) if labels is None else labels
    truth = images_rng.normal(size=(images, 2, 2, 3))
    directory.mkdir()
    np.savez(directory / "eval.npz", labels=labels, correct=luck < 0.8 + better, cross_entropies=luck - better,
             correct_under_removal=(luck[:100, None] < 1 + better - np.arange(10) / 10).astype(np.float32),
             ground_truth=truth, shapley=truth + (0.3 - better) * rng.normal(size=truth.shape))
    (directory / "eval.json").write_text(json.dumps({"step": 7}))
    (directory / "methods").mkdir()
    (directory / "methods.json").write_text(json.dumps({
        "step": step, "metrics": [{"key": "deletion"}, {"key": "sparseness"}],
        "methods": [{"key": "phi", "title": "phi"}]}))
    np.savez(directory / "methods" / "phi.npz", **{
        "metric/deletion": luck[:images] - better, "metric/sparseness": luck[:images]})
    return directory


def test_differences_are_paired_by_image(tmp_path):
    rows = paired_models.compare(write(tmp_path / "a", better=0.1), write(tmp_path / "b", seed=1))
    rows = {row["key"]: row for row in rows}
    assert list(rows) == ["accuracy", "half_removed", "cross_entropy", "r2", "r2_shares", "phi/deletion"]
    entropy, deletion = rows["cross_entropy"], rows["phi/deletion"]
    # Between images they vary by 0.3, between the two models of one image not at all.
    for row, images in ((entropy, N), (deletion, EXPLAINED)):
        assert row["images"] == images and row["better"] == "lower"
        assert list(row["difference"].values()) == pytest.approx([-0.1] * 3, abs=1e-9)
        assert row["one"] - row["other"] == pytest.approx(-0.1)
    luck = np.random.default_rng(0).uniform(size=N)[:100]
    assert rows["half_removed"]["other"] == pytest.approx(np.mean(luck < 0.5))
    assert rows["accuracy"]["images"] == N and rows["half_removed"]["images"] == 100
    assert rows["accuracy"]["difference"]["low"] > 0 and rows["r2"]["difference"]["low"] > 0
    assert json.loads(json.dumps(list(rows.values()), allow_nan=False)) == list(rows.values())


def test_methods_of_an_earlier_checkpoint_and_metrics_of_one_model_are_left_out(tmp_path):
    one, other = write(tmp_path / "a"), write(tmp_path / "b", step=6)
    assert [row["key"] for row in paired_models.compare(one, other)] == [
        "accuracy", "half_removed", "cross_entropy", "r2", "r2_shares"]


@pytest.mark.parametrize("changes", [{"labels": np.zeros(EXPLAINED, int)}, {"images": 20}])
def test_other_images_are_refused(tmp_path, changes):
    with pytest.raises(UserError, match="evaluations of different images"):
        paired_models.compare(write(tmp_path / "a"), write(tmp_path / "b", **changes))
