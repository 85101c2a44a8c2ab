"""Measures what decides accuracy and Shapley error: trains the MNIST-5k model with one setting changed at a time.

  python benchmarks/ablation.py --output runs/ablation [--seeds 3] [--rows default,baseline]

Each run lies in OUTPUT/ROW-SEED and is skipped if it is evaluated already, so the script goes on where it stopped.
Prints a table; a run takes a few minutes on 2 cores.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import app, flags

from shapjax.config import default_config

ROOT = pathlib.Path(__file__).parents[1]
STEPS = default_config().optim.steps
HALF = {"optim.steps": STEPS // 2}  # half the default's schedule: enough to tell settings apart
ROWS = {  # name: (title, settings, True to run it with all seeds)
    "default": ("**the default**", {}, True),
    "baseline": ("**baseline model: no Shapley task**", {"shapley.weight": 0}, True),
    "half": ("half the steps; so all below", HALF, False),
    "weight4": ("weight 4", HALF | {"shapley.weight": 4}, False),
    "weight8": ("weight 8", HALF | {"shapley.weight": 8}, False),
    "weight32": ("weight 32", HALF | {"shapley.weight": 32}, False),
    "unmasked": ("coalitions not classified", HALF | {"shapley.masked_weight": 0}, False),
    "plain": ("neither task: an ordinary classifier", HALF | {"shapley.num_pairs": 0}, False),
    "pairs2": ("2 pairs an image, 2/3 of the steps", {"optim.steps": STEPS // 3, "shapley.num_pairs": 2}, False),
    "no-ema": ("no moving average of the parameters", HALF | {"optim.ema_decay": 0}, False),
}

_OUTPUT = flags.DEFINE_string("output", "runs/ablation", "Directory of the runs.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of the rows that are run more than once.", lower_bound=1)
_ROWS = flags.DEFINE_list("rows", list(ROWS), "Rows to run.")
_IMAGES = flags.DEFINE_integer("images", 16, "Test images enumerated a run.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    """Runs what is missing, then prints the table."""
    lines = ["| what | accuracy, % | cross-entropy | R² | R² of shares |", "|---|---|---|---|---|"]
    for row in _ROWS.value:
        title, settings, all_seeds = ROWS[row]
        results = [_evaluated(row, settings, seed) for seed in range(_SEEDS.value if all_seeds else 1)]
        accuracy = " ".join(f"{100 * r['accuracy_top1']:.1f}" for r in results)
        entropy = " ".join(f"{r['cross_entropy']:.3f}" for r in results)
        r2 = " ".join(f"{r['shapley_error']['r2']:.3f}" for r in results)
        shares = " ".join(f"{r['shapley_error']['r2_shares']:.3f}" for r in results)
        lines.append(f"| {title} | {accuracy} | {entropy} | {r2} | {shares} |")
        print("\n".join(lines), flush=True)


def _evaluated(row: str, settings: dict, seed: int) -> dict:
    """Returns the metrics of a run, which is trained and evaluated if it is not yet."""
    workdir = pathlib.Path(_OUTPUT.value) / f"{row}-{seed}"
    if not (workdir / "eval.json").exists():
        overrides = [f"--config.{key}={value}" for key, value in (settings | {"seed": seed}).items()]
        for script in (["train.py", "--config", "configs/mnist5k.py", "--workdir", workdir, *overrides],
                       ["eval.py", "--checkpoint", workdir, "--images", _IMAGES.value, "--methods", "none"]):
            subprocess.run([sys.executable, *map(str, script)], cwd=ROOT, check=True)
    return json.loads((workdir / "eval.json").read_text())


if __name__ == "__main__":
    app.run(main)
