"""Image files: every kind is read upright, centered and of the asked size, or refused with a clear error."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from shapjax.data.images import read_image, read_maps, read_masks
from shapjax.errors import UserError

COLOR = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
GRAY = COLOR[:, :, 0]


def save(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def read(path, channels=3, size=(20, 24)):
    image = read_image(path, image_shape=(*size, channels))
    assert image.shape == (*size, channels) and image.dtype == np.uint8
    return image


def test_an_image_of_the_asked_size_keeps_its_pixels(tmp_path):
    np.testing.assert_array_equal(read(save(tmp_path, COLOR)), COLOR)
    np.testing.assert_array_equal(read(save(tmp_path, GRAY), channels=1)[..., 0], GRAY)


def test_gray_becomes_three_equal_channels_and_color_its_luminance(tmp_path):
    np.testing.assert_array_equal(read(save(tmp_path, GRAY)), np.repeat(GRAY[..., None], 3, -1))
    luminance = COLOR @ [0.299, 0.587, 0.114]
    assert np.abs(read(save(tmp_path, COLOR), channels=1)[..., 0] - luminance).max() <= 1


def test_transparency_is_composited_on_white(tmp_path):
    alpha = np.random.default_rng(1).integers(0, 256, (20, 24, 1), dtype=np.uint8)
    alpha[0], alpha[1] = 0, 255
    expected = COLOR * (alpha / 255) + 255 * (1 - alpha / 255)
    image = read(save(tmp_path, np.concatenate([COLOR, alpha], -1)))
    assert np.abs(image - expected).max() <= 1
    assert (image[0] == 255).all() and (image[1] == COLOR[1]).all()

    with_alpha = np.concatenate([GRAY[..., None], alpha], -1)  # mode LA
    image = read(save(tmp_path, with_alpha), channels=1)
    assert np.abs(image - (GRAY[..., None] * (alpha / 255) + 255 * (1 - alpha / 255))).max() <= 1


def test_palettes_are_resolved_with_and_without_a_transparent_entry(tmp_path):
    image = Image.new("P", (24, 20), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 12, 20))
    pixels = read(save(tmp_path, image))
    assert (pixels[:, :12] == [10, 20, 30]).all() and (pixels[:, 12:] == [200, 100, 50]).all()
    pixels = read(save(tmp_path, image, transparency=0))
    assert (pixels[:, :12] == 255).all() and (pixels[:, 12:] == [200, 100, 50]).all()


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (24, 20), (0, 255, 255, 0))  # magenta and yellow ink: red
    assert (read(save(tmp_path, image, "image.tif")) == [255, 0, 0]).all()
    jpeg = read(save(tmp_path, image, "image.jpg", quality=95))
    assert np.abs(jpeg.astype(int) - [255, 0, 0]).max() <= 3


def test_one_bit_is_black_and_white(tmp_path):
    bits = GRAY > 128
    np.testing.assert_array_equal(read(save(tmp_path, bits), channels=1)[..., 0], bits * 255)


@pytest.mark.parametrize("name, dtype, mode", [("image.png", "<u2", "I;16"), ("image.tif", "<u2", "I;16"),
                                               ("image.tif", ">u2", "I;16B"), ("image.tif", "<i4", "I")])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name, dtype, mode):
    values = np.linspace(0, 65535, 480).round().astype(dtype).reshape(20, 24)
    image = Image.frombytes(mode, (24, 20), values.tobytes())
    path = save(tmp_path, image, name)
    with Image.open(path) as stored:
        assert stored.mode == mode
    pixels = read(path, channels=1)[..., 0]
    np.testing.assert_array_equal(pixels, (values.astype(float) / 257).round())
    assert (pixels[0, 0], pixels[-1, -1]) == (0, 255)


def test_sixteen_bit_pgm_is_scaled_too(tmp_path):
    values = np.linspace(0, 65535, 480).round().astype(">u2").reshape(20, 24)
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P5 24 20 65535\n" + values.tobytes())
    np.testing.assert_array_equal(read(path, channels=1)[..., 0], (values / 257).round())


@pytest.mark.parametrize("pixels, reason", [(np.full((4, 4), 0.5, np.float32), "floats"),
                                            (np.full((4, 4), 70000, np.int32), "beyond 16 bits"),
                                            (np.full((4, 4), -1, np.int32), "beyond 16 bits")])
def test_pixels_without_a_defined_white_are_refused(tmp_path, pixels, reason):
    with pytest.raises(UserError, match=rf"image\.tif.*{reason}"):
        read(save(tmp_path, pixels, "image.tif"))


UPRIGHT_OF_STORED = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
                     5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
                     7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, 1)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, COLOR, exif=exif)
    expected = UPRIGHT_OF_STORED[orientation](COLOR)
    np.testing.assert_array_equal(read(path, size=expected.shape[:2]), expected)


def smooth_photo(height, width):
    y, x = np.mgrid[:height, :width] / max(height, width)
    channels = [127 + 120 * np.sin(6 * x + 3 * y), 127 + 120 * np.cos(5 * y), 255 * x]
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_decoded_at_reduced_size_look_like_the_full_image(tmp_path, orientation, monkeypatch):
    photo, exif = smooth_photo(900, 1200), Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, photo, "photo.jpg", quality=95, exif=exif)
    upright = np.ascontiguousarray(UPRIGHT_OF_STORED[orientation](photo))
    reference = read(save(tmp_path, upright), size=(100, 100))

    decoded = []
    resize = Image.Image.resize

    def recording_resize(image, *args, **kwargs):
        decoded.append(image.size)
        return resize(image, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", recording_resize)
    image = read(path, size=(100, 100))
    assert min(decoded[0]) == 225  # a quarter; an eighth would be less than twice 100
    assert np.abs(image.astype(int) - reference.astype(int)).mean() < 2


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    first, second = Image.new("RGB", (24, 20), (255, 0, 0)), Image.new("RGB", (24, 20), (0, 0, 255))
    path = save(tmp_path, first, "image.gif", save_all=True, append_images=[second], duration=100)
    assert (read(path) == [255, 0, 0]).all()


def test_resizing_covers_the_target_then_crops_the_center(tmp_path):
    """Equals resizing the shorter side and cropping, done by hand on an image whose sizes divide evenly."""
    cases = [(40, 60, (30, 20), (5, 0, 25, 20)), (60, 40, (20, 30), (0, 5, 20, 25))]
    for height, width, resized, box in cases:
        pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = Image.fromarray(pixels).resize(resized, Image.Resampling.BICUBIC).crop(box)
        image = read(save(tmp_path, pixels), size=(20, 20))
        assert np.abs(image.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_the_aspect_is_kept(tmp_path):
    """The left, middle and right thirds differ, and a square out of the middle shows the middle third only."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, :30, 0] = pixels[:, 30:60, 1] = pixels[:, 60:, 2] = 255
    image = read(save(tmp_path, pixels), size=(10, 10))
    assert (image[:, 1:-1] == [0, 255, 0]).all()


def test_shrinking_averages_instead_of_dropping_pixels(tmp_path):
    board = ((np.indices((280, 280)).sum(0) % 2) * 255).astype(np.uint8)
    image = read(save(tmp_path, board), channels=1, size=(28, 28)).astype(int)
    assert np.abs(image - 127).max() <= 3


def test_small_and_very_long_images_are_enlarged_to_the_target(tmp_path):
    assert (read(save(tmp_path, np.full((1, 1), 200, np.uint8)), size=(14, 14)) == 200).all()
    assert (read(save(tmp_path, np.full((1, 30000), 200, np.uint8)), size=(14, 14)) == 200).all()


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_channel_counts_are_refused(tmp_path, channels):
    with pytest.raises(UserError, match=f"not {channels}"):
        read_image(save(tmp_path, GRAY), image_shape=(20, 24, channels))


def refusal(path):
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_a_path_without_an_image_file_is_refused(tmp_path):
    assert "there is no image file" in refusal(tmp_path / "missing.png")
    assert "a directory" in refusal(tmp_path)
    assert "there is no image file" in refusal(tmp_path / ("x" * 5000))
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not an image at all\n" * 100)
    assert "not an image" in refusal(tmp_path / "text.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "bmp", "webp", "gif"])
def test_a_truncated_image_is_refused(tmp_path, kind):
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, noise, f"image.{kind}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path)


def test_an_unreadable_file_is_refused_with_the_systems_reason(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", denied)
    assert "Permission denied" in refusal(save(tmp_path, GRAY))


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_images_beyond_pillows_bomb_guard_are_refused(tmp_path, side):
    """Pillow warns at 144 megapixels and raises at 400; a PNG header can claim either at no cost."""
    path = save(tmp_path, GRAY)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert "more than 89 megapixels" in refusal(path)


def test_a_path_in_the_home_directory_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path, COLOR)
    np.testing.assert_array_equal(read("~/image.png"), COLOR)


def test_object_masks_are_the_first_n_of_an_array(tmp_path):
    masks = np.arange(-1, 23, dtype=np.int8).reshape(4, 2, 3)
    np.save(tmp_path / "masks.npy", masks)
    np.savez(tmp_path / "masks.npz", masks=masks)
    for name in ("masks.npy", "masks.npz"):
        np.testing.assert_array_equal(read_masks(tmp_path / name, shape=(3, 2, 3)), masks[:3])


@pytest.mark.parametrize("array, message", [
    (np.zeros((2, 2, 3), bool), r"are bool \[2, 2, 3\]; expected bools or integers \[3, 2, 3\]"),
    (np.zeros((3, 3, 3), bool), r"are bool \[3, 3, 3\]"),
    (np.zeros((3, 2, 3)), r"are float64 \[3, 2, 3\]"),
    (None, "there is no file of masks"),
    ("no array", r"is neither an .npy of masks nor an .npz with an array \"masks\""),
])
def test_other_object_masks_are_refused(tmp_path, array, message):
    if isinstance(array, np.ndarray):
        np.save(tmp_path / "masks.npy", array)
    elif array:
        (tmp_path / "masks.npy").write_text(array)
    with pytest.raises(UserError, match=message):
        read_masks(tmp_path / "masks.npy", shape=(3, 2, 3))


def test_maps_of_other_programs_come_with_the_classes_that_they_explain_if_the_file_has_them(tmp_path):
    maps, path = np.random.default_rng(0).normal(size=(4, 2, 3)), tmp_path / "maps.npz"
    np.savez(path, maps=maps, targets=[3, 1, 2, 0])
    found, targets = read_maps(path, shape=(3, 2, 3))
    np.testing.assert_array_equal(found, maps[:3])
    np.testing.assert_array_equal(targets, [3, 1, 2])
    np.save(tmp_path / "maps.npy", maps)
    assert read_maps(tmp_path / "maps.npy", shape=(4, 2, 3))[1] is None
    maps[1, 0, 0] = np.nan
    np.savez(path, maps=maps)
    with pytest.raises(UserError, match="not finite for images 1; make"):
        read_maps(path, shape=(3, 2, 3))
    np.savez(path, maps=np.zeros((4, 2, 3), int))
    with pytest.raises(UserError, match=r"are int64 \[4, 2, 3\]; expected floats \[3, 2, 3\]"):
        read_maps(path, shape=(3, 2, 3))
