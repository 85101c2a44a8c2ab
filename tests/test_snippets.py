"""Every Python snippet of the documents and docstrings runs; a tiny model stands for what was trained."""

import ast
import functools
import pathlib
import re
import textwrap

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

import shapjax
from shapjax import attribution, config, games, metrics, models
from shapjax.export import read
from shapjax.export.calibration import Calibration, digest
from shapjax.games.error_law import ErrorLaw
from shapjax.metrics import localization
from shapjax.model import SelfExplainingModel
from shapjax.training.meta import Meta
from tests.conftest import random_tree

ROOT = pathlib.Path(__file__).parents[1]
SLOW = ("compare(", "tolerance=")  # what takes more than seconds


def of_documents():
    """Returns (place, code) of the snippets in README.md, CONTRIBUTING.md and docs/."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        for found in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield f"{path.relative_to(ROOT)}:{text[:found.start()].count(chr(10)) + 1}", found[1]


def of_docstrings():
    """Returns (place, code) of what docstrings indent after an empty line and Python can read."""
    for path in sorted((ROOT / "shapjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                    text := ast.get_docstring(node, clean=False)):
                indent = " " * (node.body[0].col_offset + 4)
                for block in re.findall(rf"(?<=\n\n)(?:{indent}.*\n)+(?= *\Z|\n)", f"{text}\n"):
                    if is_code(textwrap.dedent(block)):
                        yield f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}", textwrap.dedent(block)


def is_code(text):
    """Returns whether Python can read a text, and it calls something: formulas and tables do not."""
    try:
        return any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(text)))
    except SyntaxError:
        return False


SNIPPETS = [*of_documents(), *of_docstrings()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a directory with a calibrated model of 4 patches and random parameters, and its program."""
    settings = config.default_config()
    config.set_model(settings, {"patch_size": 8, "width": 16, "depth": 1, "heads": 2})
    meta = Meta(config=settings, class_names=tuple("0123456789"), image_shape=(16, 16, 1), mean=(0.5,), std=(0.3,))
    module = read.build(meta)
    params = random_tree(models.param_shapes(module, image_shape=meta.image_shape), scale=0.3)
    law = ErrorLaw(*map(np.float32, (0.3, 5.0, 0.5, 1.0)), np.float32([0, 1]), np.float32([1, 1]))
    law = Calibration(law=law, step=7, params=digest(params), images=16, held_out=True)
    model = SelfExplainingModel(module, params, meta, step=7, directory="run", calibration=law)
    directory = tmp_path_factory.mktemp("trained")
    model.export(directory, platforms=("cpu",))
    np.savez(directory / "eval.npz", images=np.arange(512, dtype=np.uint8).reshape(2, 16, 16, 1), targets=[3, 5])
    return directory


@pytest.fixture
def names(trained, tmp_path, monkeypatch):
    """Makes a directory the current one that has a run, an export and images; returns what else snippets assume."""
    (tmp_path / "runs").mkdir()
    for name in ("runs/mnist5k", "runs/mine", "exported"):
        (tmp_path / name).symlink_to(trained)
    for name in ("cat.jpg", "a.jpg", "b.jpg"):
        Image.fromarray(np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(2, 16, 16, 1)).astype(np.float32)
    module = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(10)])
    variables = module.init(jax.random.key(0), images)
    return {
        "shapjax": shapjax, "attribution": attribution, "games": games, "bootstrap": metrics.bootstrap,
        "localization": localization, "module": module, "variables": variables, "images": images,
        "f": functools.partial(module.apply, variables), "labels": np.array([3, 5]), "targets": np.array([3, 5]),
        "key": jax.random.key(0), "masks": rng.random((2, 3, 4)) < 0.5, "any_map": rng.normal(size=(2, 49)),
        "counts": rng.integers(1, 9, (5, 6))}


@pytest.mark.parametrize(("place", "code"), [
    pytest.param(place, code, id=place, marks=[pytest.mark.slow] if any(x in code for x in SLOW) else [])
    for place, code in SNIPPETS])
def test_snippets_run(names, trained, place, code):
    names["model"] = shapjax.load(trained)
    if "model.explain" not in code:
        names["model"] = names["model"].classifier
    if "exported" in code:  # the program takes bytes
        names["images"] = (255 * names["images"]).astype(np.uint8)
    exec(compile(code, place, "exec"), names)


def test_snippets_are_found_where_they_are():
    places = {place for place, _ in SNIPPETS} | {place.split(":")[0] for place, _ in SNIPPETS}
    assert {"README.md", "docs/attribution.md", "docs/errors.md", "shapjax/__init__.py:", "shapjax/model.py:explain",
            "shapjax/games/classifier.py:wrap", "shapjax/games/any_prior.py:refine",
            "shapjax/evaluation/comparison.py:compare", "shapjax/attribution/registry.py:",
            "shapjax/metrics/statistics.py:bootstrap"} <= places
    ten = (ROOT / "docs/attribution.md").read_text().partition("## Explain your own model in ten lines")[2]
    examples = re.findall(r"```python\n(.*?)```", ten.partition("\n## ")[0], re.DOTALL)
    assert len(examples) == 4 and all(len(code.replace("\n\n", "\n").splitlines()) <= 12 for code in examples)
