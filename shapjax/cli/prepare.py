"""Downloads a dataset of TensorFlow Datasets and writes it as array_record, which training and evaluation read.

  python -m shapjax prepare cifar10
  python -m shapjax prepare imagenette/320px-v2 --data_dir /data/tfds

Only this command needs TensorFlow (pip install tensorflow-cpu). Names: https://www.tensorflow.org/datasets/catalog.
A dataset that is prepared already stays as it is.
"""

import importlib.util
import os
import re
from collections.abc import Sequence

import tensorflow_datasets as tfds
from absl import flags

from shapjax import paths
from shapjax.cli import run_command
from shapjax.data import tfds_source
from shapjax.errors import UserError

_FLAGS = flags.FLAGS


def run() -> None:
    """Runs `python -m shapjax prepare`."""
    flags.DEFINE_string("data_dir", "", "Directory to prepare in; if not given, TFDS_DATA_DIR or "
                        "~/tensorflow_datasets.")
    flags.FLAGS.set_gnu_getopt(True)  # so that flags may follow the name
    run_command(main, takes_names=True)


def main(argv: Sequence[str]) -> None:
    """Reads the flags, prepares, prints what was written."""
    if len(argv) != 2:
        raise UserError(f"expected the name of one dataset, such as cifar10, but got {' '.join(argv[1:]) or 'none'}")
    name, data_dir = argv[1].removeprefix("tfds:"), os.path.expanduser(_FLAGS.data_dir)
    if paths.in_bucket(data_dir):
        raise UserError(f"--data_dir={data_dir}: datasets are prepared on a local disk; give a directory there, and "
                        f"copy what is in it with `gcloud storage cp -r DIRECTORY/* {data_dir}`")
    if re.split("[/:]", name)[0] not in tfds_source.known_names():
        raise tfds_source.not_prepared(name, data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("preparing a dataset needs TensorFlow, which is not installed (and which reading does not "
                        "need); run `pip install tensorflow-cpu`")
    print(summary(prepare(name, data_dir), data_dir))


def prepare(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Downloads and prepares a dataset as array_record, with TFDS's progress bars: all of it or nothing.

    Raises:
      UserError: if it has to be downloaded by hand, or cannot be downloaded.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # each dataset's code, and the network, may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"cannot prepare {name}: {type(error).__name__}: {reason[:400]}") from error
    return builder


def summary(builder: tfds.core.DatasetBuilder, data_dir: str) -> str:
    """Returns lines that say what was prepared and how to train on it."""
    name = builder.info.full_name.rpartition("/")[0]
    rows = [f"{builder.info.full_name} in {builder.data_dir}"]
    rows += [f"  {split:12}{info.num_examples:>12,} examples{info.num_bytes / 2**20:>12,.1f} MiB"
             for split, info in builder.info.splits.items()]
    splits = list(builder.info.splits)
    test = next((s for s in ("test", "validation") if s in splits), splits[-1])
    settings = [f"--config.dataset=tfds:{name}", f"--config.data.data_dir={data_dir}" if data_dir else "",
                f"--config.data.test_split={test}" if test != "test" else ""]
    settings = " ".join(filter(None, settings))
    return "\n".join([*rows, f"next        python -m shapjax train {settings} --config … --workdir …"])
