"""Writes a trained model as files that need no shapjax; `shapjax.export.read` describes them.

The program is StableHLO by `jax.export`, lowered for several kinds of device at once, with a batch of any size.
Where a function takes a model, it is what `shapjax.load` returns.
"""

import contextlib
import json
import os
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from shapjax.errors import UserError
from shapjax.export.calibration import CALIBRATION
from shapjax.export.read import CONFIG, FORMAT, FORMAT_KEY, PAIR, PROGRAM, README, WEIGHTS, checksum, is_marked
from shapjax.models.inference import explanation
from shapjax.paths import as_path, replacing, sealed
from shapjax.training.digest import digests
from shapjax.version import __version__

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # that JAX lowers for
MAX_PROGRAM_BYTES = 2**31 - 2**24  # flatbuffers' limit of 2 GiB, less what is not parameters


def write(model: Any, directory: str | os.PathLike, *, programs: Mapping[str, bytes], weights: bool) -> list[str]:
    """Writes an exported model. All files appear together at the end, and replace those of an earlier export.

    Args:
      model: from `shapjax.load`.
      directory: made if it is not there; other files in it stay as they are.
      programs: by the names of their files, from `stablehlo`; {} writes none.
      weights: write the parameters.

    Returns:
      the names of the files written.

    Raises:
      UserError: if it would replace files of something else (`require_free`).
      OSError: if a file cannot be written; then all are as they were. In a bucket those before it are new, and `read`
        refuses what is there.
    """
    directory = as_path(directory)
    require_free(directory)
    arrays = _arrays(model) if weights else {}
    contents = ({WEIGHTS: safetensors.numpy.save(arrays)} if weights else {}) | programs
    if model.calibration:
        contents[CALIBRATION] = json.dumps(model.calibration.to_dict(), indent=2).encode() + b"\n"
    checksums = {name: checksum(content) for name, content in contents.items()}
    contents[README] = usage(model, contents).encode()
    contents[CONFIG] = json.dumps(sealed({
        FORMAT_KEY: FORMAT, "shapjax": __version__, "jax": jax.__version__, "step": model.step, "files": checksums,
        "digests": digests(arrays) if weights else {}, "measured": model.measured, **model.meta.to_dict()}),
        indent=2).encode() + b"\n"
    # The last one in, config.json, takes its place first. It is the mark of an export: if the process dies in between,
    # `read` finds that the checksums are wrong, and the next export may replace all of it.
    with contextlib.ExitStack() as replacements:
        for name, content in contents.items():
            replacements.enter_context(replacing(directory / name)).write_bytes(content)
    for name in {WEIGHTS, PROGRAM, PAIR, CALIBRATION} - contents.keys():
        (directory / name).unlink(missing_ok=True)
    return list(contents)


def require_free(directory: str | os.PathLike) -> None:
    """Raises UserError if the directory holds a training run, or files with our names that no export has written."""
    directory = as_path(directory)
    if (directory / "checkpoints").exists():
        raise UserError(f"{directory} holds a training run, whose {CONFIG} would be replaced; give another --output")
    taken = [name for name in (CONFIG, WEIGHTS, PROGRAM, PAIR, README, CALIBRATION) if (directory / name).exists()]
    if taken and not is_marked(directory):
        raise UserError(f"{directory} holds {', '.join(taken)} of something else, which would be replaced; give "
                        "another --output, or move that away")


def require_platforms(platforms: Sequence[str]) -> None:
    """Raises UserError unless these are kinds of device that JAX lowers for."""
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise UserError(f"platforms {','.join(platforms)}: expected some of {', '.join(PLATFORMS)}")


def stablehlo(model: Any, *, platforms: Sequence[str]) -> dict[str, bytes]:
    """Returns serialized `jax.export.Exported`s by the names of their files, parameters and preprocessing inside.

    Of images uint8 [b, H, W, C], b of at least 1, `PROGRAM` gives the dict of `inference.explanation`; for a calibrated
    model, whose values can be refined, `PAIR` gives v(S) and v(S^c), float32 [b, K] each, of masks bool [b, N] too.

    Args:
      model: from `shapjax.load`.
      platforms: some of `PLATFORMS`, to run on; none need be on this machine.

    Raises:
      UserError: on an unknown platform, or a model that is too large for such a file.
    """
    require_platforms(platforms)
    if sum(x.nbytes for x in jax.tree.leaves(model.params)) > MAX_PROGRAM_BYTES:
        raise UserError("a program with this model's parameters would be larger than 2 GiB, which jax.export cannot "
                        "write; use --format safetensors")
    (b,), classifier, platforms = jax.export.symbolic_shape("b"), model.classifier, list(dict.fromkeys(platforms))
    images = jax.ShapeDtypeStruct((b, *model.image_shape), jnp.uint8)
    masks = jax.ShapeDtypeStruct((b, classifier.num_players), bool)
    programs = {PROGRAM: (lambda images: explanation(classifier, images), (images,))}
    if model.calibration:
        programs[PAIR] = classifier.pair_logits, (images, masks)
    return {name: bytes(jax.export.export(jax.jit(fn), platforms=platforms)(*arguments).serialize())
            for name, (fn, arguments) in programs.items()}


def largest_difference(model: Any, program: bytes) -> float | None:
    """Returns how far a program's Shapley values are from the model's, on two random images, over the largest value.

    None if the program is not for this machine's devices.
    """
    exported = jax.export.deserialize(program)
    if jax.export.default_export_platform() not in exported.platforms:
        return None
    images = np.random.default_rng(0).integers(0, 256, size=(2, *model.image_shape), dtype=np.uint8)
    values, expected = (np.asarray(result["shapley"]) for result in (
        exported.call(images), jax.jit(explanation)(model.classifier, images)))
    return float(np.abs(values - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))


def usage(model: Any, names: Collection[str]) -> str:
    """Returns the README of an export with these files: how to load each, in code that runs in its directory."""
    (h, w, c), (gh, gw), k = model.image_shape, model.grid, len(model.class_names)
    errors = ", standard_error, freedom" if model.calibration else ""
    parts = [f"""\
        # An image classifier that explains itself

        Written by shapjax {__version__} at step {model.step} of the training. There are {k} classes. Images have
        {h} x {w} pixels, cut and resized to that beforehand, in {c} {"channels" if c > 1 else "channel"}. Each of the
        {gh} x {gw} patches of an image has a Shapley value for every class, in logits; those of a class sum to its
        logit. `{CONFIG}` has the names of the classes and the settings of the training.

        The code below runs in this directory.
        """]
    if PROGRAM in names:
        parts.append(f"""\
        ## {PROGRAM}

        The program takes pixels and needs only JAX: `pip install jax flatbuffers`. It was written by JAX
        {jax.__version__}; that newer releases read it is promised for six months.

        ```python
        import hashlib
        import json
        import pathlib

        import jax
        import numpy as np
        from jax import export

        config = json.loads(pathlib.Path("{CONFIG}").read_text())

        def read(name):
            content = pathlib.Path(name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == config["files"][name], f"{{name}} is damaged"
            return content

        explain = jax.jit(export.deserialize(read("{PROGRAM}")).call)
        images = np.zeros((2, {h}, {w}, {c}), np.uint8)  # yours, any number of them
        result = explain(images)  # logits [2, {k}], shapley [2, {gh}, {gw}, {k}], probabilities [2, {k}]{errors}
        best = result["probabilities"][0].argmax()
        print(config["class_names"][best], result["shapley"][0, :, :, best])
        ```
        """)
    if PAIR in names:
        parts.append(f"""\
        ## {PAIR}, {CALIBRATION}

        `standard_error` [2, {gh}, {gw}, {k}] is the scale of Student's law of an error, with `freedom` [2] degrees. A
        pair, a coalition of patches and its complement, refines the values; the more of them, the nearer they come to
        the Shapley values:

        ```python
        law = json.loads(read("{CALIBRATION}"))["law"]
        pair = jax.jit(export.deserialize(read("{PAIR}")).call)

        def refine(image, pairs, rng=np.random.default_rng(0)):
            phi = np.asarray(explain(image[None])["shapley"][0]).reshape({gh * gw}, {k})
            sizes = np.arange(1, len(phi))
            chance = 1 / (sizes * (len(phi) - sizes))  # the Shapley kernel
            masks = [rng.permutation(len(phi)) < size for size in rng.choice(sizes, pairs, p=chance / chance.sum())]
            x = np.where(masks, 1.0, -1.0)
            v, complement = pair(np.repeat(image[None], pairs, axis=0), np.asarray(masks))  # [pairs, {k}] each
            left = v - complement - x @ phi
            x -= x.mean(axis=1, keepdims=True)
            square = (phi**2).mean(axis=1)
            ridge = law["ridge"] * (law["floor"] + 1) / (law["floor"] + square / square.mean())
            inverse = np.linalg.inv(x.T @ x + np.diag(ridge))
            inverse -= np.outer(inverse.sum(0), inverse.sum(0)) / inverse.sum()  # the sums stay the logits
            return (phi + inverse @ (x.T @ left)).reshape({gh}, {gw}, {k})

        print(refine(images[0], pairs=32)[:, :, best])
        ```
        """)
    if WEIGHTS in names:
        parts.append(f"""\
        ## {WEIGHTS}

        The parameters, float32, by their names. shapjax makes the model of them:

        ```python
        import numpy as np
        import shapjax

        model = shapjax.load(".")
        result = model.explain(np.zeros((2, {h}, {w}, {c}), np.uint8))
        print(model.class_names[result.probabilities[0].argmax()])
        ```

        Any program can read them as arrays: `pip install safetensors`.

        ```python
        from safetensors.numpy import load_file

        for name, array in load_file("{WEIGHTS}").items():
            print(name, array.shape)
        ```
        """)
    return "\n".join(map(textwrap.dedent, parts))


def _arrays(model: Any) -> dict[str, np.ndarray]:
    """Returns the parameters by name, in C order, because safetensors writes memory as it is."""
    arrays = flatten_dict(jax.device_get(model.params), sep="/")
    return {name: np.asarray(x, order="C") for name, x in arrays.items()}
