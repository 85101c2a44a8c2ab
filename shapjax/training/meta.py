"""Reads what a checkpoint holds beside arrays, as JSON: all that `load` needs; does not start JAX."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections
import orbax.checkpoint as ocp
from etils import epath

import shapjax.config
from shapjax import paths
from shapjax.errors import UserError

FORMAT = 3  # of the layout above; a reader refuses any other
KINDS = {"class_names": str, "image_shape": int, "mean": int | float, "std": int | float, "held_out": int}  # in `Meta`


@dataclasses.dataclass(frozen=True)
class Meta:
    """Holds the data that inference needs besides the parameters.

    Attributes:
      config: resolved.
      class_names: K names.
      image_shape: (H, W, C).
      mean, std: per channel, in units of [0, 1].
      held_out: positions of the training images that were not trained on.
      num_images: training images, those held out included; 0: not known.
    """

    config: ml_collections.ConfigDict
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    held_out: tuple[int, ...] = ()
    num_images: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict that JSON can hold."""
        return {"config": self.config.to_dict(), "num_images": self.num_images} | {
            name: list(getattr(self, name)) for name in KINDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Meta":
        """Inverts `to_dict`, whatever else is among the values; raises UserError on anything else."""
        values = {"held_out": [], "num_images": 0} | dict(values)  # there were none in older checkpoints
        for name, kind in KINDS.items():
            value = values.get(name)
            if not isinstance(value, list) or not all(isinstance(x, kind) for x in value):
                raise UserError(f"{name} is {str(value)[:80]}, expected {'names' if kind is str else 'numbers'}")
        class_names, image_shape, mean, std, held_out = (tuple(values[name]) for name in KINDS)
        if type(values["num_images"]) is not int:
            raise UserError(f"num_images is {str(values['num_images'])[:80]}, expected a number")
        if not class_names or len(image_shape) != 3 or not len(mean) == len(std) == image_shape[2]:
            raise UserError("class_names, image_shape, mean and std do not fit together")
        if not isinstance(values.get("config"), Mapping):
            raise UserError(f"config is {str(values.get('config'))[:80]}, expected settings")
        return cls(shapjax.config.from_dict(values["config"]), class_names, image_shape, mean, std, held_out,
                   values["num_images"])


def read_meta(directory: epath.Path) -> tuple[Meta, dict[str, str]]:
    """Reads the meta data of a checkpoint, WORKDIR/checkpoints/STEP.

    Returns:
      meta data, and the digests of its arrays (`digest.digests`); {} if an older version wrote it.

    Raises:
      UserError: if it is damaged or foreign; names the directory.
    """
    values = read_json(directory, "meta")
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        whose = "is of an older" if found in range(1, FORMAT) else "was not written by this"
        raise UserError(f"{directory} {whose} version of shapjax (format {found}; this version reads {FORMAT}); use "
                        "the version that wrote it, or train again")
    try:
        return Meta.from_dict(values), values.get("digests", {})
    except UserError as e:
        raise UserError(f"{directory}: {e}") from e


def newest_meta(workdir: str | os.PathLike, say: Callable[[str], None] = lambda line: None) -> Meta | None:
    """Returns the meta data of a run's newest checkpoint whose meta data are whole; None if there is no checkpoint.

    In a bucket, what a kill leaves of a checkpoint that was being written has the name of a complete one. There can be
    one of these at most: a run removes it as it goes on.

    Args:
      workdir: of the run.
      say: takes a line for people, on a checkpoint that is not complete.

    Raises:
      UserError: if those of every checkpoint are damaged or foreign, or there are several and none is complete.
    """
    steps, incomplete = [], []
    for path in (paths.as_path(workdir) / "checkpoints").glob("*"):
        if path.name.isdecimal():
            (steps if ocp.utils.is_checkpoint_finalized(path) else incomplete).append(path)
    if len(incomplete) > 1 and not steps:
        raise UserError(f"none of the {len(incomplete)} checkpoints in {incomplete[0].parent} is complete: they lack "
                        "commit_success.txt, which is written last; put them back from a copy, or train anew with "
                        "another --workdir")
    for path in incomplete:
        say(f"checkpoint {path} is not complete, as after a kill while it was written; it is removed")
    error = None
    for path in sorted(steps, key=lambda path: int(path.name), reverse=True):
        try:
            return read_meta(path)[0]
        except UserError as e:
            error = error or e
    if error:
        raise error
    return None


def read_json(directory: epath.Path, item: str) -> Any:
    """Reads an item of a checkpoint that is JSON; raises UserError if it is damaged."""
    with reading(directory, item):
        return paths.unsealed(json.loads((directory / item / "metadata").read_text()))


@contextlib.contextmanager
def reading(directory: epath.Path, item: str) -> Iterator[None]:
    """Turns errors of orbax and others on the damaged or foreign files of an item into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # orbax, tensorstore and json raise a dozen types between them
        cause = e.__cause__ or e  # that of orbax's own error names the array
        reason = str(cause).strip().split("\n")[0][:200]
        raise UserError(f"checkpoint {directory} is damaged, incomplete or of another model: {item}: "
                        f"{type(cause).__name__}: {reason}") from e
