"""Makes what goes into a model and comes out of it uniform, images, targets and logits, or refuses it in one line.

Outside of `jit` values are looked at too. Inside, only shapes and types are: a target that is no class gives NaN there.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.errors import UserError, near_names
from shapjax.games import checks

NO_CLASS = np.iinfo(np.int32).max  # a target inside of jit that is no class; what is read there is NaN
WRAPPING = "see \"Explain your own model in ten lines\" in docs/attribution.md"


def as_classifier(model: Any) -> Any:
    """Returns the `Classifier` of a model that `shapjax.load` returned, or the one that is given.

    Raises:
      UserError: if the model is something else.
    """
    game = getattr(model, "classifier", model)
    if not hasattr(game, "coalition_logits"):
        raise UserError(f"the model is {type(model).__name__}, expected what shapjax.load or games.wrap returns; "
                        f"{WRAPPING}")
    return game


def as_images(images: Any, grid: tuple[int, int] | None = None) -> chex.Array:
    """Returns images as an array [B, H, W, C]: floats of any width as float32, integers as they are.

    Args:
      images: an array of any library, or a list of arrays.
      grid: (gh, gw) of the model; None leaves out the question whether channels come first.

    Raises:
      UserError: if they are no numbers, have other axes, or their channels come first.
    """
    if not isinstance(images, jax.Array):
        parts = images if isinstance(images, list | tuple) else ()
        try:
            images = jnp.stack(images) if any(isinstance(x, jax.Array) for x in parts) else np.asarray(images)
        except (ValueError, TypeError):  # of lists whose images differ in shape
            raise UserError("the images are of different shapes, expected one array [B, H, W, C]") from None
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    if not is_float and images.dtype.kind not in "iub":
        raise UserError(f"the images are {images.dtype}, expected float32 [B, H, W, C]")
    checks.require_shape("images", images, (None,) * 4, "images, height, width, channels")
    _, h, w, c = images.shape
    if grid and h <= 4 < min(w, c) and not h == 1 == grid[0]:
        raise UserError(f"the images have shape {images.shape}, which is channels first, expected [B, H, W, C]: give "
                        f"images.transpose(0, 2, 3, 1), and turn them back in the model's function; {WRAPPING}")
    return jnp.asarray(images.astype(np.float32) if is_float else images)


def require_floats(images: chex.Array) -> None:
    """Raises UserError if images are integers, which have no gradient and which no color or noise can be painted on."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"the images are {images.dtype}, expected floats in the units that the model takes: give "
                        "images.astype(np.float32), divided by 255 if the model takes pixels in [0, 1]")


def require_range(model: Any, images: chex.Array) -> None:
    """Raises UserError if float images are outside of the range that a model is known to take. Not looked at in jit."""
    if model.pixel_range and not isinstance(images, jax.core.Tracer) and jnp.issubdtype(images.dtype, jnp.floating):
        values = np.asarray(images)  # of jax's arrays, even a minimum would be traced within jit
        (low, high), least, most = model.pixel_range, float(values.min()), float(values.max())
        if not low <= least <= most <= high:  # NaN too
            raise UserError(f"the images are {images.dtype} from {least:.4g} to {most:.4g}, expected floats in "
                            f"[{low:g}, {high:g}], or uint8")


def as_targets(targets: Any, num_classes: int, *, what: str = "targets", num_images: int | None = None,
               class_names: Sequence[str] = ()) -> chex.Array:
    """Returns targets as class numbers int32 [B].

    Args:
      targets: class numbers [B] of any integer type, one-hot rows [B, K], or class names where there are any; an array
        or a list.
      num_classes: K.
      what: for the message: "targets" or "labels".
      num_images: B; None: as many as there are targets.
      class_names: K names, or none.

    Returns:
      of numpy; inside of jit a traced array, with `NO_CLASS` for what is no class.

    Raises:
      UserError: if they are something else or, outside of jit, one is no class.
    """
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(targets))
    xp, targets = (jnp, jnp.asarray(targets)) if traced else (np, np.asarray(targets))
    expected = "B" if num_images is None else num_images
    if targets.dtype.kind in "OU":
        targets = _numbers_of_names(targets, what, class_names, num_classes)
    is_one_hot = targets.ndim == 2 and targets.shape[1] == num_classes
    b = len(targets) if num_images is None and targets.ndim else num_images
    if not is_one_hot or targets.shape[0] != b:
        checks.require_shape(what, targets, (b,), "images")
    if is_one_hot:
        valid = ((targets == 0) | (targets == 1)).all(axis=1) & ((targets == 1).sum(axis=1) == 1)
        if not traced and not valid.all():
            raise UserError(f"row {np.flatnonzero(~valid)[0]} of the {what} [{b}, {num_classes}] is not one-hot: "
                            f"expected a single 1, or class numbers, int [{expected}]")
        targets = xp.argmax(targets == 1, axis=1)
    elif not jnp.issubdtype(targets.dtype, jnp.integer):
        raise UserError(f"the {what} are {targets.dtype}, expected class numbers, int [{expected}]")
    if not traced:
        checks.require_targets(targets, num_classes, what=what)
        return targets.astype(np.int32)
    if targets.dtype.itemsize < 4:  # K may be more than they can count to
        targets = targets.astype(jnp.int32)
    if not is_one_hot:
        valid = (targets >= 0) & (targets < num_classes)
    return jnp.where(valid, targets, NO_CLASS).astype(jnp.int32)


def _numbers_of_names(names: np.ndarray, what: str, class_names: Sequence[str], num_classes: int) -> np.ndarray:
    if len(class_names) != num_classes:
        found = f"{len(class_names)} class names for {num_classes} classes" if len(class_names) else "no class names"
        raise UserError(f"the {what} are names, and the model has {found}: give class numbers, or games.wrap(…, "
                        f"class_names=…)")
    number = {name: i for i, name in enumerate(class_names)}
    for name in map(str, names.ravel()):
        if name not in number:
            raise UserError(f"there is no class {name!r}; {near_names(name, number)}")
    return np.array([number[str(name)] for name in names.ravel()], np.int32).reshape(names.shape)


def as_logits(out: Any, num_images: int) -> chex.Array:
    """Returns what a model's function returned as logits float32 [B, K].

    Raises:
      UserError: unless it is one float array of that shape, K of at least 2; says how to take it.
    """
    if not _is_array(out):
        entries = list(_entries(out))
        fitting = [(path, x) for path, x in entries if _are_logits(x, num_images)]
        fitting.sort(key=lambda entry: "logits" not in entry[0])
        if fitting:
            (path, x), = fitting[:1]
            advice = f"entry {path} is {_described(x)}: wrap lambda p, x: f(p, x){path}"
        else:
            advice = f"none of its entries is that: {', '.join(f'{path} {_described(x)}' for path, x in entries[:4])}"
        raise UserError(f"the model returns {type(out).__name__}, expected logits, one float array [B, K]; {advice}")
    if _are_logits(out, num_images):
        return out.astype(jnp.float32)
    shape, advice = out.shape, "make them that in the function that is wrapped"
    if not jnp.issubdtype(out.dtype, jnp.floating):
        advice = "take the scores before they become a decision"
    elif shape in ((num_images,), (num_images, 1)):
        z = "f(p, x)" if len(shape) == 2 else "f(p, x)[:, None]"
        advice = ("one logit z a binary classifier are the two logits 0 and z: wrap lambda p, x: "
                  f"jnp.pad({z}, ((0, 0), (1, 0)))")
    elif len(shape) > 2 and shape[0] == num_images and set(shape[2:]) == {1}:
        advice = "wrap lambda p, x: f(p, x).reshape(len(x), -1)"
    raise UserError(f"the model returns {_described(out)} for {num_images} images, expected logits, float "
                    f"[{num_images}, K] with K of at least 2: {advice}")


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def _are_logits(x: Any, num_images: int) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.ndim == 2 and x.shape[0] == num_images and x.shape[1] > 1


def _described(x: chex.Array) -> str:
    return f"{x.dtype} {list(x.shape)}"


def _entries(out: Any) -> Iterator[tuple[str, chex.Array]]:
    """Returns the arrays of a container, or of an object's attributes, each with the code that takes it."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(out)[0]:
        named = {"": leaf} if _is_array(leaf) else {f".{name}": x for name, x in getattr(leaf, "__dict__", {}).items()}
        yield from ((jax.tree_util.keystr(path) + name, x) for name, x in named.items() if _is_array(x))


_logits = jax.jit(lambda model, images: model.logits(images))


def num_classes(model: Any, images: chex.Array) -> int:
    """Returns K, from shapes and types alone: nothing is computed, and nothing traced twice.

    Args:
      model: a `Classifier`.
      images: [B, H, W, C].

    Raises:
      UserError: if the model cannot take these images or returns something else than logits, or logits of another
        number of classes than it has names.
    """
    try:
        k = _logits.eval_shape(model, images).shape[1]
    except UserError:
        raise
    except Exception as error:  # whatever the function of a user raises
        require_floats(images)  # the likely cause
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(f"the model fails on images {_described(images)} ({type(error).__name__}: {reason}); "
                        f"{WRAPPING}") from error
    if len(model.class_names) not in (0, k):
        raise UserError(f"the model returns {k} logits and has {len(model.class_names)} class names: expected as many")
    return k


def require_finite_logits(logits: np.ndarray, what: str = "logits") -> None:
    """Raises UserError if logits float [B, K] hold NaN or infinity. Call it outside of jit."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise UserError(f"the model's {what} are not finite for {bad.size} of {len(logits)} images, the first in row "
                        f"{bad[0]}: check the model's parameters, and the units of the images")


def prepared(model: Any, images: Any, targets: Any = None, *, what: str = "targets", **others: Any
             ) -> tuple[chex.Array, chex.Array | None]:
    """Returns the images and targets of an attribution method or metric as it takes them.

    Args:
      model: a `Classifier`.
      images: see `as_images` and `require_range`.
      targets, what: see `as_targets`; None: there are none.
      others: see `checks.require_arguments`.

    Raises:
      ValueError: if an argument does not fit.
    """
    images = as_images(images, model.grid)
    checks.require_arguments(len(images), **others)
    require_range(model, images)
    if targets is None:
        return images, None
    return images, as_targets(targets, num_classes(model, images), what=what, num_images=len(images),
                              class_names=model.class_names)


def of_images(*static: str) -> Callable[[Callable], Callable]:
    """Makes a public function of one that is traced: its arguments are made uniform and checked, and it is compiled.

    The function takes (model, images, …). Of its other arguments, those named targets or labels, key (where it is
    required), batch_size and coalitions are checked. Traced targets that are no class give NaN.

    Args:
      static: names of the arguments that the compiled program depends on.
    """
    def decorate(fn: Callable) -> Callable:
        signature, program = inspect.signature(fn), jax.jit(fn, static_argnames=static)
        what = next((name for name in ("targets", "labels") if name in signature.parameters), None)
        draws = "key" in signature.parameters and signature.parameters["key"].default is inspect.Parameter.empty

        @functools.wraps(fn)
        def call(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            given = bound.arguments
            given["model"] = as_classifier(given["model"])
            others = {"key": given["key"]} if draws else {}
            if "batch_size" in given:
                others["batch_size"] = given["batch_size"]
            others["coalitions"] = tuple(value for name, value in given.items() if name.endswith("coalitions"))
            targets = given[what] if what else None
            given["images"], targets = prepared(given["model"], given["images"], targets, what=what, **others)
            if what:
                given[what] = targets
            out = program(*bound.args, **bound.kwargs)
            return out if not isinstance(targets, jax.core.Tracer) else jnp.where(
                (targets != NO_CLASS).reshape(-1, *[1] * (out.ndim - 1)), out, jnp.nan)

        return call

    return decorate
