"""The results that an evaluation has left are read back for the same question and model only."""

import csv
import json

import numpy as np
import pytest

from shapjax.evaluation import files
from shapjax.games import classifier, removal

RESULT = {"metric/deletion": np.arange(3.0), "curve/deletion": np.ones((3, 5), np.float32)}


@pytest.fixture
def cache(game, tmp_path):
    cache = files.Cache(tmp_path / "methods", game.model, game.images)
    cache.save("phi", "mark", RESULT)
    return cache


def test_what_is_saved_is_read_back_under_its_own_mark_only(cache, game, tmp_path):
    found = cache.load("phi", "mark")
    assert found.keys() == RESULT.keys()
    for name in RESULT:
        np.testing.assert_array_equal(found[name], RESULT[name])
    assert cache.load("phi", "other") is None and cache.load("random", "mark") is None
    assert files.Cache(tmp_path / "methods", game.model, game.images, fresh=True).load("phi", "mark") is None


def test_a_broken_file_counts_as_none(cache, tmp_path):
    path = tmp_path / "methods" / "phi.npz"
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:200] + bytes(20) + whole[220:]):
        path.write_bytes(content)
        assert cache.load("phi", "mark") is None


def test_results_of_other_parameters_or_another_way_to_hide_patches_are_not_taken(cache, game, tmp_path):
    other = {name: x + 1e-6 for name, x in game.model.params.items()}
    changed = files.Cache(tmp_path / "methods", game.model.replace(params=other), game.images)
    assert changed.mark({}) != cache.mark({}) == files.Cache(tmp_path, game.model, game.images).mark({})
    # Functions have no mark; the values of a coalition pair tell them apart.
    painted = classifier.painted(game.model, removal.Constant(0.4))
    assert files.Cache(tmp_path / "methods", painted, game.images).load("phi", "mark") is None


def test_the_fingerprint_sees_every_setting_and_every_number(rng):
    array = rng.normal(size=(3, 2))
    mark = files.fingerprint({"seed": 0}, array)
    assert mark == files.fingerprint({"seed": 0}, array.copy())
    changed = array.copy()
    changed[2, 1] += 1e-9
    others = [files.fingerprint({"seed": 1}, array), files.fingerprint({"seed": 0}, changed),
              files.fingerprint({"seed": 0}, array.reshape(2, 3)), files.fingerprint({"seed": 0}),
              files.fingerprint({"seed": 0}, array.astype(np.float32))]
    assert len({mark, *others}) == 6


def test_the_csv_holds_means_with_their_ends_and_costs_and_leaves_out_what_is_undefined(tmp_path):
    value = {"mean": 0.5, "low": 0.25, "high": 0.75}
    summary = {"metrics": [{"key": "aopc"}, {"key": "map"}], "methods": [
        {"key": "phi", "values": {"aopc": value, "map": None}, "cost": {"passes": 1.0, "seconds": 0.1,
                                                                        "peak_bytes": None}}]}
    files.write_comparison(tmp_path / "run", summary, RESULT)
    with (tmp_path / "run" / "methods.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row == {"method": "phi", "aopc": "0.5", "aopc_low": "0.25", "aopc_high": "0.75", "map": "", "map_low": "",
                   "map_high": "", "passes": "1.0", "seconds": "0.1", "peak_bytes": ""}
    assert json.loads((tmp_path / "run" / "methods.json").read_text()) == summary
    with np.load(tmp_path / "run" / "methods.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == set(RESULT)
