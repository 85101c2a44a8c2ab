"""Fits the law of phi's errors on images that were not trained on, so that the intervals of explanations hold."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from shapjax.attribution import shapley_values
from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.over_images import OverImages
from shapjax.games import classifier, cost, error_law, outputs
from shapjax.games.classifier import Classifier
from shapjax.games.error_law import ErrorLaw, Refined

BUDGETS = (0.0, 0.25, 1.0, 4.0)  # pairs over players, at which intervals are made to hold
LEVELS = (0.5, 0.8, 0.95)  # of the intervals that are made to hold
MIN_IMAGES, USUAL_IMAGES, MAX_IMAGES = 16, 64, 256
MIN_NEAR_PAIRS, MAX_NEAR_PAIRS = 256, 1_024  # an image, of the values that stand for the Shapley values
PASSES = 20_480  # in all, or as many as `FLOPS` pay for, if that is more
FLOPS = 1e13


class Plan(NamedTuple):
    """Holds how much is asked of a model.

    Attributes:
      images: at most.
      pairs: an image, to refine by.
      near_pairs: an image, of the values that stand for the Shapley values.
    """

    images: int
    pairs: int
    near_pairs: int


class Sample(NamedTuple):
    """Holds what a law is fitted to, of C images.

    Attributes:
      prior: float32 [C, N, K].
      masks: bool [C, M, N], of M pairs, as many as the largest of `BUDGETS` takes.
      differences: float32 [C, M, K], v(S) − v(S^c).
      totals: float32 [C, K].
      near: float32 [C, N, K], Shapley values, or estimates from other pairs.
      near_errors: float32 [C, N, K], their standard errors; 0 if they are exact.
    """

    prior: chex.Array
    masks: chex.Array
    differences: chex.Array
    totals: chex.Array
    near: chex.Array
    near_errors: chex.Array


def plan(model: Classifier, image_shape: tuple[int, ...]) -> Plan:
    """Returns how much to ask of a model: more images and pairs where passes cost little.

    Args:
      model: whose passes are counted.
      image_shape: (H, W, C).
    """
    n = model.num_players
    specs = (jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in ((image_shape, np.float32), ((n,), bool)))
    flops = cost.count_flops(Classifier.pair_logits, model, *specs)
    passes = max(PASSES, round(FLOPS / flops) if flops else 0)
    pairs, least = budget_pairs(BUDGETS[-1], n), max(MIN_NEAR_PAIRS, 4 * n)
    near_pairs = max(least, min(passes // USUAL_IMAGES - pairs, MAX_NEAR_PAIRS))
    return Plan(max(MIN_IMAGES, min(passes // (pairs + near_pairs), MAX_IMAGES)), pairs, near_pairs)


def budget_pairs(budget: float, num_players: int) -> int:
    """Returns the pairs of a budget, pairs over players; at least one where it is not 0."""
    return max(round(budget * num_players), budget > 0)


def calibrate(model: Classifier, images: np.ndarray, *, batch_size: int = 256, seed: int = 0, progress: bool = True
              ) -> ErrorLaw:
    """Fits the law of the errors of a model's phi, without enumeration unless that is cheaper.

    Args:
      model: has phi, whose sum is v(all) − v(∅).
      images: float32 [n, H, W, C], as the model takes them, not trained on; as many as `plan` says are used.
      batch_size: coalition pairs a forward pass.
      seed: of the coalitions.
      progress: show a progress bar.

    Raises:
      ValueError: if there are fewer images than needed.
    """
    if len(images) < MIN_IMAGES:
        raise ValueError(f"{len(images)} images are too few to calibrate on; expected at least {MIN_IMAGES}")
    asked = plan(model, images.shape[1:])
    return fit(sample(model, images[:asked.images], asked, batch_size=batch_size, seed=seed, progress=progress))


def sample(model: Classifier, images: np.ndarray, asked: Plan, *, batch_size: int = 256, seed: int = 0,
           progress: bool = True) -> Sample:
    """Asks a model's game, for all images, for what a law is fitted to; other arguments as of `calibrate`."""
    _, pairs, near_pairs = asked

    def fn(model: Classifier, images: chex.Array, keys: chex.Array, near_keys: chex.Array) -> Sample:
        masks, differences = classifier.sampled_differences(
            model, images, keys, num_pairs=pairs, read=outputs.all_classes(), batch_size=batch_size)
        phi = model.phi(images)
        if 2 ** (model.num_players - 1) <= near_pairs:
            near = shapley_values.exact_all(model, images, batch_size=batch_size)
            errors = jnp.zeros_like(near)
        else:
            near, errors, *_ = shapley_values.kernel_shap_all(
                model, images, near_keys, batch_size=batch_size, tolerance=0.0, max_coalitions=2 * near_pairs,
                round_coalitions=2 * near_pairs)
        return Sample(phi, masks, differences, phi.sum(axis=1), near, errors)

    keys = [image_keys(use, len(images), seed=seed) for use in ("calibration", "ground_truth")]
    with tqdm.tqdm(total=len(images), desc=f"calibration, {pairs + near_pairs} passes an image", unit="image",
                   disable=not progress) as bar:
        return OverImages(fn, block=1)(model, images, *keys, done=bar.update)


def fit(found: Sample) -> ErrorLaw:
    """Fits a law: the most likely numbers at all budgets together, then a factor for each budget.

    Images with values whose standard errors are infinite are left out.

    Raises:
      ValueError: if fewer than half of `MIN_IMAGES` are left.
    """
    from scipy import optimize  # loads slowly, and most users of the package do without it

    known = np.isfinite(found.near_errors).all(axis=(1, 2))
    if known.sum() < MIN_IMAGES / 2:
        raise ValueError(f"the Shapley values of {known.sum()} images are known well enough, expected "
                         f"{MIN_IMAGES // 2}")
    found = Sample(*(x[known] for x in found))

    def law_of(numbers: chex.Array) -> ErrorLaw:
        return ErrorLaw(*jnp.exp(numbers), jnp.zeros(1), jnp.ones(1))

    def loss(numbers: np.ndarray) -> float:
        value = float(_surprise(refined(found, law_of(jnp.asarray(numbers, jnp.float32))), found))
        return value if np.isfinite(value) else 1e9

    start = np.log([0.15, 8.0, 0.3, 2.0])  # scale, freedom, floor, ridge
    best = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 0.02, "fatol": 1e-4, "maxfev": 400},
                             bounds=[(-12, 6), (np.log(3.0), np.log(100.0)), (-7, 7), (-7, 9)])
    law = law_of(jnp.asarray(best.x, jnp.float32))
    factors = [factor_for(at_budget, found) for at_budget in refined(found, law)]
    return jax.tree.map(np.asarray, law._replace(budgets=np.float32(BUDGETS), factors=np.float32(factors)))


def refined(found: Sample, law: ErrorLaw) -> list[Refined]:
    """Refines the prior of every image by the first pairs of a sample, as many as each of `BUDGETS` takes."""
    n = found.prior.shape[1]
    return [refined_by(budget_pairs(budget, n), law, *found[:4]) for budget in BUDGETS]


@jax.jit
def refined_by(pairs: chex.Array, law: ErrorLaw, *games: chex.Array) -> Refined:
    """Refines the priors of games by so many of their pairs; games as the arguments of `error_law.refine`, [C, ...]."""
    return jax.lax.map(lambda row: error_law.refine(law, *row, taken=pairs), games)


def factor_for(at_budget: Refined, found: Sample) -> float:
    """Returns the factor on standard errors with which intervals of `LEVELS` hold their share of values, on average."""
    error = np.abs(np.asarray(at_budget.values, np.float64) - found.near)
    low, high = -4.0, 4.0  # logarithms
    for _ in range(30):
        middle = (low + high) / 2
        held = [error <= half_widths(at_budget, level, factor=np.exp(middle), extra=found.near_errors)
                for level in LEVELS]
        low, high = (middle, high) if np.mean(held) < np.mean(LEVELS) else (low, middle)
    return float(np.exp(middle))


def half_widths(at_budget: Refined, level: float, *, factor: float = 1.0, extra: np.ndarray | float = 0.0
                ) -> np.ndarray:
    """Returns half the widths of intervals, float64 of the shape of the standard errors.

    Args:
      at_budget: of B images.
      level: the share of Shapley values that should lie inside.
      factor: on the standard errors.
      extra: float [B, N, K], standard errors of what is compared, added in quadrature.
    """
    errors = np.hypot(factor * np.asarray(at_budget.standard_errors, np.float64), extra)
    return at_budget._replace(standard_errors=errors).half_width(level)


@jax.jit
def _surprise(at_budgets: list[Refined], found: Sample) -> chex.Array:
    """Returns the mean negative log density of Student's law at the errors, summed over the budgets."""
    total = jnp.float32(0)
    for values, errors, freedom in at_budgets:
        scale = jnp.maximum(jnp.sqrt(errors**2 + found.near_errors**2), 1e-12)
        total -= jnp.mean(jax.scipy.stats.t.logpdf(found.near - values, freedom[:, None, None], scale=scale))
    return total
