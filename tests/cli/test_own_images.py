"""A run on a folder of one's own images, from training to explanation."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Makes two classes of larger photographs of different sizes; one file is no image."""
    folder, rng = tmp_path_factory.mktemp("own") / "pictures", np.random.default_rng(0)
    for brightness, name in ((60, "dark"), (190, "light")):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(brightness - 40, brightness + 40, (40 + i, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    (folder / "dark" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_a_folder_is_trained_on_and_explained_wherever_it_lies(command, fails_with_one_line, pictures, tmp_path):
    train = ["train.py", "--config", "configs/own_folder.py", f"--config.dataset=folder:{pictures}", "--workdir",
             tmp_path / "run", "--config.data.image_size=32", "--config.model.width=16", "--config.model.depth=1",
             "--config.optim.batch_size=8", "--config.optim.steps=12", "--config.run.eval_every=6",
             "--config.run.cpu_devices=2"]
    line = fails_with_one_line(*train)
    assert "dark/broken.jpg" in line and "--config.data.corrupt=skip" in line
    out = command(*train, "--config.data.corrupt=skip")
    assert "left out 1 of" in out and "test accuracy" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["corrupt"] == "skip"

    moved = pictures.rename(tmp_path / "moved")
    explain = ["explain.py", "--checkpoint", tmp_path / "run", "--examples", "2", "--output", tmp_path / "out"]
    assert f"folder:{pictures}: there is no such directory" in fails_with_one_line(*explain)
    command(*explain, f"--dataset=folder:{moved}")
    assert len(list((tmp_path / "out").glob("test_*.png"))) == 2
    for few in ("dark", "light"):
        for file in sorted((moved / few).glob("*.jpg"))[6:]:
            file.unlink()
    both = ("--checkpoint", tmp_path / "run", f"--dataset=folder:{moved}")
    out = command("eval.py", *both, "--methods", "none", "--ground_truth", "none", "--output", tmp_path / "eval")
    count = len(np.load(tmp_path / "eval" / "eval.npz", allow_pickle=False)["images"])
    assert 0 < count < 8 and f"test images       {count}\n" in out  # fewer than the default, so all of them
    assert "the images held out of training cannot be read: folder:" in out and "has changed since" in out
    assert f"not calibrated: that takes 16 images that were not trained on; {count - count // 2} are there" in out
