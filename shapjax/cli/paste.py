"""Makes a dataset whose objects are known to the pixel: pastes cut-outs on photographs.

  python -m shapjax paste CUTOUTS PHOTOGRAPHS OUTPUT
  python -m shapjax paste CUTOUTS PHOTOGRAPHS OUTPUT --size=224 --train=200 --test=40

CUTOUTS has a directory for each class, of images with a transparent background, such as PNG files. PHOTOGRAPHS is a
directory of images without these objects. A fifth of the cut-outs of each class and of the photographs are kept for the
test images: nothing that is tested was seen in training. Train on folder:OUTPUT; `eval.py` finds the masks.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence

from absl import flags

from shapjax import paths
from shapjax.cli import run_command
from shapjax.data import composites
from shapjax.errors import UserError

_FLAGS = flags.FLAGS


def run() -> None:
    """Runs `python -m shapjax paste`."""
    flags.DEFINE_integer("size", 224, "Side of the images in pixels.", lower_bound=8)
    flags.DEFINE_integer("train", 100, "Images a class for training.", lower_bound=1)
    flags.DEFINE_integer("test", 20, "Images a class for testing.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the random choices.", lower_bound=0)
    flags.FLAGS.set_gnu_getopt(True)  # so that flags may follow the directories
    run_command(main, takes_names=True)


def main(argv: Sequence[str]) -> None:
    """Reads the flags, pastes, prints what was written."""
    if len(argv) != 4:
        raise UserError("expected three directories, CUTOUTS PHOTOGRAPHS OUTPUT, but got "
                        f"{' '.join(argv[1:]) or 'none'}")
    if paths.in_bucket(argv[3]):
        raise UserError(f"{argv[3]}: images are pasted on a local disk; give a directory there, and copy it with "
                        f"`gcloud storage cp -r DIRECTORY {argv[3]}`")
    cutouts, photographs, output = map(pathlib.Path, (*map(paths.local, argv[1:3]), os.path.expanduser(argv[3])))
    part = output.with_name(f"{output.name}.part")
    if there := [path for path in (output, part) if path.exists()]:
        raise UserError(f"{there[0]} exists already; give another directory, or remove it")
    splits = composites.find(str(cutouts), str(photographs))
    counts = {"train": _FLAGS.train, "test": _FLAGS.test}
    try:
        composites.write(splits, part, size=_FLAGS.size, counts=counts, seed=_FLAGS.seed)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{output}: {len(splits['train'].cutouts)} classes, {_FLAGS.size}x{_FLAGS.size} pixels, with masks")
    for name, split in splits.items():
        print(f"  {name:6} {counts[name]:,} images a class, of {sum(map(len, split.cutouts.values()))} cut-outs and "
              f"{len(split.backgrounds)} photographs")
    print("next     python -m shapjax train --config finetune_vit --config.pretrained=W "
          f"--config.dataset=folder:{output} --workdir …")
