"""Times the training step on a CPU beside PyTorch, and what the choices for a machine rest on; prints tables.

  python -m benchmarks [--rounds 3] [--cases vit-s-16 vit-s-64] [--output benchmarks.json]

Every measurement is a process of its own. All take turns, so that a drift of the machine's speed hits each of them.
"""

import argparse
import itertools
import json
import pathlib
import platform
import statistics

import jax
import tqdm

from benchmarks import joint_step
from shapjax.training import machine

# name -> arguments of `joint_step.measure` beside the case; None: as `shapjax.training.machine` chooses for the case
OURS = {"joint": dict(coalitions=True), "plain": dict(coalitions=False), "joint, other devices": dict(coalitions=True),
        "joint, remat full": dict(coalitions=True, remat="full")}
TORCH = {"torch eager": dict(dtype="float32", compiled=False), "torch compiled": dict(dtype="float32", compiled=True)}
BFLOAT16_OURS = {"joint, bfloat16 products": dict(coalitions=True, dtype="bfloat16_products")}
BFLOAT16_TORCH = {"torch eager, bfloat16": dict(dtype="bfloat16", compiled=False),
                  "torch compiled, bfloat16": dict(dtype="bfloat16", compiled=True)}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each measurement")
    parser.add_argument("--cases", nargs="+", default=list(joint_step.CASES), choices=joint_step.CASES, metavar="CASE")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks.json"))
    flags = parser.parse_args()
    jobs = [(case, name, arguments) for case in flags.cases for name, arguments in measurements(case).items()]
    seconds = {}
    for _, (case, name, arguments) in tqdm.tqdm(list(itertools.product(range(flags.rounds), jobs)), unit="process"):
        seconds.setdefault(case, {}).setdefault(name, []).append(joint_step.in_own_process(**arguments)["seconds"])
        flags.output.write_text(json.dumps({"machine": describe(), "seconds_a_step": seconds}, indent=1))
    print(describe(), end="\n\n")
    print(step_table(seconds), end="\n\n")
    print(choice_table(seconds))


def measurements(case: str) -> dict[str, dict]:
    """Returns name -> arguments of `joint_step.measure`."""
    wide = joint_step.CASES[case][0]["width"] >= machine.WIDE
    ours = dict(framework="shapjax", case=case, devices=int(wide), remat="none", dtype="float32")
    torch = dict(framework="torch", case=case, coalitions=True)
    bfloat16 = machine.bfloat16_units()
    jobs = {name: ours | changes for name, changes in (OURS | (BFLOAT16_OURS if bfloat16 else {})).items()}
    jobs["joint, other devices"]["devices"] = int(not wide)
    return jobs | {name: torch | changes for name, changes in (TORCH | (BFLOAT16_TORCH if bfloat16 else {})).items()}


def describe() -> str:
    """Returns versions and machine in one line."""
    import torch

    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())
    units = " and ".join(sorted(machine.bfloat16_units())) or "float32 alone"
    return (f"{machine.num_cores()} cores, {cpu}, products by {units}; Python "
            f"{platform.python_version()}, JAX {jax.__version__}, PyTorch {torch.__version__}")


def step_table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Formats images a second, the median of all rounds with the least and the largest, and ratios of medians."""
    lines = ["| case | images | joint | plain | joint / plain | PyTorch, best float32 | × PyTorch | bfloat16 products "
             "| × PyTorch, any |", "|---|---|---|---|---|---|---|---|---|"]
    for case, of in seconds.items():
        images = joint_step.CASES[case][3]
        median = {name: statistics.median(times) for name, times in of.items()}
        best = min(TORCH, key=median.get)
        best_any = min((name for name in TORCH | BFLOAT16_TORCH if name in median), key=median.get)
        cells = [case, images, _rate(of["joint"], images), _rate(of["plain"], images),
                 f"{median['joint'] / median['plain']:.2f}", f"{_rate(of[best], images)} {best.split()[-1]}",
                 f"{median[best] / median['joint']:.2f}"]
        name = "joint, bfloat16 products"
        cells += [_rate(of[name], images), f"{median[best_any] / median[name]:.2f}"] if name in of else ["", ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def choice_table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Formats the joint step's time with other devices, and with all of a block computed again, over the chosen."""
    lines = ["| case | devices chosen | time with the other | time with remat full |", "|---|---|---|---|"]
    for case, of in seconds.items():
        wide = joint_step.CASES[case][0]["width"] >= machine.WIDE
        other, full = (statistics.median(of[name]) / statistics.median(of["joint"])
                       for name in ("joint, other devices", "joint, remat full"))
        lines.append(f"| {case} | {'one' if wide else 'one a core'} | {other:.2f} | {full:.2f} |")
    return "\n".join(lines)


def _rate(seconds: list[float], images: int) -> str:
    """Returns images a second: "median (least to largest)"."""
    low, middle, high = (f"{images / x:,.{1 if images / x < 100 else 0}f}"
                         for x in (max(seconds), statistics.median(seconds), min(seconds)))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
