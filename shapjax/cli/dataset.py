"""Flags that say where the dataset of a trained model lies now; a checkpoint knows where it lay in training."""

from absl import flags

from shapjax.data import sources
from shapjax.evaluation import evaluate as evaluation
from shapjax.model import SelfExplainingModel


def define_flags() -> None:
    """Defines --dataset and --data_dir."""
    flags.DEFINE_string("dataset", None, "The dataset, if it is no longer called what it was in training: folder:PATH, "
                        "tfds:NAME.")
    flags.DEFINE_string("data_dir", None, "Where TFDS datasets lie, if not where they did in training.")


def load_test_source(model: SelfExplainingModel) -> sources.Source:
    """The test images of the dataset that a model was trained on, where the flags say; raises as `evaluation`'s."""
    where = {"dataset": flags.FLAGS.dataset, "data.data_dir": flags.FLAGS.data_dir}
    return evaluation.load_test_source(model, {key: value for key, value in where.items() if value is not None})
