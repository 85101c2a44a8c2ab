"""The one interface between a model and everything that explains or measures it.

A `Classifier` holds a model's functions and its parameters. It is a pytree (parameters are the leaves, functions are
static), so it passes through `jax.jit` as an argument. `wrap` makes one from any function of images. Optional fields
are for models that offer more: packed coalitions, phi, attention maps.
"""

import numbers
from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from shapjax.games import contract, model_check
from shapjax.games.error_law import ErrorLaw
from shapjax.games.outputs import Reader
from shapjax.games.passes import distinct, in_passes
from shapjax.games.removal import Removal, hidden_pixels
from shapjax.games.shapley import sample_coalitions

READOUTS = ("patches", "class_token")
MAX_COMPARED_PLAYERS = 1024  # of coalitions that are evaluated once if they are the same


@flax.struct.dataclass
class Classifier:
    """An image classifier whose players are the patches of a grid.

    Every function takes the parameters first. Images are float32 [B, H, W, C], in the units that the model takes; the
    methods make them that, and pass integers on as they are. A coalition is bool [B, N], True = visible, patches in
    reading order. The methods raise `UserError` if a function does not return what is said here.

    Attributes:
      params: any pytree.
      grid: (gh, gw); N = gh·gw.
      logits_fn: (params, images) -> [B, K].
      coalition_fn: (params, images, mask [B, N]) -> v(S) [B, K]; of all patches, the logits.
      pair_fn: (params, images, mask [B, N]) -> v(S) and v(S^c), [B, K] each: a coalition and its complement together.
        None, for models that cannot pack them: both are rows of one batch.
      pair_passes: forward passes of one image that a pair costs: 1 if it is packed, else 2.
      phi_fn: (params, images) -> phi [B, N, K], of a self-explaining model.
      error_law: of the errors of phi, where they are calibrated.
      attention_fn: (params, images, delta) -> logits [B, K] and attention maps A [L, B, H, T, T] after the softmax.
        Rows attend to columns; the last N of the T tokens are the patches. delta, of the shape of A or None, is added
        to A, so that a gradient with respect to delta is the gradient with respect to A.
      attention_readout: the tokens that the logits are read from: "patches" (their mean or sum) or "class_token"
        (token 0).
      features_fn: (params, images, delta) -> logits [B, K] and the last spatial features [B, h, w, D]; delta as above.
      relevance_fn: (params, images, target int [B]) -> relevance of the attention maps [L, B, H, T, T] by layer-wise
        relevance propagation (Chefer et al. 2021, "beyond attention visualization").
      class_names: K names that targets may be given by; () without.
      pixel_range: (low, high) of float images, where it is known: others are refused.
    """

    params: Any
    grid: tuple[int, int] = flax.struct.field(pytree_node=False)
    logits_fn: Callable = flax.struct.field(pytree_node=False)
    coalition_fn: Callable = flax.struct.field(pytree_node=False)
    pair_fn: Callable | None = flax.struct.field(pytree_node=False, default=None)
    pair_passes: int = flax.struct.field(pytree_node=False, default=2)
    phi_fn: Callable | None = flax.struct.field(pytree_node=False, default=None)
    error_law: ErrorLaw | None = None
    attention_fn: Callable | None = flax.struct.field(pytree_node=False, default=None)
    attention_readout: str = flax.struct.field(pytree_node=False, default="patches")
    features_fn: Callable | None = flax.struct.field(pytree_node=False, default=None)
    relevance_fn: Callable | None = flax.struct.field(pytree_node=False, default=None)
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    pixel_range: tuple[float, float] | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def num_players(self) -> int:
        """Returns the number of patches N."""
        return self.grid[0] * self.grid[1]

    def logits(self, images: chex.Array) -> chex.Array:
        """Returns the logits float32 [B, K] of whole images; differentiable."""
        return self._logits(self.logits_fn, images)

    def coalition_logits(self, images: chex.Array, mask: chex.Array) -> chex.Array:
        """Returns v(S) float32 [B, K] of one coalition an image, mask bool [B, N]."""
        return self._logits(self.coalition_fn, images, mask)

    def pair_logits(self, images: chex.Array, mask: chex.Array) -> tuple[chex.Array, chex.Array]:
        """Returns v(S) and v(S^c), float32 [B, K] each, of one coalition an image, mask bool [B, N]."""
        images = contract.as_images(images, self.grid)
        if self.pair_fn:
            return tuple(contract.as_logits(v, images.shape[0]) for v in self.pair_fn(self.params, images, mask))
        both = self.coalition_logits(jnp.concatenate([images, images]), jnp.concatenate([mask, ~mask]))
        return tuple(jnp.split(both, 2))

    def phi(self, images: chex.Array) -> chex.Array:
        """Returns phi float32 [B, N, K]. Raises ValueError if the model does not explain itself."""
        return self._optional("phi_fn", "phi (it is not a self-explaining model)", images).astype(jnp.float32)

    def attention(self, images: chex.Array, delta: chex.Array | None = None) -> tuple[chex.Array, chex.Array]:
        """Returns logits [B, K] and attention maps [L, B, H, T, T]. Raises ValueError if the model has none."""
        logits, maps = self._optional("attention_fn", "attention maps", images, delta)
        return contract.as_logits(logits, jnp.shape(images)[0]), maps

    def features(self, images: chex.Array, delta: chex.Array | None = None) -> tuple[chex.Array, chex.Array]:
        """Returns logits [B, K] and features [B, h, w, D]. Raises ValueError if the model has no spatial features."""
        logits, features = self._optional("features_fn", "spatial features", images, delta)
        return contract.as_logits(logits, jnp.shape(images)[0]), features

    def relevance(self, images: chex.Array, targets: chex.Array) -> chex.Array:
        """Returns the relevance of the attention maps [L, B, H, T, T].

        Raises ValueError if the model cannot propagate relevance.
        """
        return self._optional("relevance_fn", "relevance propagation", images, targets)

    def check(self, images: chex.Array) -> None:
        """Runs the model four times on a few of the images, to find what shapes cannot tell. Not to be traced.

        Args:
          images: [B, H, W, C], B of at least 1.

        Raises:
          UserError: if logits are not finite or are probabilities, two evaluations differ (dropout), an image's logits
            depend on the other images (batch normalization in training mode), or the coalition of all patches has
            other logits than the image; or on all that methods refuse.
        """
        model_check.require_values(self, images)

    def _logits(self, fn: Callable, images: chex.Array, *mask: chex.Array) -> chex.Array:
        images = contract.as_images(images, self.grid)
        return contract.as_logits(fn(self.params, images, *mask), images.shape[0])

    def _optional(self, field: str, what: str, images: chex.Array, *others: chex.Array | None) -> Any:
        function = getattr(self, field)
        if function is None:
            raise ValueError(f"this model has no {what}: choose another method, or give {field} where it is wrapped")
        return function(self.params, contract.as_images(images, self.grid), *others)


def wrap(fn: Callable, params: Any = None, *, grid: tuple[int, int], removal: Removal | None = None,
         **optional: Any) -> Classifier:
    """Makes a `Classifier` from any function of images.

        model = games.wrap(module.apply, variables, grid=(7, 7), removal=games.Constant(0.0))  # Flax linen
        model = games.wrap(f, grid=(7, 7), removal=games.Blur(sigma=8.0))                      # a plain function

    Args:
      fn: (params, images) -> logits [B, K], K of at least 2; or (images) -> logits where params is None. It is a pure
        function in evaluation mode: an image's logits depend on that image alone (`Classifier.check`).
      params: any pytree of arrays.
      grid: (gh, gw), patches down and across.
      removal: what is painted over hidden patches (`games.removal`); None for a model with a coalition_fn of its own.
      optional: further fields of `Classifier`, such as coalition_fn and pair_fn of a model that needs no painting.

    Raises:
      ValueError: on a field or readout that does not exist, an argument of another kind, or unless exactly one of
        removal and coalition_fn is given.
    """
    known = set(Classifier.__dataclass_fields__) - {"params", "grid", "logits_fn"}
    if unknown := set(optional) - known:
        raise ValueError(f"a classifier has no field {sorted(unknown)[0]!r}; it has {', '.join(sorted(known))}")
    if (readout := optional.get("attention_readout", "patches")) not in READOUTS:
        raise ValueError(f"attention_readout is {readout!r}, expected one of {', '.join(READOUTS)}")
    if (removal is None) != ("coalition_fn" in optional):
        raise ValueError("give either removal, such as shapjax.games.Constant(0.0), or coalition_fn, a model's own way")

    def logits_fn(params: Any, images: chex.Array) -> chex.Array:
        return fn(images) if params is None else fn(params, images)

    if not isinstance(grid, list | tuple) or len(grid) != 2 or not all(
            isinstance(n, numbers.Integral) and n > 0 for n in grid):
        raise ValueError(f"grid is {grid!r}, expected the numbers of patches down and across, such as (7, 7)")
    grid = tuple(map(int, grid))
    optional["class_names"] = tuple(optional.get("class_names", ()))
    if (pixel_range := optional.get("pixel_range")) is not None:
        optional["pixel_range"] = low, high = tuple(map(float, pixel_range))
        if not low < high:
            raise ValueError(f"pixel_range is {pixel_range!r}, expected (low, high), such as (0, 1)")
    if removal is not None:
        if not callable(removal):
            raise ValueError(f"removal is {removal!r}, expected a function (images, hidden) -> images, such as "
                             "shapjax.games.Constant(0.0)")
        optional["coalition_fn"] = _painting(logits_fn, grid, removal)
    return Classifier(params=params, grid=grid, logits_fn=logits_fn, **optional)


def painted(model: Classifier, removal: Removal) -> Classifier:
    """Returns the model with a removal in place of its own way to hide patches."""
    return model.replace(coalition_fn=_painting(model.logits_fn, model.grid, removal), pair_fn=None, pair_passes=2,
                         error_law=None)


def _painting(logits_fn: Callable, grid: tuple[int, int], removal: Removal) -> Callable:
    def coalition_fn(params: Any, images: chex.Array, mask: chex.Array) -> chex.Array:
        contract.require_floats(images)
        painted = removal(images, hidden_pixels(mask, grid, images.shape[1:3]))
        if jnp.shape(painted) != images.shape:
            raise ValueError(f"the removal returns shape {jnp.shape(painted)} for images of {images.shape}, expected "
                             "images of the same shape")
        return logits_fn(params, painted)

    return coalition_fn


def values(model: Classifier, images: chex.Array, masks: chex.Array, *, read: Reader, batch_size: int = 256
           ) -> chex.Array:
    """Evaluates many coalitions of every image, at most `batch_size` of them in one forward pass.

    Coalitions that are the same are evaluated once.

    Args:
      model: the game.
      images: [B, H, W, C].
      masks: bool [B, M, N], or [M, N]: the same coalitions for every image.
      read: the output that is kept of a pass, such as `target_class(targets, "probability")`.
      batch_size: coalitions a forward pass; bounds the memory.

    Returns:
      [B, M, ...], `read` of v(S).
    """
    return _of_coalitions(model.coalition_logits, images, _rows(images, masks), read, batch_size)


def pair_values(model: Classifier, images: chex.Array, masks: chex.Array, *, read: Reader, batch_size: int = 256
                ) -> tuple[chex.Array, chex.Array]:
    """Evaluates the coalitions and their complements together, packed where the model can.

    Arguments as in `values`. A forward pass takes `batch_size` pairs, or half as many where a pair is two rows. Pairs
    that are the same, in either order, are evaluated once.

    Returns:
      two [B, M, ...], `read` of v(S) and of v(S^c).
    """
    masks_BMN = _rows(images, masks)
    inverted_BM1 = ~masks_BMN[..., :1]  # of the two, that with the first patch is evaluated
    both = _of_coalitions(model.pair_logits, images, masks_BMN ^ inverted_BM1, read,
                          max(1, batch_size // model.pair_passes))

    def side(one: chex.Array, other: chex.Array) -> chex.Array:
        return jnp.where(inverted_BM1.reshape(*one.shape[:2], *[1] * (one.ndim - 2)), other, one)

    return side(*both), side(*both[::-1])


def sampled_differences(model: Classifier, images: chex.Array, keys: chex.PRNGKey, *, num_pairs: int, read: Reader,
                        batch_size: int = 256) -> tuple[chex.Array, chex.Array]:
    """Draws pairs from the Shapley kernel for every image, and evaluates them.

    Arguments as in `pair_values`, and keys [B].

    Returns:
      masks bool [B, M, N], and `read` of v(S) less that of v(S^c), [B, M, ...].
    """
    masks = jax.vmap(lambda key: sample_coalitions(key, num_players=model.num_players, num_pairs=num_pairs))(keys)
    v, complement = pair_values(model, images, masks, read=read, batch_size=batch_size)
    return masks, v - complement


def _rows(images: chex.Array, masks: chex.Array) -> chex.Array:
    """Returns the coalitions of each image, bool [B, M, N]; raises ValueError if there are none, or of another kind."""
    masks = jnp.asarray(masks)
    if masks.dtype != bool or masks.ndim not in (2, 3) or not masks.size:
        raise ValueError(f"the masks are {masks.dtype} {list(masks.shape)}, expected bool [B, M, N] or [M, N], M of at "
                         "least 1; True = visible")
    return jnp.broadcast_to(masks, (len(images), *masks.shape[-2:]))


def _of_coalitions(fn: Callable, images: chex.Array, masks_BMN: chex.Array, read: Reader, batch_size: int) -> Any:
    """Reads `fn(images, mask)` for every image and mask; masks of an image that are the same are evaluated once.

    Not if the players are as many as pixels: then the search would cost more than it saves.
    """
    images, (b, m, n) = jnp.asarray(images), masks_BMN.shape
    masks_RN, image_R = masks_BMN.reshape(b * m, n), jnp.repeat(jnp.arange(b), m)
    rows_R = place_R = jnp.arange(b * m)
    count = None
    if n <= MAX_COMPARED_PLAYERS:
        rows_R, place_R, count = distinct(image_R, masks_RN)

    def one_pass(row: chex.Array) -> Any:
        image = image_R[row]
        return jax.tree.map(lambda logits: read(logits, image), fn(images[image], masks_RN[row]))

    out = in_passes(one_pass, rows_R, batch_size=batch_size, count=count)
    return jax.tree.map(lambda x: x[place_R].reshape(b, m, *x.shape[1:]), out)


def row_keys(key: chex.PRNGKey, num_rows: int) -> chex.Array:
    """Returns one key an image: the given ones, or keys folded from one key and the image's row.

    Args:
      key: one typed key (`jax.random.key`), or [B] of them, when images come in batches and each keeps its own.
      num_rows: the number of images B.
    """
    return key if key.ndim else jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(num_rows))
