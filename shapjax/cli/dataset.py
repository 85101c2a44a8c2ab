"""Loads the dataset of a trained model. A checkpoint knows where it lay in training; flags say where it lies now."""

from absl import flags

from shapjax.data import sources
from shapjax.errors import UserError
from shapjax.model import SelfExplainingModel

flags.disclaim_key_flags()  # --help of a command shows them as its own


def define_flags() -> None:
    """Defines --dataset and --data_dir."""
    flags.DEFINE_string("dataset", None, "The dataset, if its name differs from that in training: folder:PATH, "
                        "tfds:NAME.")
    flags.DEFINE_string("data_dir", None, "Where TFDS datasets lie, if it differs from training.")


def load_test_source(model: SelfExplainingModel) -> sources.Source:
    """Loads the test split of the dataset that a model was trained on, from where the flags say that it lies now.

    Raises:
      UserError: if it cannot be loaded, or has changed since: other classes, or images of another size.
    """
    config = model.config.copy_and_resolve_references()
    flagged = {"dataset": flags.FLAGS.dataset, "data.data_dir": flags.FLAGS.data_dir}
    config.update_from_flattened_dict({key: value for key, value in flagged.items() if value is not None})
    source = sources.load_source(config, "test")
    for what, then, now in (("classes", tuple(model.class_names), source.class_names),
                            ("image size", tuple(model.image_shape), source.image_shape)):
        if then != now:
            raise UserError(f"{model.config.dataset} has changed since {model.directory} was trained: its {what} was "
                            f"{_brief(then)}, and is {_brief(now)}; restore it, or train again")
    return source


def _brief(values: tuple) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) <= 120 else f"{text[:100]}… ({len(values)})"
