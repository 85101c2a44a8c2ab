"""Exports a trained model as files that hold no Python code, for programs that have no shapjax.

  python -m shapjax export --checkpoint runs/mnist5k --output exported/mnist5k
  python -m shapjax export --checkpoint runs/mnist5k --output exported/mnist5k --platforms tpu --format stablehlo

Writes to OUTPUT:
  explain.stablehlo        the whole explanation, from pixels to Shapley values, as a program that jax.export loads
  pair.stablehlo           the values of a coalition and its complement, with which values are refined; as
  calibration.json         the law of the values' errors, if the model is calibrated
  model.safetensors        the parameters
  config.json, README.md   class names, normalization and settings; how to load the others

eval.py, explain.py and shapjax.load take OUTPUT as they take the directory of a training run.
"""

from collections.abc import Sequence

import jax
from absl import flags
from etils import epath

import shapjax
from shapjax.cli import require_writable, run_command
from shapjax.export import write
from shapjax.export.read import PAIR, PROGRAM, WEIGHTS
from shapjax.paths import as_path

FORMATS = {"all": (PROGRAM, WEIGHTS), "stablehlo": (PROGRAM,), "safetensors": (WEIGHTS,)}

_FLAGS = flags.FLAGS


def run() -> None:
    """Runs `python -m shapjax export`."""
    flags.DEFINE_string("checkpoint", None, "A training run (its --workdir), or an exported model.", required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
    flags.DEFINE_string("output", None, "Directory to write to; made if it is not there.", required=True)
    flags.DEFINE_enum("format", "all", list(FORMATS), "What to write: the programs, the parameters, or both.")
    flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "Platforms of the program, separated by commas: "
                      f"{', '.join(write.PLATFORMS)}. This machine needs none of them.")
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, exports, checks the program, prints what was written."""
    output, chosen, platforms = as_path(_FLAGS.output), FORMATS[_FLAGS.format], _FLAGS.platforms
    # Flags and files are checked before the work.
    write.require_platforms(platforms)
    write.require_free(output)
    model = shapjax.load(_FLAGS.checkpoint, step=_FLAGS.step)
    require_writable(output / PROGRAM)
    programs = write.stablehlo(model, platforms=platforms) if PROGRAM in chosen else {}
    written = write.write(model, output, programs=programs, weights=WEIGHTS in chosen)
    print(summary(model, output, written, platforms))
    if programs:
        difference = write.largest_difference(model, programs[PROGRAM])
        print("checked     the program was not run, it is not for this machine's devices" if difference is None else
              f"checked     on two random images the program differs from the model by {difference:.1g} of the largest "
              "value")
    print(f"to load     {output / 'README.md'} has the lines for each")


def summary(model: shapjax.SelfExplainingModel, output: epath.Path, written: Sequence[str], platforms: Sequence[str]
            ) -> str:
    """Returns lines that say what was exported: files, sizes, shapes, platforms."""
    (h, w, c), (gh, gw), k = model.image_shape, model.grid, len(model.class_names)
    leaves = jax.tree.leaves(model.params)
    about = {PROGRAM: [f"uint8 images [b, {h}, {w}, {c}] -> logits [b, {k}], shapley [b, {gh}, {gw}, {k}], "
                       f"probabilities [b, {k}]", f"any b; for {', '.join(dict.fromkeys(platforms))}"],
             PAIR: [f"with masks [b, {gh * gw}], true = visible -> v(S), v(S^c) [b, {k}]"],
             WEIGHTS: [f"{sum(x.size for x in leaves):,} parameters in {len(leaves)} arrays, float32"]}
    rows = [f"exported    {model.directory}, step {model.step}, to {output}"]
    for name in written:
        size = f"{(output / name).stat().length / 2**20:,.2f} MiB"
        first, *more = about.get(name, [""])
        rows += [f"  {name:<18}{size:>13}   {first}".rstrip(), *(" " * 36 + line for line in more)]
    return "\n".join(rows)
