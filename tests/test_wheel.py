"""The wheel is all that a user installs: it works in a new environment and an empty directory."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds the wheel from a copy, so that nothing of an earlier build is in it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("shapjax", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, tree)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "-w",
                    out, tree], check=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def shapjax(wheel, tmp_path_factory):
    """Installs the wheel in a new environment; runs a command of it in a directory, and returns its standard output."""
    environment = tmp_path_factory.mktemp("environment")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel],
                   check=True)

    def run(directory, *arguments):
        result = subprocess.run([environment / "bin" / "shapjax", *map(str, arguments)], cwd=directory, text=True,
                                capture_output=True, timeout=300, env=variables)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    return run


@pytest.mark.slow
def test_the_wheel_has_the_small_models_the_recipes_the_templates_and_the_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "shapjax = shapjax.__main__:main" in archive.read(entry).decode()
    assert {"shapjax/shipped/mnist5k/model.safetensors", "shapjax/configs/mnist5k.py",
            "shapjax/report/templates/page.html"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "benchmarks", "configs")) for name in names)
    assert wheel.stat().st_size < 3_000_000


@pytest.mark.slow
def test_its_commands_work_in_an_environment_and_a_directory_that_were_empty(shapjax, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)).save(tmp_path / "photo.jpg")
    shapjax(tmp_path, "explain", "--checkpoint", "mnist5k", "--images", "photo.jpg", "--examples", 2, "--noexact")
    assert len(list((tmp_path / "out").glob("test_*.png"))) == 2 and (tmp_path / "out" / "photo.png").is_file()
    out = shapjax(tmp_path, "train", "--config", "mnist5k", "--workdir", "run", "--config.optim.steps=2",
                  "--config.optim.batch_size=8", "--config.run.cpu_devices=1", "--nocalibrate")
    assert "test accuracy" in out and (tmp_path / "run" / "checkpoints").is_dir()
