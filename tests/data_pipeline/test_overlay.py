"""Test that masks are drawn at the image's own size, upright and in the right place."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline import Preprocessing, Preprocessor
from data_pipeline.overlay import areas, colour_of, draw, draw_outlines, fit_mask, open_upright, outline

SIDE = 24


def corner_marked() -> Image.Image:
    """Draw a white corner and a blue side, so that every turn and flip of the image differs from it."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:10, :10] = 255
    pixels[:, 50:] = (0, 0, 200)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_as_the_server_turns_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options: dict[str, Any] = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    corner_marked().save(file, kind, **options)
    served = Preprocessor(Preprocessing(image_size=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))(file.getvalue())
    shown = open_upright(file.getvalue()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(served.transpose(1, 2, 0), np.asarray(shown) / 255, atol=0.02)


def test_16_bit_grey_shows_its_whole_range() -> None:
    ramp = np.linspace(100, 3000, 32 * 20, dtype=np.uint16).reshape(20, 32)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    shown = np.asarray(open_upright(file.getvalue()))
    assert shown.shape == (20, 32, 3)
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.all(np.diff(shown[..., 0].ravel().astype(int)) >= 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_every_usual_kind_of_file_can_be_drawn_on(mode: str) -> None:
    file = io.BytesIO()
    corner_marked().convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
    image = open_upright(file.getvalue())
    drawn = draw(image, fit_mask(np.ones((3, 3), np.uint8), image.size))
    assert (drawn.mode, drawn.size) == ("RGB", (60, 40))


def test_mask_is_drawn_where_it_is_and_nowhere_else() -> None:
    image = Image.new("RGB", (50, 30), (120, 120, 120))
    mask = np.zeros((30, 50), np.uint8)
    mask[5:20, 10:30] = 2
    pixels = np.asarray(draw(image, mask))
    np.testing.assert_array_equal(pixels[mask == 0], np.full((int((mask == 0).sum()), 3), 120))
    np.testing.assert_array_equal(pixels[5, 15], colour_of(2))
    inside = pixels[12, 20].astype(int)
    assert np.all(np.abs(inside - (0.65 * 120 + 0.35 * np.array(colour_of(2)))) <= 1)


@pytest.mark.parametrize("thickness", [1, 3])
def test_outline_is_the_class_less_its_inside(thickness: int) -> None:
    mask = np.zeros((20, 25), np.uint8)
    mask[4:15, 6:20] = 1
    inside = np.zeros_like(mask)
    inside[4 + thickness : 15 - thickness, 6 + thickness : 20 - thickness] = 1
    np.testing.assert_array_equal(outline(mask, thickness), (mask == 1) & (inside == 0))


def test_outlines_run_inside_each_class_in_its_colour() -> None:
    mask = np.zeros((9, 12), np.int64)
    mask[2:7, 1:6] = 2
    mask[2:7, 6:11] = 1
    pixels = np.full((9, 12, 3), 7, np.uint8)
    drawn = draw_outlines(pixels, mask)
    expected = pixels.copy()
    expected[2:7, 1:6], expected[2:7, 6:11] = colour_of(2), colour_of(1)
    expected[3:6, 2:5] = expected[3:6, 7:10] = 7
    np.testing.assert_array_equal(drawn, expected)
    assert (pixels == 7).all()  # the image itself is left alone


def test_areas_are_those_of_the_image_not_of_the_mask() -> None:
    mask = np.array([[0, 1], [1, 2]], np.uint8)
    shares = areas(fit_mask(mask, (60, 40)), ("background", "a", "b", "absent"))
    assert shares == {
        "a": {"pixels": 1200, "percent": 50.0},
        "b": {"pixels": 600, "percent": 25.0},
        "absent": {"pixels": 0, "percent": 0.0},
    }
