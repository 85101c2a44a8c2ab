"""The law of phi's errors beside a trained model: calibration.json of a run or of an export."""

import hashlib
import json
import os
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from shapjax.errors import UserError
from shapjax.games.error_law import ErrorLaw
from shapjax.paths import as_path, sealed, unsealed, write_json

CALIBRATION = "calibration.json"
FIELDS = {"step": int, "params": str, "images": int, "held_out": bool}  # in `Calibration`, beside the law


class Calibration(NamedTuple):
    """Holds the law of a model's errors, and what it rests on.

    Attributes:
      law: of the errors of phi.
      step: of the checkpoint.
      params: digest of its parameters.
      images: that the law was fitted on.
      held_out: these were left out of training; else they are test images.
    """

    law: ErrorLaw
    step: int
    params: str
    images: int
    held_out: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the calibration as JSON can hold it, with a checksum."""
        return sealed(self._asdict() | {"law": self.law.to_dict()})


def digest(params: chex.ArrayTree) -> str:
    """Returns a digest of parameters: their values, types and shapes."""
    found = hashlib.sha256()
    for x in map(np.ascontiguousarray, jax.tree.leaves(jax.device_get(params))):
        found.update(f"{x.dtype} {x.shape}".encode())
        found.update(x.data)
    return found.hexdigest()


def write(directory: str | os.PathLike, calibration: Calibration) -> None:
    """Writes a calibration beside a model; an earlier one is replaced."""
    write_json(as_path(directory) / CALIBRATION, calibration.to_dict())


def read(directory: str | os.PathLike, *, step: int, params: chex.ArrayTree) -> Calibration | None:
    """Reads the calibration of a model; None if there is none of this step.

    Raises:
      UserError: if it is damaged, or of other parameters.
    """
    path = as_path(directory) / CALIBRATION
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
    except ValueError as e:
        raise UserError(f"{path} is damaged: it is not JSON ({str(e)[:100]}); delete it and run python -m shapjax "
                        "eval") from e
    try:
        values = unsealed(values)
        if not isinstance(values, dict) or values.keys() != {"law", *FIELDS}:
            raise ValueError(f"expected law, {', '.join(FIELDS)}")
        if wrong := [name for name, kind in FIELDS.items() if type(values[name]) is not kind]:
            raise ValueError(f"{wrong[0]} is {values[wrong[0]]!r}, expected {FIELDS[wrong[0]].__name__}")
        calibration = Calibration(**values | {"law": ErrorLaw.from_dict(values["law"])})
    except (ValueError, TypeError) as e:
        raise UserError(f"{path} holds no calibration of step {step}: {e}; delete it and run python -m shapjax "
                        "eval") from e
    if calibration.step != step:
        return None
    if calibration.params != digest(params):
        raise UserError(f"{path} is of other parameters than those of step {step} in {directory}; delete it and run "
                        "python -m shapjax eval")
    return calibration
