"""python -m shapjax export as a person types it: what it writes works without shapjax, and in the other commands."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

import shapjax
from shapjax import games
from shapjax.cli import export as export_command
from shapjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
# A program in which shapjax and flax cannot be imported, however installed.
ALONE = """
import sys
sys.modules["shapjax"] = sys.modules["flax"] = None
{code}
images = np.load("images.npz")["images"]
for rows in (3, 8):
    np.savez(f"values_{{rows}}.npz", **explain(images[:rows]))
assert not [name for name in sys.modules if name.split(".")[0] in ("shapjax", "flax") and sys.modules[name]]
"""


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory, command):
    """Exports a model; returns its directory and the command's output."""
    directory = tmp_path_factory.mktemp("exported") / "model"
    return directory, command("-m", "shapjax", "export", "--checkpoint", run, "--output", directory)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, size=(8, 28, 28, 1), dtype=np.uint8)


def examples(directory):
    """Returns the programs in the README of an exported model."""
    return re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)


def python(code, directory, **environment):
    """Runs a program in a process of its own; returns what it prints."""
    environment = {key: x for key, x in (os.environ | environment).items() if key in environment or key != "PYTHONPATH"}
    result = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, timeout=300,
                            env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_program_explains_as_the_model_where_there_is_no_shapjax(run, exported, images, tmp_path):
    for name in ("README.md", "config.json", "explain.stablehlo"):
        shutil.copy(exported[0] / name, tmp_path)
    np.savez(tmp_path / "images.npz", images=images)
    out = python(ALONE.format(code=examples(exported[0])[0]), tmp_path)
    model = shapjax.load(run)
    assert out.split()[0] in model.class_names
    for rows in (3, 8):
        values, e = np.load(tmp_path / f"values_{rows}.npz"), model.explain(images[:rows])
        assert values["shapley"].shape == (rows, 2, 2, 10)
        for key in ("logits", "shapley", "probabilities"):
            np.testing.assert_allclose(values[key], getattr(e, key), atol=1e-6, err_msg=key)


def test_the_other_examples_run_as_they_stand(exported):
    *_, load, arrays = examples(exported[0])
    out = python(load + arrays, exported[0], PYTHONPATH=str(ROOT))
    assert "blocks/attention/qkv/kernel (1, 16, 48)" in out


REFINE = """
image = np.random.default_rng(5).integers(0, 256, (28, 28, 1), dtype=np.uint8)
np.savez("refined.npz", image=image, few=refine(image, 3), many=refine(image, 4000))
"""


def test_values_are_refined_as_the_readme_says_where_there_is_no_shapjax(run, exported, tmp_path):
    for name in ("config.json", "explain.stablehlo", "pair.stablehlo", "calibration.json"):
        shutil.copy(exported[0] / name, tmp_path)
    explain, refine, *_ = examples(exported[0])
    python("import sys\nsys.modules['shapjax'] = None\n" + explain + refine + REFINE, tmp_path)
    arrays, model = np.load(tmp_path / "refined.npz"), shapjax.load(run)
    image = arrays["image"][None]
    masks = (np.arange(16)[:, None] >> np.arange(4) & 1 == 1)[None]
    exact = games.exact_shapley(model.coalition_values(image, masks)[0]).reshape(2, 2, 10)
    phi = model.explain(image).shapley[0]
    np.testing.assert_allclose(arrays["few"].sum((0, 1)), phi.sum((0, 1)), atol=1e-5)
    errors = [np.square(values - exact).mean() for values in (phi, arrays["few"], arrays["many"])]
    assert errors[2] < 0.05 * errors[0] and errors[1] < errors[0]


def test_what_was_exported_is_said(run, exported):
    directory, out = exported
    for part in (f"exported    {run}, step 20, to {directory}", "explain.stablehlo", "uint8 images [b, 28, 28, 1]",
                 "shapley [b, 2, 2, 10]", "for cpu, cuda, tpu", "6,698 parameters in 19 arrays",
                 "the program differs from the model by"):
        assert part in out, part
    assert {x.name for x in directory.iterdir()} == {"explain.stablehlo", "pair.stablehlo", "calibration.json",
                                                     "model.safetensors", "config.json", "README.md"}


def test_an_exported_model_is_evaluated_and_explained_as_the_run(run, exported, tmp_path, command):
    directory = tmp_path / "moved"
    shutil.copytree(exported[0], directory)
    out = command("eval.py", "--checkpoint", directory, "--images", 1, "--methods", "none", "--ground_truth", "none")
    page = (directory / "report" / "index.html").read_text()
    assert str(directory / "report" / "index.html") in out and "Settings" in page and "Training curves" not in page
    evaluation = json.loads((directory / "eval.json").read_text())
    logged = [x for x in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if x["split"] == "test"][-1]
    assert evaluation["checkpoint"] == str(directory) and evaluation["step"] == logged["step"] == 20
    assert evaluation["accuracy_top1"] == pytest.approx(logged["accuracy"], abs=1.5e-3)
    assert evaluation["cross_entropy"] == pytest.approx(logged["cross_entropy"], rel=1e-4)
    command("explain.py", "--checkpoint", directory, "--examples", 1, "--output", tmp_path / "out", "--noexact")
    assert (tmp_path / "out" / "test_0000.png").exists()


@pytest.fixture
def export(monkeypatch, capsys):
    """Runs the command within this process; returns what it prints."""

    def run(checkpoint, output, *, platforms=("cpu",), format="all"):
        flags = types.SimpleNamespace(checkpoint=str(checkpoint), step=None, output=str(output), format=format,
                                      platforms=list(platforms))
        monkeypatch.setattr(export_command, "_FLAGS", flags)
        export_command.main([])
        return capsys.readouterr().out

    return run


def test_an_exported_model_is_exported_again_for_others(exported, tmp_path, export):
    out = export(exported[0], tmp_path, platforms=["tpu"], format="stablehlo")
    assert "for tpu" in out and "the program was not run" in out and not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("checkpoint", "output", "settings", "message"), [
    ("{run}", "{run}", {}, "holds a training run.*--output"),
    ("{run}", "{file}/in", {}, r"cannot write to .*/in \(Not a directory\)"),
    ("{empty}", "{empty}/out", {}, "is not a shapjax run.*or an exported model"),
    ("{run}", "{empty}/out", {"platforms": ["cpu", "gpu"]}, "platforms cpu,gpu: expected"),
])
def test_mistakes_are_one_line_and_leave_no_file(run, tmp_path, export, checkpoint, output, settings, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    places = {"run": run, "empty": tmp_path / "empty", "file": tmp_path / "file"}
    with pytest.raises(UserError, match=message) as error:
        export(checkpoint.format(**places), output.format(**places), **settings)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "empty").iterdir()) and not (run / "README.md").exists()


def test_a_format_that_does_not_exist_is_one_line(run, tmp_path, fails_with_one_line):
    line = fails_with_one_line("-m", "shapjax", "export", "--checkpoint", run, "--output", tmp_path, "--format", "onnx")
    assert "all|stablehlo|safetensors" in line
