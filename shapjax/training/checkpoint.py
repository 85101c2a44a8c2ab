"""Checkpoints: the training state, the data position and everything that `load` needs, in one atomic directory a step.

Written with orbax, asynchronously: a step's directory appears under its final name only when it is complete. Layout of
`WORKDIR/checkpoints/STEP/`: `params` (those that inference uses), `training` (the rest of the state), `data` (position
of the input pipeline) and `meta` (JSON: resolved config, class names, normalization, digests of all arrays).

Orbax keeps no checksum of what arrays hold, in none of its formats. So each array that is read is compared with its
digest; JSON values carry a checksum. Checkpoints of earlier versions have neither, and are read without.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from shapjax import paths
from shapjax.errors import UserError, few
from shapjax.training.digest import digests
from shapjax.training.meta import FORMAT, Meta, read_json, read_meta, reading
from shapjax.training.step import TrainState, inference_params


def open_manager(workdir: str | os.PathLike, *, keep: int, read_only: bool = False) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run.

    Args:
      workdir: of the run; checkpoints lie in its sub-directory `checkpoints`.
      keep: how many of the newest to keep; the one with the highest "accuracy" is kept besides.
      read_only: for reading: nothing is created or cleaned up.

    Returns:
      an orbax manager; close it to wait for what is still being written.
    """
    def accuracy(metrics: Mapping[str, Any]) -> float:
        return metrics["accuracy"]

    policy = checkpoint_managers.preservation_policy
    best = policy.BestN(get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(keep), best]),
        best_fn=accuracy,  # without it orbax writes no metrics, and a resumed run would not know its best
        create=not read_only, cleanup_tmp_directories=not read_only, save_root_metadata=not read_only)
    return _Manager(epath.Path(os.getcwd()) / paths.as_path(workdir) / "checkpoints", options=options)


class _Manager(ocp.CheckpointManager):
    """Changes orbax's manager in two places."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False: orbax is not to ask JAX, while saving, whether the run is to stop.

        JAX takes every question for the process's place in the run (`distributed.stop_request`). Orbax asks from its
        own thread about a step long done: the processes would agree on a step that some of them have passed.
        """
        return False

    def metrics(self, step: int) -> dict[str, Any] | None:
        """Returns the metrics of a step, None if there are none. Damaged ones count as none, and end no run."""
        try:
            return paths.unsealed(super().metrics(step))
        except ValueError:
            return None


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
    step, arrays = int(state.step), {"params": inference_params(state), "training": _rest(state)}
    with _writing(manager, step):
        values = {"format": FORMAT, "digests": digests(arrays)} | meta.to_dict()
        manager.save(
            step, metrics=metrics and paths.sealed(metrics), force=True,
            args=ocp.args.Composite(
                **{item: ocp.args.StandardSave(tree) for item, tree in arrays.items()},
                data=ocp.args.JsonSave(paths.sealed(data_state)), meta=ocp.args.JsonSave(paths.sealed(values))))


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


def restore(manager: ocp.CheckpointManager, template: TrainState, say: Callable[[str], None]
            ) -> tuple[TrainState, dict[str, Any]]:
    """Reads the newest whole checkpoint of a run, to go on from; all processes agree on it.

    Newer ones, which are damaged, are renamed STEP.damaged, so that their steps can be saved again.

    Args:
      manager: from `open_manager`, with at least one checkpoint.
      template: a state of `jax.ShapeDtypeStruct`s with shardings (`Layout.template`).
      say: takes a line for people.

    Returns:
      the state, for `Layout.from_checkpoint`, and the data position.

    Raises:
      UserError: if no checkpoint is whole, or they are of another model.
    """
    errors = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            state, data_state = _read_state(manager.directory / str(step), template)
            break
        except UserError as e:
            errors[step] = str(e)  # the error itself would keep the arrays that were read
    else:
        newest = next(iter(errors.values()))
        raise UserError(f"none of the {len(errors)} checkpoints of the run is whole: {newest}; put one back from a "
                        "copy, or train anew with another --workdir")
    if errors:
        for damaged, error in errors.items():
            say(f"{error}; going back to step {step}, and keeping it as {damaged}.damaged")
        if jax.process_index() == 0:
            for damaged in errors:
                _set_aside(manager.directory / str(damaged))
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        manager.reload()
    return state, data_state


def _read_state(directory: epath.Path, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Reads a checkpoint; raises UserError, in all processes or in none, unless it is whole."""
    error = None
    try:
        (_, saved), data_state = read_meta(directory), read_json(directory, "data")
        arrays = {"params": _read_arrays(directory, "params", template.params),
                  "training": _read_arrays(directory, "training", _rest(template))}
    except UserError as e:
        error = e
    if np.any(multihost_utils.process_allgather(np.array(error is not None))):
        raise error or UserError(f"checkpoint {directory}: another process cannot read it")
    _require_same(directory, saved, arrays)
    params, rest = arrays["params"], arrays["training"]
    ema = template.ema_params is not None
    return TrainState(step=rest["step"], opt_state=rest["opt_state"], params=rest["params"] if ema else params,
                      ema_params=params if ema else None, teacher=rest.get("teacher")), data_state


def _set_aside(directory: epath.Path) -> None:
    """Renames a damaged checkpoint; an earlier one of this step that was damaged too makes room."""
    aside = directory.parent / f"{directory.name}.damaged"
    if aside.exists():
        aside.rmtree()
    directory.rename(aside)


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
        directory = manager.directory / str(step)
    # On one device, whatever the layout of the run that wrote it.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        meta, saved = read_meta(directory)
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), init_params(meta))
        params = jax.device_get(_read_arrays(directory, "params", template))
        _require_same(directory, saved, {"params": params})
    except UserError as e:
        others = ", ".join(str(x) for x in steps if x != step)
        raise UserError(f"{e}; {f'give another step: {others}' if others else 'the run has no other'}") from e
    return params, meta, step


def _rest(state: TrainState) -> dict[str, Any]:
    """Returns the item `training`: all that inference does not use, with a moving average the raw parameters too."""
    rest = {"step": state.step, "opt_state": state.opt_state, "teacher": state.teacher,
            "params": None if state.ema_params is None else state.params}
    return {key: value for key, value in rest.items() if value is not None}


def _read_arrays(directory: epath.Path, item: str, template: chex.ArrayTree) -> chex.ArrayTree:
    """Reads an item of arrays, each process its part; raises UserError unless all is there, of the shapes expected.

    The manager's own way to read would wait for the other processes, of which one may have failed.
    """
    handler = ocp.StandardCheckpointHandler()
    with reading(directory, item):
        stored = dict(jax.tree_util.tree_leaves_with_path(handler.metadata(directory / item).tree))
        for path, x in jax.tree_util.tree_leaves_with_path(template):  # orbax's own error names no array
            if path in stored and tuple(stored[path].shape) != x.shape:
                raise UserError(f"checkpoint {directory} is of another model: {jax.tree_util.keystr(path)} is "
                                f"{list(stored[path].shape)}, expected {list(x.shape)}")
        return handler.restore(directory / item, args=ocp.args.StandardRestore(template))


def _require_same(directory: epath.Path, saved: Mapping[str, str], arrays: chex.ArrayTree) -> None:
    """Raises UserError unless arrays that were read have the digests that were saved; names those that have not."""
    wrong = [name for name, found in digests(arrays).items() if saved.get(name) != found] if saved else []
    if wrong:
        raise UserError(f"checkpoint {directory} is damaged: at step {directory.name} other values were saved of "
                        f"{few(wrong)}")
