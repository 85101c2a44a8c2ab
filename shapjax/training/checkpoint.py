"""Checkpoints: the training state, the data position and everything that `load` needs, in one atomic directory a step.

Written with orbax, asynchronously: a step's directory appears under its final name only when it is complete. Layout of
`WORKDIR/checkpoints/STEP/`: `params` (those that inference uses), `training` (the rest of the state), `data` (position
of the input pipeline) and `meta` (JSON: resolved config, class names, normalization).
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import chex
import jax
import ml_collections
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

import shapjax.config
from shapjax import paths
from shapjax.errors import UserError
from shapjax.training.step import TrainState, inference_params

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


def open_manager(workdir: str | os.PathLike, *, keep: int, read_only: bool = False) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run.

    Args:
      workdir: of the run; checkpoints lie in its sub-directory `checkpoints`.
      keep: how many of the newest to keep; the one with the highest "accuracy" is kept besides.
      read_only: for reading: nothing is created or cleaned up.

    Returns:
      an orbax manager; close it to wait for what is still being written.
    """
    policy = checkpoint_managers.preservation_policy
    best = policy.BestN(get_metric_fn=lambda metrics: metrics["accuracy"], n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(keep), best]), create=not read_only,
        cleanup_tmp_directories=not read_only, save_root_metadata=not read_only)
    return _Manager(epath.Path(os.getcwd()) / paths.as_path(workdir) / "checkpoints", options=options)


class _Manager(ocp.CheckpointManager):
    """Keeps orbax from asking JAX, while saving, whether the run is to stop.

    JAX takes every question for the process's place in the run (`distributed.stop_request`). Orbax asks from its own
    thread about a step long done: the processes would agree on a step that some of them have passed.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def save(manager: ocp.CheckpointManager, state: TrainState, *, data_state: dict[str, Any], meta: Meta,
         metrics: dict[str, float] | None) -> None:
    """Starts writing a checkpoint, each process its part; returns as soon as the state is copied to the host.

    Args:
      manager: from `open_manager`.
      state: from `Layout.to_checkpoint`.
      data_state: of the input pipeline's iterator, JSON-able.
      meta: see `Meta`.
      metrics: of this step, if there are any; then with "accuracy", by which the best is kept.

    Raises:
      UserError: if this checkpoint or the one before could not be written; older ones stay good.
    """
    step = int(state.step)
    with _writing(manager, step):
        manager.save(
            step, metrics=metrics, force=True,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(inference_params(state)),
                training=ocp.args.StandardSave(_rest(state)),
                data=ocp.args.JsonSave(data_state), meta=ocp.args.JsonSave({"format": FORMAT} | meta.to_dict())))


def wait(manager: ocp.CheckpointManager) -> None:
    """Waits until everything is written; raises UserError if it could not be."""
    with _writing(manager, None):
        manager.wait_until_finished()


@contextlib.contextmanager
def _writing(manager: ocp.CheckpointManager, step: int | None) -> Iterator[None]:
    """Turns orbax's errors on a full or broken disk into one line."""
    try:
        yield
    except Exception as e:  # of tensorstore (ValueError), of the system (OSError), wrapped or not
        reason = " ".join(str(e).split())[:300]
        good = [x for x in sorted(manager.all_steps(read=True)) if x != step]
        kept = f"the one of step {good[-1]} stays good" if good else "there is none before it"
        raise UserError(f"a checkpoint could not be written to {manager.directory} (disk full?): {type(e).__name__}: "
                        f"{reason}; {kept}. Make room and run the same command again") from e


def restore(manager: ocp.CheckpointManager, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Reads the newest complete checkpoint of a run, to go on from.

    Args:
      manager: from `open_manager`, with at least one checkpoint.
      template: a state of `jax.ShapeDtypeStruct`s with shardings (`Layout.template`).

    Returns:
      the state, for `Layout.from_checkpoint`, and the data position.

    Raises:
      UserError: if the checkpoint is damaged or of another model.
    """
    read = _read(manager, manager.latest_step(), params=ocp.args.StandardRestore(template.params),
                 training=ocp.args.StandardRestore(_rest(template)), data=ocp.args.JsonRestore())
    ema = template.ema_params is not None
    state = TrainState(
        step=read.training["step"], opt_state=read.training["opt_state"],
        params=read.training["params"] if ema else read.params, ema_params=read.params if ema else None,
        teacher=read.training.get("teacher"))
    return state, read.data


def read_meta(directory: epath.Path) -> Meta:
    """Reads the meta data of a checkpoint, WORKDIR/checkpoints/STEP, without starting JAX.

    Raises:
      UserError: if it is damaged or foreign; names the directory.
    """
    with _reading(directory):
        values = json.loads((directory / "meta" / "metadata").read_text())
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        whose = "is of an older" if found in range(1, FORMAT) else "was not written by this"
        raise UserError(f"{directory} {whose} version of shapjax (format {found}; this version reads {FORMAT}); use "
                        "the version that wrote it, or train again")
    try:
        return Meta.from_dict(values)
    except UserError as e:
        raise UserError(f"{directory}: {e}") from e


def newest_meta(workdir: str | os.PathLike) -> Meta | None:
    """Returns `read_meta` of a run's newest complete checkpoint; None if there is none."""
    steps = [path for path in (paths.as_path(workdir) / "checkpoints").glob("*")
             if path.name.isdecimal() and ocp.utils.is_checkpoint_finalized(path)]
    return read_meta(max(steps, key=lambda path: int(path.name))) if steps else None


def load_params(directory: str | os.PathLike, init_params: Callable[[Meta], chex.ArrayTree], *, step: int | None = None
                ) -> tuple[chex.ArrayTree, Meta, int]:
    """Reads the parameters of a run for inference.

    Args:
      directory: the run's workdir.
      init_params: gives the shapes to expect (concrete or abstract) from the meta data.
      step: of the checkpoint; None = the newest.

    Returns:
      parameters (host arrays), meta data, step.

    Raises:
      UserError: if there is no such run, no complete checkpoint, no such step, or it is damaged or foreign.
    """
    directory = paths.as_path(directory)
    if not (directory / "checkpoints").is_dir():
        what = "is not a shapjax run" if directory.is_dir() else "does not exist"
        raise UserError(f"{directory} {what}; give the --workdir of a training run, or an exported model")
    with open_manager(directory, keep=1, read_only=True) as manager:
        steps = sorted(manager.all_steps())
        if not steps:
            raise UserError(f"{directory} holds no complete checkpoint; train again with --workdir {directory}")
        if step is not None and step not in steps:
            raise UserError(f"{directory} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
        step = steps[-1] if step is None else step
        meta = read_meta(manager.directory / str(step))
        # On one device, whatever the layout of the run that wrote it.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), init_params(meta))
        params = jax.device_get(_read(manager, step, params=ocp.args.StandardRestore(template)).params)
    return params, meta, step


def _rest(state: TrainState) -> dict[str, Any]:
    """Returns the item `training`: all that inference does not use, with a moving average the raw parameters too."""
    rest = {"step": state.step, "opt_state": state.opt_state, "teacher": state.teacher,
            "params": None if state.ema_params is None else state.params}
    return {key: value for key, value in rest.items() if value is not None}


def _read(manager: ocp.CheckpointManager, step: int, *, params: ocp.args.StandardRestore,
          **items: ocp.args.CheckpointArgs) -> Any:
    """Reads items of a step; raises UserError unless all is there, of the shapes expected."""
    directory = manager.directory / str(step)
    with _reading(directory):
        tree = ocp.StandardCheckpointHandler().metadata(directory / "params").tree
        stored = dict(jax.tree_util.tree_leaves_with_path(tree))
        for path, x in jax.tree_util.tree_leaves_with_path(params.item):  # orbax's own error names no array
            if path in stored and tuple(stored[path].shape) != x.shape:
                raise UserError(f"checkpoint {directory} is of another model: {jax.tree_util.keystr(path)} is "
                                f"{list(stored[path].shape)}, expected {list(x.shape)}")
        return manager.restore(step, args=ocp.args.Composite(params=params, **items))


@contextlib.contextmanager
def _reading(directory: os.PathLike) -> Iterator[None]:
    """Turns orbax's errors on damaged or foreign files into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # orbax, tensorstore and json raise a dozen types between them
        reason = str(e).strip().split("\n")[0][:200]
        raise UserError(f"checkpoint {directory} is damaged, incomplete or of another model: {type(e).__name__}: "
                        f"{reason}; if its files were damaged, delete it and the one before is used") from e
