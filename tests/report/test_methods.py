"""The comparison of methods: the table, the curves and the explorer show the numbers in the files."""

import base64
import json

import numpy as np
import pytest

from shapjax.report import charts, formatting, methods, reading

KEYS = ("random", "gradient", "kernel_shap", "exact", "phi")


def read_comparison(run):
    return reading.read_comparison(run, step=1200)


@pytest.fixture
def run(tmp_path, make_methods):
    return make_methods(tmp_path, keys=KEYS)


@pytest.fixture
def comparison(run):
    return read_comparison(run)


def change_summary(run, change):
    summary = json.loads((run / "methods.json").read_text())
    change(summary)
    (run / "methods.json").write_text(json.dumps(summary))


def change_arrays(run, **changes):
    with np.load(run / "methods.npz") as file:
        arrays = {name: value for name, value in ({**file} | changes).items() if value is not None}
    np.savez(run / "methods.npz", **arrays)


def test_a_run_without_a_comparison_has_none(tmp_path):
    assert read_comparison(tmp_path) is None


def test_rows_are_sorted_by_deletion_and_what_is_undefined_comes_last(run):
    table = methods.table(read_comparison(run))
    index = [column["key"] for column in table["columns"]].index("deletion")
    numbers = [row["cells"][index]["sort"] for row in table["rows"]]
    assert numbers == sorted(numbers)
    assert (table["sorted_by"], table["direction"]) == ("deletion", "ascending")

    def only_r2(summary):
        summary["metrics"] = [metric for metric in summary["metrics"] if metric["key"] == "shapley_r2"]

    change_summary(run, only_r2)
    table = methods.table(read_comparison(run))
    first = [row["cells"][0]["sort"] for row in table["rows"]]
    defined = [number for number in first if number is not None]
    assert table["direction"] == "descending" and defined == sorted(defined, reverse=True)
    assert first[len(defined):] == [None] * 2


def test_cells_say_mean_interval_difference_and_mark(comparison):
    table = methods.table(comparison)
    keys = [column["key"] for column in table["columns"]]
    for method in comparison.summary["methods"]:
        row = next(row for row in table["rows"] if row["key"] == method["key"])
        for metric in comparison.summary["metrics"]:
            value, cell = method["values"][metric["key"]], row["cells"][keys.index(metric["key"])]
            if value is None:
                assert (cell["text"], cell["best"], cell["not_worse"]) == ("undefined", False, False)
                continue
            assert cell["text"] == formatting.decimal(value["mean"], digits=metric["digits"])
            assert formatting.decimal(value["low"], digits=metric["digits"]) in cell["interval"]
            assert cell["best"] == value["best"]
            assert cell["not_worse"] == (value["not_worse"] and not value["best"])
            assert bool(cell["difference"]) == (value["difference"] is not None)
        cost = method["cost"]
        passes, seconds, memory = (cell["text"] for cell in row["cells"][-3:])
        assert (passes, seconds) == (formatting.passes(cost["passes"]), formatting.duration(cost["seconds"]))
        assert memory == formatting.size(cost["peak_bytes"])
    assert [row["key"] for row in table["rows"] if row["own"]] == ["phi"]


def test_a_chart_places_points_between_its_ends():
    chart = charts.fraction_chart([charts.Line("a", "A", [(0.0, 0.2), (0.25, 0.4), (1.0, 0.3)])], x_end=1.0)
    pairs = chart["lines"][0]["points"].split()
    (x0, y0), (x1, y1), (x2, y2) = ([float(part) for part in pair.split(",")] for pair in pairs)
    assert (x0, x2) == (charts.LEFT, charts.RIGHT)
    assert x1 == pytest.approx(charts.LEFT + 0.25 * (charts.RIGHT - charts.LEFT))
    for y, value in ((y0, 0.2), (y1, 0.4), (y2, 0.3)):
        share = (charts.BOTTOM - y) / (charts.BOTTOM - charts.TOP)
        assert chart["low"] + share * (chart["high"] - chart["low"]) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_curve_is_drawn(value):
    chart = charts.fraction_chart([charts.Line("a", "A", [(0.0, value), (1.0, value)])], x_end=1.0)
    assert 0 <= chart["low"] <= value <= chart["high"] <= 1 and chart["low"] < chart["high"]
    assert len(chart["y_ticks"]) >= 2


def test_perturbation_curves_end_at_90_percent(comparison):
    found = {chart["title"]: chart for chart in methods.curves(comparison)["charts"]}
    assert found["Deletion"]["x_end"] == 1.0 and found["Positive perturbation"]["x_end"] == 0.9
    xs = [float(pair.split(",")[0]) for pair in found["Negative perturbation"]["lines"][0]["points"].split()]
    assert len(xs) == 10 and xs[-1] == charts.RIGHT
    np.testing.assert_allclose(np.diff(xs), (charts.RIGHT - charts.LEFT) / 9, atol=0.02)


def test_the_models_own_line_lies_above_the_others(comparison):
    for chart in methods.curves(comparison)["charts"]:
        assert chart["lines"][-1]["key"] == "phi"


def test_curves_that_were_not_measured_are_left_out(run):
    change_summary(run, lambda summary: [method["curves"].pop("positive") for method in summary["methods"]])
    titles = [chart["title"] for chart in methods.curves(read_comparison(run))["charts"]]
    assert titles == ["Insertion", "Deletion", "Negative perturbation"]
    change_summary(run, lambda summary: [method["curves"].clear() for method in summary["methods"]])
    assert methods.curves(read_comparison(run)) is None


def test_the_budget_axis_is_logarithmic_and_r2_below_0_stays_on_the_chart():
    chart = charts.budget_chart([charts.Line("kernel_shap", "KernelSHAP", [(64, -3.0), (128, 0.5), (1024, 0.9)])])
    xs, ys = zip(*(map(float, pair.split(",")) for pair in chart["lines"][0]["points"].split()), strict=True)
    assert (xs[2] - xs[0]) == pytest.approx(4 * (xs[1] - xs[0]), abs=0.05)
    assert max(ys) <= charts.BOTTOM


def test_the_explorers_numbers_are_those_of_the_file(run, comparison):
    explorer = methods.explorer(comparison)
    with np.load(run / "methods.npz") as file:
        names, attributions, deleted = [str(name) for name in file["methods"]], file["attributions"], file["deleted"]
    places = [names.index(method["key"]) for method in explorer["data"]["methods"]]
    assert [names[place] for place in places] == ["phi", "exact", "kernel_shap", "gradient", "random"]
    for name, array in (("attributions", attributions), ("deleted", deleted)):
        sent = np.frombuffer(base64.b64decode(explorer["data"][name]), np.float32).reshape(array.shape)
        np.testing.assert_array_equal(sent, array[places])
    order = np.frombuffer(base64.b64decode(explorer["data"]["order"]), np.uint16).reshape(attributions.shape)
    ranked = np.take_along_axis(attributions[places], order.astype(int), axis=-1)
    half_width = np.frombuffer(base64.b64decode(explorer["data"]["half_width"]), np.float32)
    np.testing.assert_array_equal(half_width.reshape(attributions.shape[1:]), comparison.arrays["half_width"])
    older = {name: array for name, array in comparison.arrays.items() if name != "half_width"}
    assert methods.explorer(comparison._replace(arrays=older))["data"]["half_width"] is None
    assert (np.diff(ranked, axis=-1) <= 0).all()


def test_a_comparison_without_images_has_no_explorer(run, comparison):
    arrays = {name: comparison.arrays[name] for name in ("images", "labels", "probabilities", "classes")}
    empty = {name: array[:0] for name, array in arrays.items()}
    change_arrays(run, **empty, attributions=comparison.arrays["attributions"][:, :0],
                  deleted=comparison.arrays["deleted"][:, :0], order=comparison.arrays["order"][:, :0])
    assert methods.explorer(read_comparison(run)) is None
