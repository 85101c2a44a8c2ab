"""Names of weights: paths, and models on the hub, with and without a network."""

import sys

import pytest

from shapjax.errors import UserError
from shapjax.pretrained import hub


def test_a_path_that_exists_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google" / "vit").mkdir(parents=True)
    assert hub.locate("google/vit").resolve() == (tmp_path / "google" / "vit").resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.locate("~/google/vit") == tmp_path / "google" / "vit"


def test_a_name_is_downloaded_without_pickles(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda name, allow_patterns: asked.append((name, allow_patterns)) or str(tmp_path))
    assert hub.locate("google/vit-base-patch16-224") == tmp_path
    assert asked == [("google/vit-base-patch16-224", ["*.safetensors", "*.json", "*.npz"])]


def test_without_a_network_what_to_do_is_said_in_one_line(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="google/nothing is not a file or directory, and could not be downloaded .*hf "
                                        "download google/nothing --local-dir") as e:
        hub.locate("google/nothing")
    assert "\n" not in str(e.value)


def test_without_the_hubs_package_what_to_do_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install huggingface_hub, or on a machine with a network"):
        hub.locate("google/nothing")


@pytest.mark.parametrize("name", ["weights.safetensors", "runs/model.npz", "a/b/c", "/tmp/nothing/here"])
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(name):
    with pytest.raises(UserError, match=f"weights {name} do not exist; give a file"):
        hub.locate(name)
