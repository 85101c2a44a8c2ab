"""Image files whose metadata is broken, or of unusual kinds: good pixels are read, whatever stands beside them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from shapjax.data import images, opening
from shapjax.data.images import read_image
from shapjax.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def encoded(kind, pixels=PIXELS, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def read(tmp_path, data, channels=3, size=(20, 24)):
    (tmp_path / "image").write_bytes(data)
    return read_image(tmp_path / "image", image_shape=(*size, channels))


def exif(tag, value):
    """Returns EXIF of one tag whose entry holds raw bytes: its type, count and value (12 bytes after the tag)."""
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HH", 1, tag) + value + b"\0\0\0\0"


SHORT = b"\0\x03\0\0\0\x01"  # a type and a count
BROKEN_EXIF = {
    "no header": b"Exif\0\0XX\0*\0\0\0\x08", "cut off": b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01", "empty": b"Exif\0\0",
    "text for a number": exif(0x0112, b"\0\x02\0\0\0\x04six\0"),
    "0": exif(0x0112, SHORT + b"\0\0\0\0"), "9": exif(0x0112, SHORT + b"\0\x09\0\0"),
    "65535": exif(0x0112, SHORT + b"\xff\xff\0\0"), "loop": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08",
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", BROKEN_EXIF)
def test_exif_without_a_meaning_turns_nothing_and_ends_nothing(tmp_path, kind, name):
    options = {"lossless": True} if kind == "WEBP" else {}
    whole = read(tmp_path, encoded(kind, **options))
    np.testing.assert_array_equal(read(tmp_path, encoded(kind, exif=BROKEN_EXIF[name], **options)), whole)
    assert images.check(str(tmp_path / "image"), thorough=True) == (24, 20)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_orientation_beside_other_exif_that_cannot_be_written_is_applied(tmp_path):
    """The second entry is text where Pillow, to write it, expects a number."""
    data = (b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HH", 2, 0x0112) + SHORT + b"\0\x03\0\0"
            + struct.pack(">H", 0x0128) + b"\0\x02\0\0\0\x04six\0" + b"\0\0\0\0")
    np.testing.assert_array_equal(read(tmp_path, encoded("PNG", exif=data)), PIXELS[::-1, ::-1])


def chunks(data):
    """Returns the (start, end, kind) of the chunks of a PNG file."""
    found, start = [], 8
    while start < len(data):
        end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        found.append((start, end, data[start + 4 : start + 8]))
        start = end
    return found


def png_with_everything():
    text = PngImagePlugin.PngInfo()
    text.add_text("key", "value")
    text.add_text("packed", "value" * 50, zip=True)
    text.add_itxt("key", "value", "en", "key")
    turned = Image.Exif()
    turned[0x0112] = 3
    return encoded("PNG", pnginfo=text, exif=turned, dpi=(72, 72), icc_profile=b"profile" * 20)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"iCCP"])
@pytest.mark.parametrize("checked", [True, False])
def test_a_broken_chunk_of_a_png_beside_its_pixels_ends_nothing_and_exif_still_turns_them(tmp_path, kind, checked):
    data = bytearray(png_with_everything())
    start, end, _ = next(chunk for chunk in chunks(data) if chunk[2] == kind)
    data[start + 8 : end - 4] = bytes(byte ^ 0xAA for byte in data[start + 8 : end - 4])
    if checked:
        data[end - 4 : end] = struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
    np.testing.assert_array_equal(read(tmp_path, bytes(data)), PIXELS[::-1, ::-1])


def test_a_broken_chunk_of_the_pixels_of_a_png_is_refused(tmp_path):
    data = bytearray(png_with_everything())
    start, *_ = next(chunk for chunk in chunks(data) if chunk[2] == b"IDAT")
    data[start + 100] ^= 0xFF
    with pytest.raises(UserError, match="cannot read the image"):
        read(tmp_path, bytes(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation):
    turned = Image.Exif()
    turned[0x0112] = orientation
    png, tiff = encoded("PNG", exif=turned), encoded("TIFF", tiffinfo={0x0112: orientation})
    np.testing.assert_array_equal(read(tmp_path, tiff, size=(10, 10)), read(tmp_path, png, size=(10, 10)))


def gray_tiff(values, *, bits=16, photometric=1):
    """Returns a TIFF file of gray rows; values are packed bytes [height, bytes]."""
    height, row = values.shape
    entries = [(0x0100, row * 8 // bits), (0x0101, height), (0x0102, bits), (0x0103, 1), (0x0106, photometric),
               (0x0111, 8 + 2 + 8 * 12 + 4), (0x0115, 1), (0x0117, values.size)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0" + values.tobytes()


def test_a_tiff_of_12_bits_is_scaled_by_them(tmp_path):
    packed = np.tile(np.array([0xFF, 0xF0, 0x00], np.uint8), (4, 2))  # 4095, 0, 4095, 0
    pixels = read(tmp_path, gray_tiff(packed, bits=12), channels=1, size=(4, 4))[..., 0]
    np.testing.assert_array_equal(pixels, np.tile(np.array([255, 0], np.uint8), (4, 2)))


def test_a_tiff_of_16_bits_whose_white_is_0_is_not_shown_as_a_negative(tmp_path):
    values = np.tile(np.array([0, 65535], "<u2"), (4, 2)).view(np.uint8)
    for photometric, left in ((0, 255), (1, 0)):
        assert read(tmp_path, gray_tiff(values, photometric=photometric), channels=1, size=(4, 4))[0, 0, 0] == left


def test_a_transparent_gray_of_16_bits_is_white(tmp_path):
    image, buffer = Image.frombytes("I;16", (2, 1), np.array([1000, 2000], "<u2").tobytes()), io.BytesIO()
    image.save(buffer, "PNG", transparency=1000)
    assert read(tmp_path, buffer.getvalue(), channels=1, size=(1, 2)).ravel().tolist() == [255, 8]


@pytest.mark.parametrize(("mode", "color", "gray"), [("LAB", (128, 128, 128), 119), ("La", (0, 128), 127),
                                                     ("HSV", (0, 0, 200), 200), ("YCbCr", (90, 128, 128), 90)])
def test_unusual_modes_become_gray_and_color(mode, color, gray):
    image = Image.new(mode, (4, 4), color)
    for channels in (1, 3):
        pixels = images.take_part(image, lambda w, h: (0, 0, w, h), image_shape=(4, 4, channels), upright=True)
        assert np.abs(pixels.astype(int) - gray).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_images_of_any_aspect_are_read_and_checked(tmp_path, size, kind):
    assert (read(tmp_path, encoded(kind, np.full((*size[::-1], 3), 200, np.uint8))) == 200).all()
    assert images.check(str(tmp_path / "image"), thorough=True) == size


def test_cmyk_with_and_without_a_transform_is_read_as_color(tmp_path):
    """Adobe's marker says that ink is inverted; its last byte whether it is YCCK, as most programs write."""
    image, buffer = Image.new("CMYK", (24, 20), (0, 255, 255, 0)), io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    assert b"Adobe" in buffer.getvalue()
    assert np.abs(read(tmp_path, buffer.getvalue()).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("data", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", b"\x89HDF\r\n\x1a\n" + bytes(64),
    b"\0\0\1\xba" + bytes(64), b"\xd7\xcd\xc6\x9a" + bytes(64)], ids=["eps", "hdf5", "mpeg", "wmf"])
def test_kinds_that_need_another_program_are_refused_before_they_are_decoded(tmp_path, data):
    with pytest.raises(UserError, match="is not an image in a format that is read; convert it to PNG or JPEG"):
        read(tmp_path, data)


def heic():
    """Returns the first bytes of a picture of a phone."""
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_what_reads_heic_is_said_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "suffixes", lambda: {".jpg"})
    (tmp_path / "a.HEIC").write_bytes(heic())
    with pytest.raises(UserError, match=r"a\.HEIC is not an image.*`pip install pillow-heif` to read it, or convert"):
        read_image(tmp_path / "a.HEIC", image_shape=(4, 4, 3))


def test_heic_is_read_where_its_package_is_there(tmp_path):
    pytest.importorskip("pillow_heif")
    pixels = np.full((20, 24, 3), (200, 100, 50), np.uint8)
    assert np.abs(read(tmp_path, encoded("HEIF", pixels, quality=95)).astype(int) - (200, 100, 50)).max() <= 6
    assert ".heic" in opening.suffixes()
