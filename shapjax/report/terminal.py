"""Formats evaluations for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from shapjax.evaluation import table
from shapjax.report.formatting import decimal, duration, interval, passes, signed


def comparison_lines(summary: Mapping[str, Any]) -> str:
    """Formats a comparison for a terminal; * marks the best, = those not significantly worse."""
    metrics = [metric for metric in summary["metrics"] if metric["key"] in table.SHOWN]
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    rows = [["method", *(metric["title"] + arrows[metric["better"]] for metric in metrics), "passes", "seconds"]]
    for method in summary["methods"]:
        cells = []
        for metric in metrics:
            value = method["values"][metric["key"]]
            sign = "" if not value else "*" if value["best"] else "=" if value["not_worse"] else " "
            cells.append(decimal(value["mean"], digits=metric["digits"]) + sign if value else "–")
        rows.append([method["title"], *cells, passes(method["cost"]["passes"]), duration(method["cost"]["seconds"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    note = f"* best, = not significantly worse ({summary['images']} images, paired bootstrap, 95 %); all in methods.csv"
    return "\n".join([*lines, note])


def model_lines(values: Mapping[str, Any]) -> str:
    """Formats the metrics of the model, the content of eval.json, for a terminal."""
    rows = [
        ("test images", f"{values['images']:,}"),
        *([("accuracy, top 1", f"{values['accuracy_top1']:.4f}"),
           ("accuracy, top 5", f"{values['accuracy_top5']:.4f}"),
           ("  half removed", f"{values['accuracy_under_removal'][5]:.4f}"),
           ("cross-entropy", f"{values['cross_entropy']:.4f} nats")]
          if values["accuracy_top1"] is not None else [("accuracy", "unknown: the images have no labels")]),
        ("efficiency gap", f"{values['efficiency_gap']:.1e} logits"),
    ]
    if error := values["shapley_error"]:
        exact = error["ground_truth"] == "exact"
        how = "exact" if exact else f"KernelSHAP to a standard error of {error['standard_error']:.3f} of the spread"
        rows += [("ground truth", f"{how}: {error['images']} images, {error['coalitions_per_image']:,} coalitions "
                                  f"each, {error['seconds']:.0f} s")]
        titles = {"r2": "R²", "r2_shares": "R² of shares", "mse": "MSE", "pearson": "Pearson", "spearman": "Spearman"}
        rows += [(f"  {title}", "undefined" if error[key] is None else f"{error[key]:.4f}")
                 for key, title in titles.items()]
        if not exact and error["r2_ceiling"] is not None:
            rows.insert(-4, ("  R² at most", f"{error['r2_ceiling']:.4f}, as ground truth is an estimate"))
    else:
        rows += [("ground truth", "not computed; see --ground_truth")]
    if refinement := values["refinement"]:
        rows += refinement_rows(refinement)
    heading = ", ".join([values["checkpoint"], f"step {values['step']}", f"{values['players']} patches",
                         f"{values['dataset']} {values['split']}"])
    return "\n".join([heading, *(f"{name:18}{value}" for name, value in rows)])


def refinement_rows(refinement: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Formats "refinement" of eval.json: the calibration, and a line for each number of pairs."""
    found = refinement["calibration"]
    kind = "images held out of training" if found["held_out"] else "test images, measured on others"
    rows = [("errors", f"calibrated on {found['images']} {kind}; {refinement['images']} images, in each:")]
    for point in refinement["points"]:
        shares = " ".join(f"{100 * share['mean']:.1f}" for share in point["coverage"].values())
        others = [f"KernelSHAP {point['kernel_shap_r2']:.4f}"] if point["kernel_shap_r2"] is not None else []
        r2 = "undefined" if point["r2"] is None else f"{point['r2']:.4f}"
        rows.append((f"  {point['pairs']:3} pairs", "; ".join([
            f"R² {r2}", *others, f"standard error {100 * point['standard_error']:.2f} % of the spread",
            f"{shares} % in intervals of {', '.join(f'{100 * float(x):.0f}' for x in point['coverage'])} %"])))
    return rows


def difference_lines(rows: Sequence[Mapping[str, Any]], names: Sequence[str], methods: Sequence[str]) -> str:
    """Formats the differences of two models; of the methods' metrics only those of some methods.

    Args:
      rows: of `paired_models.compare`.
      names: of the two models.
      methods: keys of the methods to show.
    """
    cells = [["metric", *names, "difference [95 %]", "images"]]
    for row in rows:
        method, slash, _ = row["key"].partition("/")
        if slash and method not in methods:
            continue
        digits, difference = row["digits"], row["difference"]
        sure = "" if difference["low"] <= 0 <= difference["high"] else (
            " better" if (difference["low"] > 0) == (row["better"] == "higher") else " worse")
        cells.append([row["title"], *(decimal(row[name], digits=digits) for name in ("one", "other")),
                      f"{signed(difference['mean'], digits=digits)} "
                      f"{interval(difference['low'], difference['high'], digits=digits)}{sure}", f"{row['images']:,}"])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in cells)
