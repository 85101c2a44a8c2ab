"""Measures the images a second that tf.data reads from JPEG files, for comparison in `benchmarks.input_pipeline`.

  python benchmarks/tf_data_input.py DIRECTORY [--threads 2] [--seconds 5] [--batch 32] [--size 224]

Decodes only a random-resized crop of each file (`decode_and_crop_jpeg`), bilinear. Needs TensorFlow and nothing of
shapjax; prints images/s.
"""

import argparse
import pathlib
import time

import tensorflow as tf


def main() -> None:
    """Reads for some seconds and prints the rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="its *.jpg files are read, at any depth")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    args = parser.parse_args()

    def decode(path):
        data = tf.io.read_file(path)
        start, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data), tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), area_range=(0.3, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3), max_attempts=10)
        window = tf.concat([start[:2], shape[:2]], axis=0)
        image = tf.image.resize(tf.image.decode_and_crop_jpeg(data, window, channels=3), (args.size, args.size))
        return tf.cast(tf.round(image), tf.uint8)

    files = sorted(str(path) for path in pathlib.Path(args.directory).rglob("*.jpg"))
    batches = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    batches = batches.map(decode, num_parallel_calls=args.threads).batch(args.batch).prefetch(4)
    options = tf.data.Options()
    options.threading.private_threadpool_size = args.threads
    batches = iter(batches.with_options(options))
    for _ in range(8):  # start-up and what was read ahead meanwhile
        next(batches)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < args.seconds:
        next(batches)
        count += args.batch
    print(count / (time.perf_counter() - begun))


if __name__ == "__main__":
    main()
