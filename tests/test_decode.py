"""decode.py: every form of pixel, exact sizes, and only `PictureError` from bad files."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas.config import DataConfig
from ganvas.data.reading.decode import decode, probe
from ganvas.data.reading.headers import MAX_PIXELS
from ganvas.data.reading.sources import open_source
from ganvas.data.reading.target import Target
from ganvas.errors import ConfigError, PictureError


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def target(height: int, width: int, channels: int = 3, depth: int = 8, fit: str = "crop", background=None) -> Target:
    return Target(height, width, channels, depth, fit, background)  # ty: ignore[invalid-argument-type]


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def gradient(height: int, width: int) -> Image.Image:
    """Red grows to the right, green downwards: shows turns and crops."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 128)], 2).astype(np.uint8))


# What the pixels are.


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_color_is_bit_exact(form):
    pixels = noise(20, 30, 3)
    payload = encoded(Image.fromarray(pixels), form, **({"lossless": True} if form == "WEBP" else {}))
    info = probe(payload)
    assert (info.height, info.width, info.channels, info.alpha, info.depth) == (20, 30, 3, False, 8)
    np.testing.assert_array_equal(decode(payload, target(20, 30)), pixels)


def test_jpeg_and_gif():
    assert np.abs(decode(encoded(gradient(40, 60), "JPEG"), target(40, 60)).astype(int) - gradient(40, 60)).mean() < 3
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(gif, target(16, 16))[8, 8].tolist() == [255, 0, 0]  # the first frame


def test_gray_stays_gray_and_color_becomes_gray():
    pixels = noise(12, 12)
    payload = encoded(Image.fromarray(pixels))
    assert probe(payload).channels == 1
    np.testing.assert_array_equal(decode(payload, target(12, 12, 1))[:, :, 0], pixels)
    np.testing.assert_array_equal(decode(payload, target(12, 12, 3))[:, :, 2], pixels)
    red = encoded(Image.new("RGB", (4, 4), "red"))
    assert decode(red, target(4, 4, 1))[0, 0, 0] == 76  # 0.299 * 255


def test_palette_one_bit_cmyk_and_ycbcr():
    palette = Image.fromarray(noise(16, 16, 3)).quantize(8)
    np.testing.assert_array_equal(decode(encoded(palette), target(16, 16)), np.asarray(palette.convert("RGB")))
    assert probe(encoded(palette)).channels == 3
    gray_palette = Image.new("P", (8, 8), 1)
    gray_palette.putpalette([0, 0, 0, 200, 200, 200])
    assert probe(encoded(gray_palette)).channels == 1
    assert decode(encoded(gray_palette), target(8, 8, 1)).max() == 200
    one_bit = encoded(Image.fromarray(noise(9, 9) > 127))
    assert set(np.unique(decode(one_bit, target(9, 9, 1)))) == {0, 255}
    cmyk = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    assert decode(cmyk, target(8, 8))[0, 0].tolist() == [255, 0, 0]
    ycbcr = encoded(
        gradient(8, 8).convert("YCbCr"), "TIFF", compression="tiff_lzw"
    )  # Pillow before 13 cannot read it plain
    assert np.abs(decode(ycbcr, target(8, 8)).astype(int) - gradient(8, 8)).max() <= 3


def test_alpha_is_composited_on_the_background_or_kept():
    pixels = np.zeros((6, 6, 4), np.uint8)
    pixels[:, 3:] = (10, 20, 30, 255)
    payload = encoded(Image.fromarray(pixels))
    assert probe(payload).alpha
    assert decode(payload, target(6, 6))[0, 0].tolist() == [255, 255, 255]
    assert decode(payload, target(6, 6))[0, 5].tolist() == [10, 20, 30]
    assert decode(payload, target(6, 6, background="#ff0080"))[0, 0].tolist() == [255, 0, 128]
    assert decode(payload, target(6, 6, 1))[0, 0, 0] == 0
    np.testing.assert_array_equal(decode(payload, target(6, 6, 4)), pixels)
    np.testing.assert_array_equal(decode(pixels, target(6, 6, 3)), decode(payload, target(6, 6, 3)))


def test_gray_alpha_and_transparent_palette():
    gray = np.dstack([np.full((5, 5), 90, np.uint8), np.full((5, 5), 0, np.uint8)])
    payload = encoded(Image.fromarray(gray))
    assert (probe(payload).channels, probe(payload).alpha) == (1, True)
    assert decode(payload, target(5, 5, 1))[0, 0, 0] == 0
    assert decode(payload, target(5, 5, 1, background="white"))[0, 0, 0] == 255
    palette = Image.new("P", (5, 5), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    transparent = encoded(palette, transparency=0)
    assert probe(transparent).alpha
    assert decode(transparent, target(5, 5))[0, 0].tolist() == [255, 255, 255]
    assert decode(transparent, target(5, 5, 4))[0, 0, 3] == 0


def test_16_bit_gray_is_kept_or_scaled():
    pixels = noise(10, 14, dtype=np.uint16)
    pixels[0, :2] = 0, 65535
    for payload in (encoded(Image.fromarray(pixels)), encoded(Image.fromarray(pixels), "TIFF"), big_endian(pixels)):
        assert (probe(payload).depth, probe(payload).channels) == (16, 1)
        np.testing.assert_array_equal(decode(payload, target(10, 14, 1, 16))[:, :, 0], pixels)
        expected = np.rint(pixels / 257.0)
        np.testing.assert_array_equal(decode(payload, target(10, 14, 1))[:, :, 0], expected)
        assert decode(payload, target(10, 14, 3, 16)).shape == (10, 14, 3)
    np.testing.assert_array_equal(decode(pixels, target(10, 14, 1, 16))[:, :, 0], pixels)
    ramp = np.linspace(1000, 1100, 64).astype(np.uint16)[None].repeat(64, 0)  # 8 bits would leave one step of it
    assert len(np.unique(decode(encoded(Image.fromarray(ramp)), target(32, 32, 1, 16)))) > 20


def big_endian(pixels: np.ndarray) -> bytes:
    """A minimal big-endian 16 bit TIFF."""
    height, width = pixels.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, pixels.nbytes)]
    body = pixels.astype(">u2").tobytes()
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", v, 0) if kind == 3 else struct.pack(">I", v))
        for tag, kind, v in tags
    )
    return b"MM\0*" + struct.pack(">I", 8 + len(body)) + body + struct.pack(">H", len(tags)) + entries + bytes(4)


def test_8_bit_pictures_in_a_16_bit_pack_span_its_range():
    assert decode(encoded(Image.new("L", (4, 4), 255)), target(4, 4, 1, 16)).max() == 65535


def test_16_bit_with_color_and_alpha_targets():
    pixels = np.full((8, 8), 65535, np.uint16)
    padded = decode(encoded(Image.fromarray(pixels)), target(8, 16, 4, 16, "pad"))
    assert padded[4, 8].tolist() == [65535] * 4
    assert padded[4, 0, 3] == 0
    color = noise(6, 6, 3, dtype=np.uint16)
    np.testing.assert_array_equal(decode(color, target(6, 6, 3, 16)), color)
    assert decode(color, target(6, 6, 1, 16)).shape == (6, 6, 1)


# Turns.


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form, orientation):
    upright = gradient(32, 48)
    backwards = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(backwards[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    payload = encoded(stored, form, exif=exif, **options)
    info = probe(payload)
    assert (info.height, info.width) == (32, 48)
    assert np.abs(decode(payload, target(32, 48)).astype(int) - upright).mean() < 3


def test_exif_orientation_of_16_bit_png():
    pixels = noise(6, 9, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = encoded(Image.fromarray(np.rot90(pixels).copy()), exif=exif)
    np.testing.assert_array_equal(decode(payload, target(6, 9, 1, 16))[:, :, 0], pixels)


# Sizes.


def test_crop_keeps_the_middle_pad_keeps_all_stretch_fills():
    picture = Image.new("RGB", (90, 30), "blue")
    picture.paste("red", (30, 0, 60, 30))
    payload = encoded(picture)
    assert (decode(payload, target(30, 30)) == (255, 0, 0)).all()
    padded = decode(payload, target(30, 30, fit="pad", background="black"))
    assert padded[0, 15].tolist() == [0, 0, 0]
    assert padded[15, 1].tolist() == [0, 0, 255]
    assert padded[15, 15].tolist() == [255, 0, 0]
    stretched = decode(payload, target(30, 30, fit="stretch"))
    assert stretched[0, 0].tolist() == [0, 0, 255]
    assert stretched[15, 15].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(30, 40), (31, 40), (30, 41)])
def test_a_crop_without_scaling_is_bit_exact(size):
    pixels = noise(*size, 3)
    left, top = (size[1] - 40) // 2, (size[0] - 30) // 2
    np.testing.assert_array_equal(
        decode(encoded(Image.fromarray(pixels)), target(30, 40)), pixels[top : top + 30, left : left + 40]
    )


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    channels=st.sampled_from([1, 3, 4]),
    depth=st.sampled_from([8, 16]),
    fit=st.sampled_from(["crop", "pad", "stretch"]),
    source=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
)
@settings(max_examples=80, deadline=None)
def test_any_picture_gets_exactly_the_target(height, width, channels, depth, fit, source):
    payload = encoded(Image.new(source, (width, height)), "TIFF" if source == "CMYK" else "PNG")
    pixels = decode(payload, target(16, 24, channels, depth, fit))
    assert pixels.shape == (16, 24, channels)
    assert pixels.dtype == (np.uint8 if depth == 8 else np.uint16)


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    small = decode(stripes, target(32, 32, 1))
    assert np.abs(small.astype(int) - 127).max() < 12


def test_shrinking_a_large_jpeg_by_its_decoder_is_as_good_as_from_all_pixels():
    large = np.asarray(gradient(1200, 1600)).astype(int)
    large[400:800, 600:1000] = 255 - large[400:800, 600:1000]
    payload = encoded(Image.fromarray(large.astype(np.uint8)), "JPEG", quality=95)
    by_decoder = decode(payload, target(96, 96)).astype(int)
    from_all = decode(np.asarray(Image.open(io.BytesIO(payload)).convert("RGB")), target(96, 96)).astype(int)
    assert np.abs(by_decoder - from_all).mean() < 1.0


def test_background_that_is_no_color():
    with pytest.raises(ConfigError, match=r"blurple.*#rrggbb"):
        decode(encoded(Image.new("RGBA", (4, 4))), target(4, 4, background="blurple"))


# What is no image.


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [50_000, int(MAX_PIXELS**0.5) + 1])
def test_a_decompression_bomb_is_refused_from_its_header(side):
    for look in (probe, lambda payload: decode(payload, target(64, 64))):
        with pytest.raises(PictureError, match=f"too large: {side * side:,} pixels"):
            look(png_header(side, side))


def test_a_complete_file_with_a_damaged_header_is_not_called_truncated():
    payload = bytearray(encoded(gradient(9, 9), "BMP"))
    payload[28:30] = (7).to_bytes(2, "little")  # bits per pixel
    with pytest.raises(PictureError, match=r"^damaged BMP file$"):
        decode(bytes(payload), target(9, 9))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_files_say_so(form):
    payload = encoded(Image.fromarray(noise(64, 64, 3)), form)
    for length in (len(payload) // 2, len(payload) - 40):
        with pytest.raises(PictureError, match=r"^truncated$"):
            decode(payload[:length], target(64, 64))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty file"),
        (b"this is a letter, renamed .png\n", "not an image, but text"),
        ("naïve café".encode(), "not an image"),
        (bytes(100), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image, but text"),
        (b"\x89PNG\r\n\x1a\nrubbish IEND", "damaged PNG file"),
    ],
)
def test_other_files_say_what_they_are(payload, reason):
    for look in (probe, lambda payload: decode(payload, target(8, 8))):
        with pytest.raises(PictureError, match=reason):
            look(payload)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), bool), np.zeros((4, 4, 7), np.uint8), np.zeros(4, np.uint8)])
def test_arrays_that_are_no_picture(pixels):
    with pytest.raises(PictureError, match="expected height x width"):
        decode(pixels, target(4, 4))


SEEDS = [
    encoded(gradient(24, 24)),
    encoded(gradient(24, 24), "JPEG"),
    encoded(Image.fromarray(noise(8, 8)), "GIF"),
    encoded(gradient(24, 24), "TIFF", compression="tiff_lzw"),
    encoded(gradient(24, 24), "WEBP"),
    encoded(gradient(24, 24), "BMP"),
    encoded(Image.fromarray(noise(8, 8, dtype=np.uint16))),
]


def only_picture_errors(payload: bytes) -> None:
    for look in (probe, lambda payload: decode(payload, target(16, 16))):
        try:
            look(payload)
        except PictureError as error:
            assert str(error)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_raise_only_picture_errors(payload):
    only_picture_errors(payload)
    only_picture_errors(b"\x89PNG\r\n\x1a\n" + payload)
    only_picture_errors(b"\xff\xd8\xff\xe0" + payload)
    only_picture_errors(b"II*\0" + payload)


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    st.floats(0.05, 1),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_pictures_raise_only_picture_errors(seed, changes, share):
    damaged = bytearray(seed)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    only_picture_errors(bytes(damaged[: int(len(damaged) * share)]))


# Real images.


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("mednist", 1, (64, 64)), ("celeba", 3, (218, 178)), ("comic_faces", 3, (96, 96)), ("face2comics", 3, None)],
)
def test_real_pictures(shared_data, name, channels, size):
    for (_, payload), _ in zip(
        open_source(shared_data / name, DataConfig(split="all")).stream(), range(20), strict=False
    ):
        info = probe(payload)
        assert info.channels == channels
        assert size is None or (info.height, info.width) == size
        pixels = decode(payload, target(48, 64, channels))
        assert pixels.shape == (48, 64, channels)
        assert pixels.std() > 5


def test_libtiff_says_nothing_itself(capfd):
    content = bytearray(encoded(gradient(64, 64), "TIFF", compression="tiff_lzw"))
    content[8:400] = bytes(255 - byte for byte in content[8:400])
    with pytest.raises(PictureError):
        decode(bytes(content), target(64, 64, 3))
    os.write(2, b"ours")
    assert capfd.readouterr().err == "ours"
