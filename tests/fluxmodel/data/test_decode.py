"""Bytes become upright RGB pixels, or one typed refusal; never anything else."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from fluxmodel.data.decode import Refusal, decode, decode_image, encode_png, fit
from fluxmodel.data.image_measures import sources
from fluxmodel.data.records import EXPLANATIONS, Reason
from tests.fluxmodel.data.odd_images import DISPLAY_P3, rgb_profile, tiff
from tests.fluxmodel.data.pictures import encoded, flipped, picture, png_declaring, raw_png

PICTURE = picture(0)
PNG, JPEG, GIF = encoded(PICTURE), encoded(PICTURE, "JPEG"), encoded(PICTURE, "GIF")
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
MARKED = np.zeros((4, 6, 3), np.uint8)
MARKED[0, 0] = (255, 0, 0)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(values).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", Reason.EMPTY_FILE, id="0 bytes"),
        pytest.param(b"\0" * 100, Reason.NOT_AN_IMAGE, id="zeros"),
        pytest.param(b"<!DOCTYPE html><html>404</html>", Reason.NOT_AN_IMAGE, id="web page"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.NOT_AN_IMAGE, id="EPS"),
        pytest.param(b"GIF89a", Reason.CORRUPT, id="header only"),
        pytest.param(PNG[: len(PNG) // 2], Reason.TRUNCATED, id="PNG cut in half"),
        pytest.param(PNG[:-12], Reason.TRUNCATED, id="PNG without its last chunk"),
        pytest.param(JPEG[: len(JPEG) // 2], Reason.TRUNCATED, id="JPEG cut in half"),
        pytest.param(GIF[: len(GIF) // 2], Reason.TRUNCATED, id="GIF cut in half"),
        pytest.param(flipped(PNG, len(PNG) // 2), Reason.CORRUPT, id="PNG with one bit flipped"),
        pytest.param(png_declaring(30_000, 30_000), Reason.TOO_LARGE, id="bomb far over the limit"),
        pytest.param(png_declaring(9_000, 9_000), Reason.TOO_LARGE, id="bomb Pillow lets pass"),
        pytest.param(png_declaring(64, 64), Reason.TRUNCATED, id="fewer pixels than declared"),
        pytest.param(encoded(np.full((8, 8), np.nan, np.float32), "TIFF"), Reason.UNKNOWN_RANGE, id="NaN"),
        pytest.param(encoded(np.full((8, 8), 1e6, np.float32), "TIFF"), Reason.UNKNOWN_RANGE, id="float 1e6"),
        pytest.param(encoded(np.full((8, 8), -1, np.int32), "TIFF"), Reason.UNKNOWN_RANGE, id="negative int"),
        pytest.param(tiff(np.zeros((8, 8, 3), np.uint16), 8), Reason.UNSUPPORTED_MODE, id="16-bit Lab"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(data, reason):
    with pytest.raises(Refusal) as caught:
        decode(data)
    assert caught.value.reason == reason, caught.value.detail
    assert caught.value.detail


def palette_with_alpha() -> bytes:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 200, 9, 9, 9])
    return encoded(image, transparency=bytes([255, 255, 0]))


def deep_png(color_type: int, *channels: int) -> bytes:
    row = b"\0" + b"".join(value.to_bytes(2, "big") for value in channels)
    return raw_png(1, 1, 16, color_type, row)


@pytest.mark.parametrize(
    ("data", "expected", "tolerance"),
    [
        pytest.param(PNG, PICTURE, 0, id="RGB"),
        pytest.param(encoded(PICTURE, "WEBP", lossless=True), PICTURE, 0, id="lossless WebP"),
        pytest.param(encoded(RAMP.astype(np.uint16)), grey(RAMP / 257), 1, id="16-bit PNG"),
        pytest.param(encoded(RAMP.astype(np.uint16), "PPM"), grey(RAMP / 257), 1, id="16-bit PGM"),
        pytest.param(encoded(RAMP.astype(np.uint16), "TIFF"), grey(RAMP / 257), 1, id="16-bit TIFF"),
        pytest.param(
            encoded((RAMP / 65535).astype(np.float32), "TIFF"), grey(RAMP / 257), 1, id="float 0..1"
        ),
        pytest.param(
            encoded((RAMP / 257).astype(np.float32), "TIFF"), grey(RAMP / 257), 1, id="float 0..255"
        ),
        pytest.param(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), [255, 0, 0], 0, id="CMYK"),
        pytest.param(
            encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"), [0, 255, 255], 3, id="CMYK JPEG"
        ),
        pytest.param(palette_with_alpha(), [[[255, 0, 0], [0, 0, 200]], [[255] * 3, [0, 0, 200]]], 0, id="P"),
        pytest.param(encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0))), [255] * 3, 0, id="hidden colour"),
        pytest.param(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 51))), [204] * 3, 0, id="a fifth of black"),
        pytest.param(encoded(Image.new("LA", (4, 4), (0, 128))), [127] * 3, 0, id="grey and alpha"),
        pytest.param(encoded(Image.new("L", (4, 4), 7), transparency=7), [255] * 3, 0, id="transparent grey"),
        pytest.param(deep_png(2, 0xFFFF, 0x8080, 0), [255, 128, 0], 0, id="16-bit RGB"),
        pytest.param(deep_png(4, 0x0000, 0x3333), [204] * 3, 0, id="16-bit grey and alpha"),
        pytest.param(deep_png(6, 0, 0, 0, 0x3333), [204] * 3, 0, id="16-bit RGBA"),
        pytest.param(encoded(Image.new("1", (4, 4), 1)), [255] * 3, 0, id="one bit"),
        pytest.param(encoded(Image.new("RGB", (1, 1), (1, 2, 3))), [1, 2, 3], 0, id="1 x 1"),
        pytest.param(
            encoded(
                Image.new("RGB", (4, 4), "red"),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (4, 4), "blue")],
            ),
            [255, 0, 0],
            0,
            id="first frame of an animation",
        ),
        pytest.param(flipped(PNG + b"trailing", len(PNG) + 2), PICTURE, 0, id="bytes after the end"),
    ],
)
def test_a_good_file_has_the_right_pixels(data, expected, tolerance):
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= tolerance


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, "tl"), (2, "tr"), (3, "br"), (4, "bl"), (5, "tl"), (6, "tr"), (7, "br"), (8, "bl")],
)
def test_a_rotated_photograph_stands_upright(orientation, corner, format):
    options = {"lossless": True} if format == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(MARKED, format, exif=exif, **options))
    assert pixels.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))
    place = (0 if corner[0] == "t" else -1, 0 if corner[1] == "l" else -1)
    assert tuple(pixels[place]) == (255, 0, 0)


def test_damaged_exif_costs_the_rotation_only():
    data = encoded(PICTURE, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert np.array_equal(decode(data), PICTURE)


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "blue")]}
RED = Image.new("RGB", (8, 8), "red")


@pytest.mark.parametrize(
    ("data", "has_more_frames", "has_alpha", "profile"),
    [
        pytest.param(PNG, False, False, "none", id="PNG"),
        pytest.param(JPEG, False, False, "none", id="JPEG"),
        pytest.param(GIF, False, False, "none", id="GIF"),
        pytest.param(encoded(RED, "GIF", **FRAMES), True, False, "none", id="animated GIF"),
        pytest.param(encoded(RED, "GIF", **FRAMES)[:-30], False, False, "none", id="cut second frame"),
        pytest.param(encoded(RED, "PNG", **FRAMES), True, False, "none", id="APNG"),
        pytest.param(encoded(RED, "WEBP", **FRAMES), True, False, "none", id="animated WebP"),
        pytest.param(encoded(RED, "TIFF", **FRAMES), True, False, "none", id="pages"),
        pytest.param(encoded(RED, "MPO", **FRAMES), True, False, "none", id="MPO"),
        pytest.param(encoded(Image.new("RGBA", (8, 8))), False, True, "none", id="RGBA"),
        pytest.param(
            encoded(RED, icc_profile=rgb_profile(DISPLAY_P3, 2.2)), False, False, "converted", id="P3"
        ),
        pytest.param(encoded(RED, icc_profile=SRGB_PROFILE), False, False, "srgb", id="sRGB"),
        pytest.param(encoded(RED, icc_profile=b"nothing"), False, False, "ignored", id="damaged"),
    ],
)
def test_what_the_pixels_do_not_show_is_told(data, has_more_frames, has_alpha, profile):
    image = decode_image(data)
    assert (image.has_more_frames, image.has_alpha, image.profile) == (has_more_frames, has_alpha, profile)
    assert np.array_equal(image.pixels, decode(data))


def test_an_srgb_profile_moves_no_pixel():
    assert np.array_equal(decode(encoded(PICTURE, icc_profile=SRGB_PROFILE)), PICTURE)


def test_an_error_of_any_kind_becomes_a_refusal(monkeypatch):
    def broken(*_, **__):
        raise RecursionError("a plugin's own")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(Refusal, match="a plugin's own"):
        decode(PNG)


def test_real_grey_in_the_last_corner_of_a_jpeg_is_no_missing_data():
    assert (decode(encoded(np.full((40, 40, 3), 128, np.uint8), "JPEG")) == 128).all()


def test_measures_kept_by_content_depend_on_all_code_behind_the_pixels():
    behind = {"decode", "color_profile", "deep_pixels", "image_header", "refusal", "perceptual_hash"}
    assert behind <= sources().keys()


def test_png_round_trip_is_the_identity():
    assert np.array_equal(decode(encode_png(PICTURE)), PICTURE)


def test_fit_is_the_identity_at_the_right_size():
    square = picture(1, 32, 32)
    assert fit(square, 32) is square


@pytest.mark.parametrize(("width", "height"), [(64, 64), (48, 100), (100, 48), (33, 32), (7, 9), (1, 1)])
def test_fit_takes_the_centre_square_and_keeps_flat_colours(width, height):
    image = np.full((height, width, 3), 200, np.uint8)
    if width > height:
        image[:, : (width - height) // 2] = 0
        image[:, width - (width - height) // 2 :] = 0
    fitted = fit(image, 32)
    assert fitted.shape == (32, 32, 3)
    assert fitted[:, 3:-3].min() == fitted[:, 3:-3].max() == 200


def test_fit_keeps_the_mean_when_it_shrinks():
    image = picture(3, 192, 192)
    assert np.abs(fit(image, 32).mean((0, 1)) - image.mean((0, 1))).max() < 2


def test_every_reason_has_an_explanation():
    assert set(EXPLANATIONS) == set(Reason)


SEEDS = [
    PNG,
    JPEG,
    GIF,
    encoded(PICTURE, "TIFF"),
    encoded(PICTURE, "BMP"),
    encoded(PICTURE, "WEBP"),
    palette_with_alpha(),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_bytes_give_an_image_or_a_refusal_and_nothing_else(whole, data):
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=8)
    ):
        if damaged:
            damaged[position % min(len(damaged), 400)] = value
    with suppress(Refusal):
        pixels = decode(bytes(damaged), max_pixels=1_000_000)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise_anything_but_a_refusal(data):
    for prefix in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"II*\0",
        b"RIFF\x10\0\0\0WEBPVP8 ",
    ):
        with pytest.raises(Refusal):
            decode(prefix + data)
