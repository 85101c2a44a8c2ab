"""Time and memory of loading pretrained weights in a fresh process, up to parameters on the device.

  python -m benchmarks.load_pretrained                              # writes a ViT-B/16 with transformers, measures it
  python -m benchmarks.load_pretrained --weights PATH [--rounds 3]  # any weights

Prints the median over the rounds: seconds after the imports, and the peak of resident memory beyond that after the
imports, in bytes and in units of the files' size. The files are read once before, so the disk does not count.
"""

import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
from absl import app, flags

from shapjax import config, models
from shapjax.pretrained import loading
from shapjax.pretrained.weights import SUFFIXES

_WEIGHTS = flags.DEFINE_string("weights", "", "Path of the weights; empty: a ViT-B/16 with random ones.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes.", lower_bound=1)
_MEASURE = flags.DEFINE_bool("measure", False, "Measure in this process and print the values as JSON.")


def main(_: Sequence[str]) -> None:
    """Measures in this process, or starts the processes that do and prints the table."""
    if _MEASURE.value:
        print(json.dumps(measured(_WEIGHTS.value)))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(_WEIGHTS.value or write_vit_b16(directory))
        files = [file for file in (path.iterdir() if path.is_dir() else [path]) if file.suffix in SUFFIXES]
        size = sum(len(file.read_bytes()) for file in files)
        command = [sys.executable, "-m", "benchmarks.load_pretrained", "--measure", f"--weights={path}"]
        rounds = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                  for _ in range(_ROUNDS.value)]
    median = {key: statistics.median(values[key] for values in rounds) for key in rounds[0]}
    print(f"| weights | files | parameters | imports | load | peak memory | of the files' size |\n"
          f"|---|---|---|---|---|---|---|\n"
          f"| {_WEIGHTS.value or 'ViT-B/16'} | {size / 2**20:.0f} MiB | {median['parameters']:,} | "
          f"{median['imports']:.1f} s | {median['seconds']:.1f} s | {median['bytes'] / 2**20:.0f} MiB | "
          f"{median['bytes'] / size:.2f} |")


def write_vit_b16(directory: str) -> str:
    """Saves a ViT-B/16 for 1 000 classes as transformers does."""
    import transformers

    vit = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    vit.save_pretrained(directory)
    return directory


def measured(path: str) -> dict[str, float]:
    """Measures one loading, in a process that has done nothing but its imports; seconds, bytes, parameters."""
    jax.devices()  # JAX's own start
    begun, before = time.perf_counter(), int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    imports = time.clock_gettime(time.CLOCK_MONOTONIC) - _started()
    architecture = loading.describe(path)
    c = config.default_config()
    config.set_model(c, architecture.settings)
    image_shape, num_classes = (*architecture.image_size, architecture.channels), architecture.num_classes or 1000
    module = models.build(config.model_settings(c), image_shape=image_shape, num_classes=num_classes)
    params, _ = loading.load(path, module, image_shape=image_shape, num_classes=num_classes, new_head=False)
    params = jax.block_until_ready(jax.device_put(params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - begun, "bytes": peak - before * resource.getpagesize(),
            "imports": imports, "parameters": sum(x.size for x in jax.tree.leaves(params))}


def _started() -> float:
    """Returns when this process started, in seconds of the monotonic clock."""
    ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / 100


if __name__ == "__main__":
    app.run(main)
