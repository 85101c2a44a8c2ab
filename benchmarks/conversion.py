"""Compares ways to start joint training from a classifier that was trained on its CLS token.

  pip install -r requirements-dev.txt
  python -m benchmarks.conversion --output runs/conversion [--steps 1500]

A ViT of Hugging Face's transformers (in PyTorch) learns MNIST-5k by its CLS token and is saved as safetensors. Joint
training then starts from it, with its head and with a new one, or from scratch, for a quarter of the default's steps.
Where the head is kept, the accuracy before training is measured too. Runs are written to OUTPUT; those that have been
evaluated are skipped. Takes about 8 minutes on 2 cores.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import jax
import numpy as np
import torch
import transformers
from absl import app, flags

from shapjax import config, models
from shapjax.data import mnist5k
from shapjax.models import preprocessing
from shapjax.pretrained import loading, settings

ROOT = pathlib.Path(__file__).parents[1]
ROWS = {  # name: title of the row, settings beside --config.pretrained
    "own": ("its head on the patches", {}),
    "new": ("a new head, zero", {"new_head": True}),
    "scratch": ("no weights: from scratch", None),
}

_OUTPUT = flags.DEFINE_string("output", "runs/conversion", "Directory of the runs.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Steps of the joint training.", lower_bound=1)
_TORCH_EPOCHS = flags.DEFINE_integer("torch_epochs", 30, "Epochs of the training in PyTorch.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    """Trains what is missing, then prints the table."""
    output = pathlib.Path(_OUTPUT.value)
    weights = output / "cls"
    if not (weights / "model.safetensors").exists():
        _train_in_torch(weights)
    print(f"\n| start | accuracy before, % | after {_STEPS.value} steps, % | R² | R² of shares |\n{'|---' * 5}|")
    print(f"| the CLS classifier itself | {100 * _torch_accuracy(weights):.1f} | | | |")
    for row, (title, changes) in ROWS.items():
        before = f"{100 * _accuracy_before(weights):.1f}" if row == "own" else ""
        metrics = _evaluated(output / row, weights, changes)
        error = metrics["shapley_error"]
        print(f"| {title} | {before} | {100 * metrics['accuracy_top1']:.1f} | {error['r2']:.3f} "
              f"| {error['r2_shares']:.3f} |", flush=True)


def _pixels(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns normalized images [n, 1, 28, 28] and labels [n]."""
    images, labels = mnist5k.load(split)
    images = np.moveaxis((images / 255 - np.float32(mnist5k.MEAN)) / np.float32(mnist5k.STD), -1, 1)
    return torch.tensor(images.astype(np.float32)), torch.tensor(labels.astype(np.int64))


def _train_in_torch(directory: pathlib.Path) -> None:
    """Trains a network of the default config's size that reads its CLS token, and saves it."""
    torch.manual_seed(0)
    network = transformers.ViTForImageClassification(transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, image_size=28, patch_size=7,
        num_channels=1, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    images, labels = _pixels("train")
    steps = _TORCH_EPOCHS.value * (len(images) // 50)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(images), (50,))
        shift = torch.randint(-2, 3, (2,)).tolist()
        batch = torch.roll(images[chosen], shift, (2, 3))
        loss = torch.nn.functional.cross_entropy(network(batch).logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 400 == 0:
            print(f"PyTorch, step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    network.save_pretrained(directory)


def _torch_accuracy(directory: pathlib.Path) -> float:
    """Returns the test accuracy of the classifier itself."""
    network = transformers.ViTForImageClassification.from_pretrained(directory)
    images, labels = _pixels("test")
    with torch.inference_mode():
        return (network(images).logits.argmax(dim=1) == labels).float().mean().item()


def _accuracy_before(directory: pathlib.Path) -> float:
    """Returns the test accuracy of the sums of the patch logits with the classifier's own head, before training."""
    c = config.default_config()
    c.pretrained = str(directory)
    c = settings.complete(c, directory / "none")
    images, labels = mnist5k.load("test")
    module = models.build(config.model_settings(c), image_shape=images.shape[1:], num_classes=10)
    params, _ = loading.load(c.pretrained, module, image_shape=images.shape[1:], num_classes=10, new_head=False)
    images = preprocessing.normalize(images, mnist5k.MEAN, mnist5k.STD)
    patch_logits_BNK = jax.jit(module.apply)({"params": params}, images)
    return float(np.mean(np.argmax(patch_logits_BNK.sum(axis=1), axis=1) == labels))


def _evaluated(workdir: pathlib.Path, weights: pathlib.Path, changes: dict | None) -> dict:
    """Returns the metrics of a run, which is trained and evaluated unless it has been already."""
    if not (workdir / "eval.json").exists():
        changes = {"optim.steps": _STEPS.value} | ({} if changes is None else {"pretrained": weights} | changes)
        overrides = [f"--config.{key}={value}" for key, value in changes.items()]
        for script in (["train.py", "--config", "configs/mnist5k.py", "--workdir", workdir, *overrides],
                       ["eval.py", "--checkpoint", workdir, "--images", 16, "--methods", "none"]):
            subprocess.run([sys.executable, *map(str, script)], cwd=ROOT, check=True)
    return json.loads((workdir / "eval.json").read_text())


if __name__ == "__main__":
    app.run(main)
