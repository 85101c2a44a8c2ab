"""Measures the images a second of the input pipeline: from memory, from array_record, from JPEG files.

  python -m benchmarks.input_pipeline [--data_dir D] [--photos DIR] [--tf_python .venv-tf/bin/python]

1. Images like CIFAR-10's in memory: read, placed on the devices, shifted by up to 4 pixels and flipped there. The bar
   is 20 000 images/s on 2 cores.
2. CIFAR-10 decoded from TFDS's array_record, if --data_dir has it.
3. JPEG files of 500x375 to random-resized crops of 224x224, beside tf.data on the same files if there is a Python with
   TensorFlow. The files are --photos resized, or else noise with the spectrum of photographs, saved to about the size
   of ImageNet's.

Start-up is not counted. Variants take turns, so that a drift of the machine's speed affects all of them; the median is
printed.
"""

import argparse
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from PIL import Image

from shapjax.config import default_config
from shapjax.data import augmentation, pipeline, sources
from shapjax.training import machine, sharding
from shapjax.training.step import example_keys

BAR = 20_000  # images/s, from memory, on 2 cores
CROP_AREA = 0.3
TF_DATA = pathlib.Path(__file__).with_name("tf_data_input.py")


def rate(batches: Iterator, batch_size: int, *, seconds: float) -> float:
    """Measures images/s of an iterator, after some batches for start-up and to use up those read ahead meanwhile."""
    for batch in itertools.islice(batches, 8):
        jax.block_until_ready(batch)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        jax.block_until_ready(next(batches))
        count += batch_size
    return count / (time.perf_counter() - begun)


def in_turns(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Runs the variants in turns and returns the median of the results of each."""
    rates = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            rates[name].append(measure())
    return {name: statistics.median(values) for name, values in rates.items()}


def read_only(source: sources.Source, *, batch_size: int, seconds: float, **options) -> float:
    """Measures images/s of `TrainIterator` alone."""
    batches = pipeline.TrainIterator(source, batch_size=batch_size, seed=0, **options)
    try:
        return rate(batches, batch_size, seconds=seconds)
    finally:
        batches.close()


def to_augmented(source: sources.Source, *, batch_size: int, seconds: float) -> float:
    """Measures images/s of the whole chain: read, placed ahead, shifted and flipped on the devices."""
    settings = augmentation.AugmentSettings(max_shift=4, flip=True)

    def augmented(batch):
        keys = example_keys(0, batch["index"][0], batch["index"])
        return augmentation.augment(batch["image"], batch["label"], keys, num_classes=10, settings=settings)

    batches = pipeline.TrainIterator(source, batch_size=batch_size, seed=0, place=sharding.Replicated().batch)
    try:
        return rate(map(jax.pmap(augmented), batches), batch_size, seconds=seconds)
    finally:
        batches.close()


def cached() -> sources.ArraySource:
    """Returns 50 000 random images in memory."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8), rng.integers(0, 10, 50_000, np.int32)
    return sources.ArraySource(images, labels, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)


def stored(dataset: str, **data) -> sources.Source:
    """Returns the training images of a dataset, decoded on every read."""
    config = default_config()
    config.dataset = dataset
    config.data.update({"cache_gib": 0.0, **data})
    return sources.load_source(config, "train")


def write_jpegs(directory: pathlib.Path, photos: str, count: int) -> float:
    """Writes files of 500x375 pixels, half of them upright, in two classes; returns their mean size in kB."""
    rng = np.random.default_rng(0)
    originals = sorted(pathlib.Path(photos).glob("*.jpg")) if photos else []
    for number in range(count):
        if originals:
            image = Image.open(originals[number % len(originals)]).convert("RGB").resize((500, 375), Image.BICUBIC)
        else:
            image = Image.fromarray(_like_a_photo(rng))
        if number % 4 >= 2:
            image = image.transpose(Image.Transpose.ROTATE_90)
        path = directory / "train" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=92)
    for name in "ab":
        (directory / "test" / name).mkdir(parents=True)
        Image.new("RGB", (500, 375)).save(directory / "test" / name / "0.jpg")
    return statistics.mean(p.stat().st_size for p in directory.glob("train/*/*.jpg")) / 1e3


def _like_a_photo(rng: np.random.Generator) -> np.ndarray:
    """Makes noise whose amplitude falls with the frequency as 1/f, uint8 [375, 500, 3]."""
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None, :])
    spectra = (np.fft.rfft2(rng.normal(size=(375, 500))) / np.maximum(frequency, 1 / 500) for _ in range(4))
    gray, *colors = (np.fft.irfft2(spectrum, (375, 500)) for spectrum in spectra)
    pixels = np.stack([gray / gray.std() + 0.3 * color / color.std() for color in colors], axis=-1)
    return (128 + 50 * pixels).clip(0, 255).astype(np.uint8)


def tf_data(directory: pathlib.Path, python: str, *, threads: int, batch_size: int, seconds: float) -> float:
    """Measures images/s of tf.data, in a process of its own; raises CalledProcessError without TensorFlow."""
    command = [python, str(TF_DATA), str(directory / "train"), f"--threads={threads}", f"--seconds={seconds}",
               f"--batch={batch_size}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_table(title: str, rates: dict[str, float], cores: dict[str, int]) -> None:
    """Prints a row for each variant; the ratio is to the first one."""
    print(f"\n{title}\n\n| variant | images/s | a core | ratio |\n|---|---|---|---|")
    first = next(iter(rates.values()))
    for name, value in rates.items():
        print(f"| {name} | {value:.0f} | {value / cores[name]:.0f} | {value / first:.2f} |")


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="where TFDS's cifar10 lies")
    parser.add_argument("--photos", default="", help="directory of *.jpg to resize, instead of noise")
    parser.add_argument("--tf_python", default=sys.executable, help="a Python that has TensorFlow")
    parser.add_argument("--files", type=int, default=256, help="JPEG files")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements a variant")
    args = parser.parse_args()
    machine.split_cpu(0)
    available = len(os.sched_getaffinity(0))
    print(f"{available} cores, {jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")

    source = cached()
    rates = in_turns({
        "read": lambda: read_only(source, batch_size=512, seconds=args.seconds),
        "read, place, shift and flip": lambda: to_augmented(source, batch_size=512, seconds=args.seconds)}, args.rounds)
    print_table("32x32x3 from memory, batches of 512", rates, dict.fromkeys(rates, available))
    reached = rates["read, place, shift and flip"]
    print(f"\nbar {BAR} images/s: {'passed' if reached >= BAR else 'NOT passed'}, {reached / BAR:.1f} of it")

    if (pathlib.Path(args.data_dir) / "cifar10").is_dir() and args.data_dir:
        source = stored("tfds:cifar10", data_dir=args.data_dir)
        cores = {f"{n} thread(s)": n for n in (1, available)}
        print_table("CIFAR-10 (PNG) from array_record, batches of 512", in_turns(
            {name: lambda n=n: read_only(source, batch_size=512, seconds=args.seconds, threads=n)
             for name, n in cores.items()}, args.rounds), cores)
    else:
        print("\nCIFAR-10 from array_record: skipped, no cifar10 in --data_dir")

    with tempfile.TemporaryDirectory() as directory:
        _jpeg_table(pathlib.Path(directory), args, available)


def _jpeg_table(directory: pathlib.Path, args: argparse.Namespace, available: int) -> None:
    """Measures and prints the table of JPEG files."""
    kilobytes = write_jpegs(directory, args.photos, args.files)
    source = stored(f"folder:{directory}", image_size=224)
    cores = {f"{n} thread(s)": n for n in (1, available)}
    variants = {name: lambda n=n: read_only(source, batch_size=32, seconds=args.seconds, crop_area=CROP_AREA, threads=n)
                for name, n in cores.items()}
    tried = subprocess.run([args.tf_python, "-c", "import tensorflow"], capture_output=True, text=True)
    if tried.returncode:
        print(f"\ntf.data: skipped ({tried.stderr.splitlines()[-1]}); give a --tf_python that has TensorFlow")
    else:
        for n in (1, available):
            variants[f"tf.data, {n} thread(s)"] = lambda n=n: tf_data(
                directory, args.tf_python, threads=n, batch_size=32, seconds=args.seconds)
            cores[f"tf.data, {n} thread(s)"] = n
    print_table(f"JPEG 500x375 of {kilobytes:.0f} kB to random-resized crops of 224x224, batches of 32",
                in_turns(variants, args.rounds), cores)


if __name__ == "__main__":
    main()
