"""Runs made up for the report: the files of an evaluation, and of a comparison of methods, with plausible numbers."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from shapjax.evaluation.refinement_quality import CURVE
from shapjax.report import page

NAMES = ["<b>cat</b>", "dog & bone", "$x$ \"quoted\"", "bird"]
IMAGES, GRID = 14, (2, 2)
CONFIG = {"dataset": "pets", "model": {"width": 64}}

METHODS = {  # key: title, family, citation, options, passes, how much of the map is noise
    "random": ("Random", "baseline", "", "", 0.0, 1.0),
    "gradient": ("Gradient", "gradient", "Simonyan et al. 2014", "", 3.0, 0.9),
    "input_x_gradient": ("Input × gradient", "gradient", "Shrikumar et al. 2017", "", 3.0, 0.85),
    "integrated_gradients": ("Integrated gradients", "gradient", "Sundararajan et al. 2017", "32 steps", 96.0, 0.5),
    "smoothgrad": ("SmoothGrad", "gradient", "Smilkov et al. 2017", "16 samples", 48.0, 0.8),
    "gradcam": ("Grad-CAM", "gradient", "Selvaraju et al. 2017", "", 3.0, 0.6),
    "attention": ("Attention", "attention", "", "last layer", 1.0, 0.85),
    "rollout": ("Rollout", "attention", "Abnar & Zuidema 2020", "", 1.0, 0.8),
    "gradient_rollout": ("Gradient rollout", "attention", "Chefer et al. 2021", "", 3.0, 0.45),
    "relevance": ("Relevance propagation", "attention", "Chefer et al. 2021", "", 3.0, 0.45),
    "leave_one_out": ("Leave one out", "coalition", "Zeiler & Fergus 2014", "", 50.0, 0.35),
    "include_one": ("Include one", "coalition", "", "", 50.0, 0.45),
    "rise": ("RISE", "coalition", "Petsiuk et al. 2018", "1 024 masks", 1024.0, 0.3),
    "lime": ("LIME", "coalition", "Ribeiro et al. 2016", "512 samples", 512.0, 0.25),
    "kernel_shap": ("KernelSHAP", "shapley", "Lundberg & Lee 2017", "2 048 coalitions", 2048.0, 0.08),
    "permutation": ("Permutation sampling", "shapley", "Castro et al. 2009", "64 permutations", 3136.0, 0.1),
    "exact": ("Exact Shapley values", "shapley", "Shapley 1953", "all coalitions", 65536.0, 0.0),
    "phi": ("phi, this model’s own", "self-explaining", "Fan et al. 2026", "", 1.0, 0.06),
}
METRICS = [
    {"key": "shapley_r2", "title": "R² to exact", "better": "higher", "digits": 3,
     "hint": "agreement with the exact Shapley values of the same model"},
    {"key": "deletion", "title": "Deletion AUC", "better": "lower", "digits": 3,
     "hint": "mean probability of the class while the most important patches are removed one by one"},
    {"key": "insertion", "title": "Insertion AUC", "better": "higher", "digits": 3,
     "hint": "mean probability of the class while the most important patches are shown one by one"},
    {"key": "sensitivity", "title": "Sensitivity-n", "better": "higher", "digits": 2,
     "hint": "rank correlation of a random selection’s attribution with the model’s log-odds for it"},
    {"key": "gini", "title": "Gini", "better": None, "digits": 2,
     "hint": "sparseness: 0 if all patches have the same share, near 1 if one patch has it all"},
]


def _point(pairs, r2):
    share = {"mean": 0.01 * (47 + pairs), "low": 0.1, "high": 0.9}
    return {"pairs": pairs, "coverage": {level: share for level in ("0.5", "0.8", "0.95")}, "curve": list(CURVE),
            "width": 0.3, "standard_error": 0.0123, "r2": r2, "rmse": 0.1 / (1 + pairs), "gain": None,
            "kernel_shap_r2": r2 - 0.1 if pairs else None, "kernel_shap_rmse": 0.2 if pairs else None,
            "permutation_r2": None, "permutation_rmse": None}


REFINEMENT = {"calibration": {"images": 64, "held_out": True}, "images": 12,
              "points": [_point(0, 0.9701), _point(4, 0.9812), _point(16, 0.9923)]}


@pytest.fixture(scope="session")
def leave_out_plots():
    """Returns leave_out_plots(patch): it makes pages without the plots, which take most of the time."""

    def patch_page(patch):
        plots = {f"{theme}_{width}": "data:," for theme in ("light", "dark") for width in ("wide", "narrow")}
        patch.setattr(page, "_variants", lambda *_, **__: plots)

    return patch_page


@pytest.fixture
def no_curves(monkeypatch, leave_out_plots):
    """Leaves out the plots, for tests that read the text."""
    leave_out_plots(monkeypatch)


@pytest.fixture(scope="session")
def make_run():
    """Writes the files of a run whose predicted values are ground truth with some noise."""

    def make(directory, *, noise=0.2, exact=True, weight=4.0, names=NAMES, grid=GRID, pixels=8, seed=0, errors=(),
             config=CONFIG, **changes):
        rng = np.random.default_rng(seed)
        ground_truth = rng.normal(0, 2, (IMAGES, *grid, len(names)))
        values = (ground_truth + noise * rng.normal(size=ground_truth.shape)).astype(np.float32)
        arrays = {
            "images": np.kron(rng.integers(0, 256, (IMAGES, 8, 8, 3)), np.ones((pixels // 8, pixels // 8, 1), int)
                              ).astype(np.uint8),
            "labels": rng.integers(0, len(names), IMAGES).astype(np.int32),
            "logits": values.sum((1, 2)),
            "shapley": values,
            "ground_truth": ground_truth,
            "class_names": np.array(names),
        }
        r2 = 1 - ((values - ground_truth) ** 2).mean((1, 2, 3)) / ground_truth.var((1, 2, 3))
        errors = {
            "r2": float(r2.mean()), "r2_per_image": r2.tolist(), "r2_shares": 0.9 * float(r2.mean()), "mse": noise**2,
            "pearson": 0.987, "spearman": 0.976, "ground_truth": "exact", "images": IMAGES, "coalitions_per_image": 16,
            "standard_error": 0.0, "r2_ceiling": 1.0, "seconds": 1.0} | dict(errors)
        evaluation = {
            "format": 2, "checkpoint": str(directory), "step": 1200, "dataset": "pets", "split": "test",
            "config": config and config | {"shapley": {"weight": weight}}, "shapley_weight": weight,
            "masked_weight": 1.0, "images": 1000, "accuracy_top1": 0.9, "accuracy_top5": 0.999, "cross_entropy": 0.31,
            "efficiency_gap": 3.3e-6, "players": 4, "classes": len(names), "parameters": 123456,
            "shapley_error": errors if exact else None, "refinement": REFINEMENT if exact else None, "seconds": 2.0,
            "device": "cpu x 2",
            "versions": {"shapjax": "0.1.0", "jax": "0.10.2"}, **changes,
        }
        if not exact:
            del arrays["ground_truth"]
        records = [
            {"step": s, "split": split, "loss_classification": 2 / s, "loss_masked": 3 / s, "loss_shapley": 1 / s,
             "accuracy": 1 - 1 / s} for s in range(10, 60, 10) for split in ("train", "test")]
        directory.mkdir(parents=True)
        (directory / "eval.json").write_text(json.dumps(evaluation))
        np.savez(directory / "eval.npz", **arrays)
        (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return directory

    return make


@pytest.fixture(scope="session")
def make_methods():
    """Writes methods.json and methods.npz of an additive game: p(S) = softmax of the shares of S, plus a bias."""

    def make(directory, *, keys=tuple(METHODS), grid=(3, 4), images=3, offered=3, names=NAMES, pixels=(24, 32), seed=0):
        rng = np.random.default_rng(seed)
        n, k, m = grid[0] * grid[1], len(names), len(keys)
        rows, columns = np.mgrid[: grid[0], : grid[1]]
        centers = rng.uniform((0.5, 0.5), (grid[0] - 1.5, grid[1] - 1.5), (images, 2))
        distance = np.hypot(rows[None] - centers[:, :1, None], columns[None] - centers[:, 1:, None])
        blob = np.exp(-0.5 * (distance / (0.22 * max(grid))) ** 2).reshape(images, n, 1)
        ground_truth = (6 / n + 20 / n * blob) * rng.normal(0.05, 0.5, (images, n, k))
        favorites = rng.integers(0, k, images)
        ground_truth[np.arange(images), :, favorites] += (0.02 + 5 * blob[..., 0]) / blob.sum((1, 2))[:, None]
        probabilities = softmax(ground_truth.sum(1), axis=-1)
        labels = np.where(rng.random(images) < 0.75, probabilities.argmax(-1), rng.integers(0, k, images))
        order = np.argsort(-probabilities, axis=-1)
        classes = order[:, :offered].copy()
        absent = ~(classes == labels[:, None]).any(1)
        classes[absent, -1] = labels[absent]

        explained = np.take_along_axis(ground_truth, classes[:, None], -1).transpose(0, 2, 1)  # [e, C, N]
        attributions = np.zeros((m, *explained.shape), np.float32)
        scales = {"shapley": 1.0, "self-explaining": 1.0, "gradient": 3e-5, "attention": 0.02}
        for index, key in enumerate(keys):
            _, family, _, _, _, noise = METHODS[key]
            mixed = (1 - noise) * explained + noise * explained.std() * rng.normal(size=explained.shape)
            mixed = np.maximum(mixed, 0) if key in ("gradcam", "attention", "rollout") else mixed
            attributions[index] = scales.get(family, 0.3) * mixed
        removal = np.argsort(-attributions, axis=-1, kind="stable")

        def course(removal):
            """Computes the probability without the first k of `removal` [m, e, C, N]: [m, e, C, N + 1]."""
            position = np.argsort(removal, axis=-1)
            kept = position[..., None, :] >= np.arange(n + 1)[:, None]  # [m, e, C, N + 1, N]
            after = softmax(np.einsum("mecsn,enk->mecsk", kept.astype(np.float32), ground_truth), axis=-1)
            return np.take_along_axis(after, np.broadcast_to(
                classes[None, :, :, None, None], (*after.shape[:-1], 1)), -1)[..., 0].astype(np.float32)

        deleted = course(removal)
        shown = course(removal[..., ::-1])[..., ::-1]
        at = np.round(np.arange(10) / 10 * n).astype(int)
        entries = []
        for index, key in enumerate(keys):
            title, family, citation, options, passes, noise = METHODS[key]
            insertion, deletion = shown[index, :, 0].mean(0), deleted[index, :, 0].mean(0)
            means = {
                "shapley_r2": None if family in ("gradient", "attention", "baseline") else 1 - noise - 0.004,
                "deletion": float(deletion.mean()), "insertion": float(insertion.mean()),
                "sensitivity": 0.9 - 0.8 * noise, "gini": 0.4 + 0.2 * float(rng.random())}
            entries.append({
                "key": key, "title": title, "family": family, "citation": citation, "options": options,
                "cost": {"passes": passes, "seconds": 1.2e-4 * passes,
                         "peak_bytes": None if key == "exact" else 3.1e6 * (1 + passes % 37)},
                "values": {name: None if mean is None else {
                    "mean": mean, "low": mean - 0.013, "high": mean + 0.013, "images": 500, "best": False,
                    "not_worse": False, "difference": None} for name, mean in means.items()},
                "curves": {
                    "insertion": [float(p) for p in insertion], "deletion": [float(p) for p in deletion],
                    "positive": [float(p) for p in deletion[at]], "negative": [float(p) for p in insertion[::-1][at]]},
            })
        for metric in METRICS:
            sign = {"lower": -1, "higher": 1, None: 0}[metric["better"]]
            values = [entry["values"][metric["key"]] for entry in entries]
            values = [value for value in values if value is not None]
            if sign and values:
                best = max(values, key=lambda value: sign * value["mean"])
                for value in values:
                    gap = value["mean"] - best["mean"]
                    value |= {"best": value is best, "not_worse": value is best or abs(gap) < 0.012, "difference":
                              None if value is best else {"mean": gap, "low": gap - 0.012, "high": gap + 0.012}}

        palette = np.random.default_rng(seed + 1).integers(60, 256, (images, 3))
        y, x = np.mgrid[: pixels[0], : pixels[1]] / np.array(pixels)[:, None, None]
        place = (centers + 0.5) / np.array(grid)
        glow = np.exp(-20 * ((y[None] - place[:, :1, None]) ** 2 + (x[None] - place[:, 1:, None]) ** 2))
        texture = 0.15 * np.sin(9 * x + 5 * y * (1 + np.arange(images)[:, None, None])) + 0.2
        pictures = np.clip((texture + 0.8 * glow)[..., None] * palette[:, None, None, :], 0, 255).astype(np.uint8)
        budgets = [64, 128, 256, 512, 1024, 2048, 4096]
        summary = {
            "format": 2, "checkpoint": str(directory), "step": 1200, "dataset": "pets", "split": "test", "images": 500,
            "target": "predicted", "players": n, "grid": list(grid), "class_names": list(names), "seconds": 321.5,
            "device": "cpu x 2", "versions": {"shapjax": "0.1.0"}, "confidence": 0.95, "metrics": METRICS,
            "methods": entries,
            "sample_efficiency": {"kernel_shap": [{"coalitions": b, "r2": 1 - 40 / b} for b in budgets],
                                  "phi_r2": 0.94, "reached_at": 1024},
        }
        (directory / "methods.json").write_text(json.dumps(summary))
        np.savez(
            directory / "methods.npz", images=pictures, labels=labels.astype(np.int32),
            probabilities=probabilities.astype(np.float32), classes=classes.astype(np.int32),
            attributions=attributions, deleted=deleted, order=removal, methods=np.array(keys),
            half_width=np.abs(explained).astype(np.float32) / 3)
        return directory

    return make
