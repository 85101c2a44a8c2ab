"""Paths as people type them: a tilde in every one, spaces and accents, places that cannot be written to."""

import importlib.util
import os
import sys
import types

import pytest

from shapjax import cli, paths
from shapjax.cli import paste, prepare, train
from shapjax.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Makes a home directory with a space and an accent in its name."""
    home = tmp_path / "à la maison"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.mark.parametrize("arguments", [["--config=~/c.py:64"], ["--config", "~/c.py:64"]])
def test_a_config_file_may_begin_with_a_tilde(home, monkeypatch, arguments):
    monkeypatch.setattr(cli.flags, "FLAGS", lambda argv: argv)
    with pytest.raises(UserError, match="no such config file") as error:
        cli._parse(["train.py", *arguments], train.main, takes_names=True)
    assert f"--config {home}/c.py" in str(error.value)
    (home / "c.py").touch()
    given = cli._parse(["train.py", "--workdir", "~/run", *arguments], train.main, takes_names=True)
    assert "=".join(given[3:]) == f"--config={home}/c.py:64"


def test_a_dataset_is_prepared_in_the_home_directory_not_in_one_of_the_name_tilde(home, monkeypatch):
    found = []
    monkeypatch.setattr(prepare, "_FLAGS", types.SimpleNamespace(data_dir="~/tfds"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(prepare, "prepare", lambda name, data_dir: found.append(data_dir))
    monkeypatch.setattr(prepare, "summary", lambda builder, data_dir: found.append(data_dir))
    prepare.main(["prepare", "mnist"])
    assert found == [f"{home}/tfds"] * 2


def test_a_file_of_a_run_is_written_in_the_home_directory(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    paths.write_json("~/run/eval.json", {})
    assert (home / "run" / "eval.json").exists() and not (tmp_path / "~").exists()


def test_a_directory_that_cannot_be_written_to_is_said_before_the_work(monkeypatch, tmp_path):
    def refuse(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(paths, "require_writable", refuse)
    with pytest.raises(UserError, match=r"cannot write to .*run \(Read-only file system\); give another --output"):
        cli.require_writable(paths.as_path(tmp_path / "run" / "eval.json"))


def test_what_cannot_be_in_a_bucket_is_refused_with_the_way_round_it(monkeypatch):
    with pytest.raises(UserError, match="a config is a program, .* copy it there"):
        cli._config_file("gs://bucket/c.py")
    monkeypatch.setattr(prepare, "_FLAGS", types.SimpleNamespace(data_dir="gs://bucket/tfds"))
    with pytest.raises(UserError, match="copy what is in it with `gcloud storage cp"):
        prepare.main(["prepare", "mnist"])
    with pytest.raises(UserError, match="copy it with `gcloud storage cp -r DIRECTORY gs://bucket/set`"):
        paste.main(["paste", "cutouts", "photographs", "gs://bucket/set"])


def test_a_bucket_that_cannot_be_reached_is_one_line(monkeypatch, capfd, store):
    errors = importlib.import_module("gcsfs.retry")

    def run(*_, **__):
        raise errors.HttpError({"code": 401, "message": "Anonymous caller\nhas no access"})

    monkeypatch.setattr(cli.app, "run", run)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(SystemExit):
        cli.run_command(prepare.main)
    assert capfd.readouterr().err == "error: Anonymous caller has no access, 401\n"
