"""The wheel is all that a user installs: it works in an empty directory, with nothing of the checkout."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

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
    """Runs a command of the installed wheel in an empty directory; returns its standard output."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    def run(directory, *arguments):
        code = "import sys; from shapjax.__main__ import main; sys.argv[0] = 'shapjax'; main()"
        result = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}",
                                 *map(str, arguments)], cwd=directory, capture_output=True, text=True, timeout=300)
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
def test_its_commands_work_in_an_empty_directory(shapjax, tmp_path):
    shapjax(tmp_path, "explain", "--checkpoint", "mnist5k", "--examples", 2, "--noexact")
    assert len(list((tmp_path / "out").glob("test_*.png"))) == 2
    out = shapjax(tmp_path, "train", "--config", "mnist5k", "--workdir", "run", "--config.optim.steps=2",
                  "--config.optim.batch_size=8", "--config.run.cpu_devices=1", "--nocalibrate")
    assert "test accuracy" in out and (tmp_path / "run" / "checkpoints").is_dir()
