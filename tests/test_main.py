"""python -m shapjax: one door to all commands."""

import importlib
import pathlib
import sys

import pytest

from shapjax import __main__ as shapjax_main


def test_every_command_is_a_module_with_run():
    package = pathlib.Path(importlib.import_module("shapjax.cli").__file__).parent
    for name in shapjax_main.COMMANDS:
        assert (package / f"{name}.py").is_file() and callable(importlib.import_module(f"shapjax.cli.{name}").run)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["shapjax", *arguments])
    shapjax_main.main()


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
    monkeypatch.setattr(shapjax_main, "end_on_interrupt", lambda: found.append("Ctrl-C"))
    monkeypatch.setattr("shapjax.cli.report.run", lambda: found.extend(sys.argv))
    call(monkeypatch, "report", "--runs", "runs/a")
    assert found == ["Ctrl-C", "shapjax", "--runs", "runs/a"]
