from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from robustbench_df.data.decode import decode, quiet_pillow
from robustbench_df.data.stores import Unreadable

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_of(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_come_back_exactly(form, options):
    pixels, name, _ = decode(saved(Image.fromarray(RGB), form, **options))
    assert name == form
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, RGB.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (saved(Image.fromarray(RGB), "GIF"), "GIF"),
        (saved(Image.fromarray(RGB), "TIFF"), "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\xff\x0a\x00\x10", "JPEG XL"),
    ],
)
def test_images_of_other_formats_are_refused_with_the_remedy(raw, name):
    with pytest.raises(Unreadable, match=f"^{name} is not read; convert it to PNG$"):
        decode(raw)


def test_jpeg_grey_palette_and_one_bit():
    smooth = Image.linear_gradient("L").resize((16, 16))
    pixels, name, _ = decode(saved(smooth.convert("RGB"), "JPEG", quality=95))
    assert name == "JPEG"
    assert np.abs(pixels.astype(int) - np.asarray(smooth)).max() < 12
    assert np.array_equal(decode(saved(smooth))[0], np.stack([np.asarray(smooth)] * 3))
    palette = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(decode(saved(palette))[0], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    bits = smooth.convert("1")
    assert np.array_equal(decode(saved(bits))[0][0], np.asarray(bits).astype(np.uint8) * 255)


def test_sixteen_bits_are_scaled_not_clipped():
    grey = np.array([[0, 257, 511, 32896, 65278, 65535]], np.uint16)
    pixels, *_ = decode(saved(Image.fromarray(grey)))
    assert pixels[0].tolist() == [[0, 1, 2, 128, 254, 255]]
    row = b"\0" + struct.pack(">6H", 0, 32896, 65535, 257, 514, 60000)
    colour, *_ = decode(png_of(2, 1, 16, 2, row))
    assert np.abs(colour[:, 0, :].T.ravel() - np.array([0, 128, 255, 1, 2, 60000 / 257])).max() < 1


def test_transparent_pixels_are_laid_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 255, 51  # black: unseen, opaque, a fifth
    pixels, *_ = decode(saved(Image.fromarray(rgba)))
    assert pixels[:, 0].tolist() == [[255, 0, 204]] * 3
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putdata([0, 1])
    assert decode(saved(palette, transparency=0))[0][0].tolist() == [[255, 9]]


def test_cmyk_jpeg_has_the_colours_a_viewer_shows():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    red, green, blue = decode(saved(cmyk, "JPEG", quality=95))[0].mean((1, 2))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    stored = {1: [], 2: [2], 3: [3], 4: [4], 5: [5], 6: [8], 7: [7], 8: [6]}[orientation]
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF tag -> Pillow transpose method
    image = Image.fromarray(RGB)
    for step in stored:
        image = image.transpose(Image.Transpose(turns[step]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, _, size = decode(saved(image, exif=exif), 4)
    assert (pixels.shape, size) == ((3, 4, 4), "9×6")
    assert np.array_equal(decode(saved(image, exif=exif))[0], RGB.transpose(2, 0, 1))


def test_malformed_exif_does_not_cost_the_image():
    raw = saved(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0garbage that is no TIFF header")
    assert decode(raw)[0].shape == (3, 6, 9)


def test_size_scales_the_shorter_side_and_crops_the_centre():
    wide = Image.fromarray(np.tile(RGB, (4, 8, 1)))  # 72 × 24
    in_two_steps = wide.resize((36, 12), Image.Resampling.BICUBIC).crop((12, 0, 24, 12))
    found = decode(saved(wide), 12)[0].astype(int)
    assert np.abs(found - np.asarray(in_two_steps).transpose(2, 0, 1)).max() <= 1
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(saved(Image.fromarray(board)), 16)[0].astype(int)
    assert np.abs(small[:, 2:-2, 2:-2] - 127).max() <= 6  # antialiased: without it all black or all white
    assert decode(saved(Image.fromarray(RGB)), 20)[0].shape == (3, 20, 20)
    assert decode(saved(Image.new("RGB", (1, 60000))), 32)[0].shape == (3, 32, 32)


def test_exact_size_is_left_alone():
    square = RGB[:, :6]
    assert np.array_equal(decode(saved(Image.fromarray(square)), 6)[0], square.transpose(2, 0, 1))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_truncated_files_are_refused(form):
    raw = saved(Image.fromarray(np.tile(RGB, (20, 20, 1))), form)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(Unreadable) as caught:
            decode(raw[: int(len(raw) * share)])
        assert caught.value.kind == "unreadable"
        assert "0x" not in str(caught.value)


def test_bombs_are_refused_on_their_header_and_without_warnings():
    bomb = png_of(9600, 9600, 8, 0, b"")  # 92 million: below the limit, where Pillow only warns
    monster = png_of(60000, 60000, 8, 0, b"")
    with quiet_pillow(), warnings.catch_warnings(record=True) as heard:
        with pytest.raises(Unreadable) as caught:
            decode(monster)
        assert caught.value.kind == "too-large"
        with pytest.raises(Unreadable, match=r"10001×10000 pixels, more than 100 million"):
            decode(png_of(10001, 10000, 8, 0, b""))
        with pytest.raises(Unreadable):
            decode(bomb)
    assert heard == []


@pytest.mark.parametrize("raw", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(40), b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_says_so_in_one_line(raw):
    with pytest.raises(Unreadable) as caught:
        decode(raw)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_bytes_never_raise_anything_else():
    rng = np.random.default_rng(1)
    image = Image.fromarray(np.tile(RGB, (3, 3, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6
    with quiet_pillow():
        for form in ("PNG", "JPEG", "WEBP", "BMP"):
            raw = np.frombuffer(saved(image, form, **({"exif": exif} if form != "BMP" else {})), np.uint8)
            for _ in range(150):
                hurt = raw.copy()
                spots = rng.integers(0, len(raw), 4)
                hurt[spots] = rng.integers(0, 256, 4)
                try:
                    pixels, *_ = decode(hurt.tobytes(), 8)
                except Unreadable:
                    continue
                assert pixels.shape == (3, 8, 8)
