"""python -m shapjax: one door to all commands."""

import importlib
import pathlib
import sys
import tomllib

import pytest

from shapjax import __main__ as shapjax_main
from shapjax import cli
from shapjax.errors import UserError


def test_every_command_is_a_module_with_run():
    package = pathlib.Path(importlib.import_module("shapjax.cli").__file__).parent
    for name in shapjax_main.COMMANDS:
        assert (package / f"{name}.py").is_file() and callable(importlib.import_module(f"shapjax.cli.{name}").run)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["shapjax", *arguments])
    shapjax_main.main()


@pytest.mark.parametrize(("given", "file", "argument"), [
    ("mnist5k", "mnist5k.py", ""), ("imagenet:b16", "imagenet.py", "b16"), ("configs/mnist5k.py", "mnist5k.py", "")])
def test_a_recipe_goes_by_its_name_or_its_path(given, file, argument):
    path, _, found = cli._config_file(given).partition(":")
    assert pathlib.Path(path).samefile(pathlib.Path("configs", file)) and found == argument


def test_an_unknown_recipe_is_refused_with_the_near_ones():
    with pytest.raises(UserError, match="no recipe of that name; did you mean mnist5k"):
        cli._config_file("mnist5")


def test_every_package_is_in_the_wheel():
    root = pathlib.Path(__file__).parents[1]
    packages = {".".join(path.parent.relative_to(root).parts) for path in (root / "shapjax").rglob("__init__.py")}
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == packages | {"shapjax.configs"}


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "error: usage: python -m shapjax {train,eval,explain,export,report,prepare,paste} …\n"),
    (("trian", "--help"), "error: there is no command 'trian'; usage: python -m shapjax {train,"),
])
def test_without_a_known_command_the_usage_is_one_line(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, *arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.startswith(message) and err.count("\n") == 1


def test_help_lists_the_commands(monkeypatch, capsys):
    call(monkeypatch, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(shapjax_main.COMMANDS)


def test_a_command_gets_the_rest_of_the_line(monkeypatch):
    found = []
    monkeypatch.setattr("shapjax.cli.report.run", lambda: found.extend(sys.argv))
    call(monkeypatch, "report", "--runs", "runs/a")
    assert found == ["shapjax", "--runs", "runs/a"]
