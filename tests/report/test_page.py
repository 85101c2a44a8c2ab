"""The report as a reader gets it: complete, self-contained, escaped, the same every time; or one clear line."""

import base64
import hashlib
import html.parser
import io
import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from shapjax.cli import report as report_command
from shapjax.errors import UserError
from shapjax.report import formatting, gallery, page, pictures
from shapjax.report.reading import read_run

NAMES = ["<b>cat</b>", "dog & bone", "$x$ \"quoted\"", "bird"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_run):
    base = tmp_path_factory.mktemp("runs")
    return [make_run(base / "model"), make_run(base / "baseline", noise=3.0, weight=0.0, accuracy_top1=0.912, seed=1)]


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    """Returns the text of a page about a model and its baseline model."""
    return page.write_report(tmp_path_factory.mktemp("report"), runs).read_text("utf-8")


@pytest.fixture(scope="module")
def methods_report(runs, tmp_path_factory, make_methods, make_run, leave_out_plots):
    """Returns the text of a page with a comparison of methods."""
    run = make_methods(make_run(tmp_path_factory.mktemp("runs") / "model"))
    with pytest.MonkeyPatch.context() as patch:
        leave_out_plots(patch)
        return page.write_report(tmp_path_factory.mktemp("report"), [run]).read_text("utf-8")


@pytest.fixture(params=["report", "methods_report"])
def any_report(request):
    return request.getfixturevalue(request.param)


class Tags(html.parser.HTMLParser):
    """Collects tags and the text outside of style sheets."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "source", "br", "image", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"[ \n]+", " ", "".join(self.text))


def test_the_page_is_well_formed_and_complete(any_report):
    tags = Tags(any_report)
    assert any_report.startswith("<!DOCTYPE html>")
    assert not tags.open
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for tag, attributes in tags.tags if tag == "a"}
    assert targets and targets <= set(ids)


def test_the_page_fetches_nothing(any_report):
    for tag, attributes in Tags(any_report).tags:
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            value = attributes.get(name, "data:")
            assert value.startswith("data:") or (tag == "a" and value.startswith("#")), (tag, name, value[:60])
        assert tag not in ("iframe", "object", "embed")
    assert not re.search(r"@import|url\(", any_report)
    for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", any_report):
        inside = base64.b64decode(svg).decode()
        assert not re.search(r"(href|src)=\"(?!#|data:)", inside)


def test_the_page_runs_its_own_script_only_and_none_without_need(report, methods_report):
    assert "<script" not in report and "script-src" not in report
    (script,) = re.findall(r"<script>(.*?)</script>", methods_report, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'content="{policy}"' in methods_report
    assert not re.search(r"\b(fetch|XMLHttpRequest|eval|innerHTML|import)\b", script)


def test_every_picture_is_described(any_report):
    for tag, attributes in Tags(any_report).tags:
        if tag == "img":
            assert len(attributes["alt"]) > 20
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["role"] == "img" and len(attributes["aria-label"]) > 10


def test_names_are_escaped(any_report):
    assert "<b>cat" not in any_report
    for name in NAMES:
        assert name in Tags(any_report).words


def test_the_metrics_of_both_runs_are_on_the_page(report, runs):
    words = Tags(report).words
    for run, accuracy in zip(runs, ("90.0", "91.2"), strict=True):
        measured = json.loads((run / "eval.json").read_text())["shapley_error"]
        assert f"{accuracy} %" in words and f"{accuracy} ± 0.9 %" in words
        for key, digits in (("r2", 3), ("r2_shares", 3), ("mse", 4), ("pearson", 3), ("spearman", 3)):
            assert formatting.decimal(measured[key], digits=digits) in words
    assert "99.9 ± 0.1 %" in words and "0.310" in words and "3.3 × 10⁻⁶" in words
    assert formatting.count(123456) in words
    assert "Baseline model" in words and "cpu x 2" in words and "0.10.2" in words


def test_errors_are_on_the_page_where_they_were_measured(report, tmp_path, no_curves, make_run):
    words = Tags(report).words
    for text in ("calibrated on 64 images held out of training", "12 images that nothing was fitted to", "0.9812",
                 "0.8812", "1.2 %", "51.0 %", "63.0 %"):
        assert text in words
    assert 'id="errors"' in report and 'href="#errors"' in report
    older = make_run(tmp_path / "older")
    values = json.loads((older / "eval.json").read_text())
    del values["refinement"]  # an evaluation before errors were calibrated
    (older / "eval.json").write_text(json.dumps(values))
    for run in (older, make_run(tmp_path / "none", exact=False)):
        assert 'id="errors"' not in page.render([read_run(run)])


def test_values_with_intervals_have_their_error_and_are_hatched_where_the_sign_is_not_certain(
        report, tmp_path, no_curves, make_run):
    run = make_run(tmp_path / "run")
    with np.load(run / "eval.npz") as file:
        arrays = dict(file)
    half_width = np.full(arrays["shapley"].shape, 0.1, np.float32)
    half_width[0, 1, 0] = np.abs(arrays["shapley"][0, 1, 0]) + 0.1
    np.savez(run / "eval.npz", **arrays, half_width=half_width)
    hero = gallery.hero(read_run(run))
    small = np.abs(arrays["shapley"][0]) <= 0.1
    shown = np.argsort(-arrays["logits"][0], kind="stable")[:3]
    for index, drawn in zip(shown, hero["classes"], strict=True):
        assert drawn["uncertain"] == np.argwhere(small[..., index] | (np.arange(4).reshape(2, 2) == 2)).tolist()
    html = page.render([read_run(run)])
    assert html.count('class="uncertain"') == 3 and html.count("±0.1</tspan>") == 9 and "hatched" in html
    assert 'class="uncertain"' not in report and "<tspan" not in report


def test_the_gallery_states_sums_that_are_the_logits_and_marks_mistakes(report, runs):
    words = Tags(report).words
    with np.load(runs[0] / "eval.npz") as arrays:
        logits, labels, exact = arrays["logits"], arrays["labels"], arrays["ground_truth"]
    shown = range(page.GALLERY_IMAGES)
    for index in shown:
        best = logits[index].argmax()
        predicted, true = map(formatting.signed, (logits[index, best], exact[index, ..., best].sum()))
        assert f"sum {predicted} and {true}" in words
    assert report.count('<li><figure class="card">') == page.GALLERY_IMAGES
    wrong = sum(logits[index].argmax() != labels[index] for index in shown)
    assert report.count('class="wrong"') == wrong > 0


def test_the_two_maps_of_an_image_share_a_symmetric_scale(runs):
    run = read_run(runs[0])
    picture = gallery.picture(run, 0, None)
    best = run.arrays["logits"][0].argmax()
    largest = max(np.abs(run.arrays[name][0, ..., best]).max() for name in ("shapley", "ground_truth"))
    assert picture["limit"] == pytest.approx(largest)
    assert [m["title"] for m in picture["maps"]] == ["Predicted values", "Exact values"]


def test_a_page_about_photographs_with_many_patches_is_below_5_mb(tmp_path, make_run, make_methods):
    names = [f"a class with quite a long name, number {k}" for k in range(12)]
    run = make_run(tmp_path / "run", names=names, grid=(16, 16), pixels=224)
    make_methods(run, names=names, grid=(16, 16), images=8, offered=5, pixels=(224, 224))
    text = page.write_report(tmp_path / "report", [run]).read_text("utf-8")
    assert "data:image/jpeg" in text and len(text.encode()) < 5e6, len(text.encode())


def test_small_images_keep_their_pixels_and_photographs_nearly():
    rng = np.random.default_rng(0)
    for side, error in ((28, 0), (224, 6)):
        image = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((side // 4, side // 4, 1))).astype(np.uint8)
        data = base64.b64decode(pictures.image_uri(image).split(",")[1])
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert np.abs(shown - image).mean() <= error


def test_settings_in_which_the_runs_differ_are_marked(report):
    rows = re.findall(r"<tr( class=\"differs\")?><th scope=\"row\">([\w.]+)</th>", report)
    assert ("", "model.width") in rows
    assert (' class="differs"', "shapley.weight") in rows


def test_a_baseline_that_differs_in_more_than_the_weight_is_not_called_the_same(report, tmp_path, no_curves, make_run):
    assert "in nothing else" in Tags(report).words
    for changes, said in (({"model": {"width": 96}}, "they differ in model.width, shapley.weight"),
                          ({"run": {"cpu_devices": 1}}, "in nothing else")):  # which changes no result
        runs = [make_run(tmp_path / said / "a", config={"run": {"cpu_devices": 0}, "model": {"width": 64}}),
                make_run(tmp_path / said / "b", weight=0.0,
                         config={"run": {"cpu_devices": 0}, "model": {"width": 64}} | changes)]
        assert said in Tags(page.write_report(tmp_path / "report", runs).read_text("utf-8")).words


def test_the_same_runs_give_the_same_bytes(report, runs, tmp_path):
    assert page.write_report(tmp_path, runs).read_text("utf-8") == report


def test_one_run_without_ground_truth_makes_a_page_that_says_so(tmp_path, no_curves, make_run):
    run = make_run(tmp_path / "run", exact=False)
    words = Tags(page.write_report(tmp_path / "new" / "report", [run]).read_text("utf-8")).words
    assert "not measured" in words and "Predicted values" in words
    assert "baseline" not in words.lower() and "Exact values" not in words


def test_estimates_are_not_called_exact_and_the_ceiling_of_their_r2_is_stated(report, tmp_path, no_curves, make_run):
    run = make_run(tmp_path / "run", errors={"ground_truth": "kernel_shap", "r2_ceiling": 0.9876})
    words = Tags(page.write_report(tmp_path / "report", [run]).read_text("utf-8")).words
    assert "estimated Shapley values" in words and words.count("0.988") == 2 and "exact" not in words.lower()
    assert "eiling" not in Tags(report).words


def test_images_without_labels_are_not_called_right_or_wrong(tmp_path, no_curves, make_run):
    run = make_run(tmp_path / "run", accuracy_top1=None, accuracy_top5=None, cross_entropy=None)
    with np.load(run / "eval.npz") as arrays:
        np.savez(run / "eval.npz", **dict(arrays) | {"labels": np.full(len(arrays["labels"]), -1)})
    words = Tags(page.write_report(tmp_path / "report", [run]).read_text("utf-8")).words
    assert "no label" in words and "wrong" not in words and "Top-1" not in words and "Efficiency gap" in words


def test_metrics_that_are_undefined_are_called_so(tmp_path, no_curves, make_run):
    run = make_run(tmp_path / "run", errors={"r2": None, "r2_shares": None, "pearson": None, "spearman": None})
    assert "undefined" in Tags(page.write_report(tmp_path / "report", [run]).read_text("utf-8")).words


def test_a_run_that_is_no_baseline_is_called_by_its_name(tmp_path, no_curves, make_run):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "heavier", weight=16.0)]
    words = Tags(page.write_report(tmp_path / "report", runs).read_text("utf-8")).words
    assert "heavier" in words and "baseline" not in words.lower()


def test_an_evaluation_is_all_that_is_needed(tmp_path, no_curves, make_run):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", weight=0.0, config=None)]
    (runs[1] / "metrics.jsonl").unlink()
    assert read_run(runs[1]).records == []
    words = Tags(page.write_report(tmp_path / "report", runs).read_text("utf-8")).words
    assert "Baseline model" in words and "Training" in words and "Settings" in words and "they differ" not in words
    words = Tags(page.write_report(tmp_path / "report", runs[1:]).read_text("utf-8")).words
    assert "Training" not in words and "Settings" not in words


def test_runs_of_different_data_are_not_compared(tmp_path, make_run):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", dataset="digits")]
    with pytest.raises(UserError, match="same data"):
        page.write_report(tmp_path / "report", runs)


@pytest.mark.parametrize("number", [0, 3])
def test_a_report_is_about_one_or_two_runs(tmp_path, number):
    with pytest.raises(UserError, match=f"not {number} runs"):
        page.write_report(tmp_path, ["run"] * number)


def test_a_place_that_cannot_be_written_is_said_in_one_line(tmp_path, runs, no_curves):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*--output"):
        page.write_report(tmp_path / "file", runs[:1])


def test_the_command_prints_the_path(tmp_path, runs, monkeypatch, capsys, no_curves):
    monkeypatch.setattr(report_command, "_FLAGS", types.SimpleNamespace(runs=list(runs), output=str(tmp_path)))
    report_command.main([])
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")


def test_a_mistake_on_the_command_line_is_one_line_and_status_1(tmp_path):
    command = [sys.executable, "-m", "shapjax", "report", "--runs", f"{tmp_path}/nowhere"]
    result = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and f"{tmp_path}/nowhere" in result.stderr
