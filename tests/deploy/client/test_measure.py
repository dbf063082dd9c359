"""Test areas, components, contours and spacings of masks whose geometry is known."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from deploy.client import AsyncClient, Client
from deploy.client.__main__ import main
from deploy.client.measure import Cleaning, Spacing, SpacingError, check_spacing, clean, measure, tiff_spacing
from deploy.client.measure.contours import coco, geojson, polygons
from deploy.server import Server

CLASSES = ("background", "lesion", "vessel")
MakeImage = Callable[..., bytes]


def discs(*circles: tuple[int, int, int, int], size: tuple[int, int] = (400, 300)) -> NDArray[np.uint8]:
    """Draw discs, each (x, y, radius, class)."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for x, y, radius, index in circles:
        mask[(columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2] = index
    return mask


def test_discs_of_known_size_are_measured_in_millimetres() -> None:
    spacing = Spacing(row_mm=0.02, column_mm=0.05, source="test")
    mask = discs((100, 120, 60, 1), (300, 100, 30, 1), (300, 220, 40, 2))
    areas, components = measure(mask, CLASSES, spacing)
    assert areas["lesion"]["mm2"] == pytest.approx(np.pi * (60**2 + 30**2) * 0.001, rel=0.02)
    large, small = components["lesion"]
    assert large["mm2"] == pytest.approx(np.pi * 60**2 * 0.001, rel=0.02)
    assert small["percent"] == pytest.approx(100 * np.pi * 30**2 / mask.size, rel=0.02)
    assert large["centroid"] == pytest.approx([100, 120], abs=0.5)
    assert large["box"] == [40, 60, 120, 120]
    assert components["vessel"][0]["centroid"] == pytest.approx([300, 220], abs=0.5)
    # Without a spacing nothing is in millimetres.
    plain, parts = measure(mask, CLASSES, None)
    assert "mm2" not in plain["lesion"]
    assert "mm2" not in parts["lesion"][0]


def test_components_are_left_out_by_size_and_by_number() -> None:
    mask = discs((100, 120, 60, 1), (300, 100, 20, 1), (300, 220, 10, 2))
    small = 100 * np.pi * 15**2 / mask.size
    kept = clean(mask, Cleaning(min_area=small))
    assert np.unique(kept[:, 200:]).tolist() == [0, 1]
    alone = clean(mask, Cleaning(keep_largest=True))
    assert alone[100, 300] == 0
    assert alone[220, 300] == 2
    np.testing.assert_array_equal(clean(mask, Cleaning()), mask)


def drawn(rings: list[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Draw polygons with holes by their pixels' centres, independently of the library that found them."""
    from matplotlib.path import Path as Outline

    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.column_stack([columns.ravel() + 0.5, rows.ravel() + 0.5])
    inside = np.zeros(shape, bool)
    for polygon in rings:
        for ring in polygon:
            # A point is inside where it is in an odd number of rings.
            inside ^= Outline(np.array(ring)).contains_points(centres).reshape(shape)
    return inside


def test_contours_enclose_exactly_the_mask() -> None:
    mask = discs((60, 50, 45, 1), (60, 50, 20, 0), (95, 50, 40, 2), size=(110, 90))
    for index in (1, 2):
        found = polygons(mask == index)
        np.testing.assert_array_equal(drawn(found, mask.shape), mask == index)
        assert all(ring[0] == ring[-1] for polygon in found for ring in polygon)
    features = json.loads(geojson(mask, CLASSES, "a.png"))["features"]
    assert {feature["properties"]["class"] for feature in features} == {"lesion", "vessel"}
    rings = [feature["geometry"]["coordinates"] for feature in features if feature["properties"]["index"] == 1]
    np.testing.assert_array_equal(drawn(rings, mask.shape), mask == 1)


def test_coco_gives_back_the_mask_and_its_areas() -> None:
    mask = discs((60, 50, 45, 1), (60, 50, 20, 0), (120, 30, 12, 1), (118, 70, 15, 2), size=(140, 90))
    written = json.loads(coco(mask, CLASSES, "a.png"))
    assert written["images"] == [{"id": 1, "file_name": "a.png", "width": 140, "height": 90}]
    restored = np.zeros_like(mask)
    for annotation in written["annotations"]:
        outlines = annotation["segmentation"]
        if isinstance(outlines, dict):
            values = np.repeat(np.arange(len(outlines["counts"])) % 2, outlines["counts"])
            area = values.reshape(outlines["size"], order="F").astype(bool)
        else:
            area = drawn([[np.array(line).reshape(-1, 2)] for line in outlines], mask.shape)
        assert annotation["area"] == area.sum()
        left, top, width, height = annotation["bbox"]
        assert area[top : top + height, left : left + width].sum() == area.sum()
        restored[area] = annotation["category_id"]
    np.testing.assert_array_equal(restored, mask)
    assert [isinstance(one["segmentation"], dict) for one in written["annotations"]] == [True, False, False]


@pytest.mark.parametrize(
    ("millimetres", "size", "eye", "message"),
    [
        ((0.5, 0.5), (1000, 600), True, "too large for an eye"),
        ((0.6, 0.6), (1000, 600), False, "too large for a body"),
        ((0.0, 0.1), (100, 100), False, "not plausible"),
        ((float("nan"), 0.1), (100, 100), False, "not plausible"),
        ((-0.1, 0.1), (100, 100), False, "not plausible"),
        ((25.4, 25.4), (10, 10), False, "not plausible"),
    ],
)
def test_absurd_spacings_are_refused(
    millimetres: tuple[float, float], size: tuple[int, int], eye: bool, message: str
) -> None:
    row, column = millimetres
    with pytest.raises(SpacingError, match=message):
        check_spacing(Spacing(row_mm=row, column_mm=column, source="the file"), *size, eye=eye)


def tiff(**options: Any) -> bytes:
    """Make a TIFF file whose writer states a resolution."""
    file = io.BytesIO()
    Image.new("L", (40, 30)).save(file, "TIFF", **options)
    return file.getvalue()


def test_tiff_files_state_their_spacing_and_those_of_printers_do_not_count() -> None:
    stated = tiff_spacing(tiff(resolution_unit="cm", x_resolution=200.0, y_resolution=400.0))
    assert stated is not None
    assert (stated.column_mm, stated.row_mm) == pytest.approx((0.05, 0.025))
    for unit, resolution in (
        *(("inch", 300.0), ("inch", 299.9994), ("inch", 72.009), ("inch", 180.0), ("inch", 25.4)),
        *(("cm", 118.11), ("cm", 28.35), ("cm", 37.8), ("cm", 10.0)),
    ):
        printed = tiff(resolution_unit=unit, x_resolution=resolution, y_resolution=resolution)
        assert tiff_spacing(printed) is None, (unit, resolution)
    scanned = tiff_spacing(tiff(resolution_unit="inch", x_resolution=1270.0, y_resolution=1270.0))
    assert scanned is not None
    assert scanned.row_mm == pytest.approx(0.02)
    # Turned upright, the image has the stored rows as columns.
    turned = tiff_spacing(tiff(resolution_unit="cm", x_resolution=200.0, y_resolution=400.0, tiffinfo={274: 6}))
    assert turned is not None
    assert (turned.column_mm, turned.row_mm) == pytest.approx((0.025, 0.05))
    # A unit of none, and no tags.
    nonsense = tiff(resolution_unit="cm", x_resolution=200.0, y_resolution=400.0, tiffinfo={274: 9})
    assert tiff_spacing(nonsense) == stated
    assert tiff_spacing(tiff(resolution_unit=1, x_resolution=200.0, y_resolution=200.0)) is None
    assert tiff_spacing(tiff()) is None


def test_the_command_measures_cleans_and_writes_contours(
    server: Server, make_image: MakeImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(make_image((220, 130)))
    (tmp_path / "b.tif").write_bytes(tiff(resolution_unit="cm", x_resolution=100.0, y_resolution=50.0))
    (tmp_path / "c.tif").write_bytes(tiff(resolution_unit="cm", x_resolution=1.0, y_resolution=1.0))
    output = tmp_path / "out"
    named = [str(tmp_path / name) for name in ("a.png", "b.tif", "c.tif")]
    arguments = [*named, "--url", server.grpc_url, "--output", str(output)]
    assert main([*arguments, "--keep", "largest", "--min-area", "0.5", "--contours", "coco", "geojson"]) == 0
    assert f"{tmp_path / 'c.tif'}: no mm²" in capsys.readouterr().err
    first, second, third = json.loads((output / "result.json").read_text())["images"]
    assert (second["spacing"]["row_mm"], second["spacing"]["column_mm"]) == pytest.approx((0.2, 0.1))
    assert first["spacing"] is third["spacing"] is None
    mask, raw = (np.asarray(Image.open(output / first[name])) for name in ("mask", "raw_mask"))
    assert mask.shape == (130, 220)
    assert all(len(parts) <= 1 for parts in first["components"].values())
    kept = mask > 0
    np.testing.assert_array_equal(mask[kept], raw[kept])
    for name, index in (("IRF", 1), ("SRF", 2), ("PED", 3)):
        assert first["areas"][name]["pixels"] == (mask == index).sum()
    with Client(server.grpc_url) as client:
        own = client.segment((tmp_path / "a.png").read_bytes(), own_size=True).own_mask
    assert own is not None
    np.testing.assert_array_equal(raw, own)
    for ending in ("geojson", "coco.json"):
        assert json.loads((output / f"a.{ending}").read_text())


def test_a_stated_spacing_counts_before_the_file_s(server: Server, tmp_path: Path) -> None:
    (tmp_path / "b.tif").write_bytes(tiff(resolution_unit="cm", x_resolution=100.0, y_resolution=50.0))
    arguments = [str(tmp_path / "b.tif"), "--url", server.grpc_url, "--output", str(tmp_path / "out")]
    assert main([*arguments, "--spacing", "0.01"]) == 0
    (image,) = json.loads((tmp_path / "out" / "result.json").read_text())["images"]
    assert image["spacing"] == {"row_mm": 0.01, "column_mm": 0.01, "source": "--spacing"}


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_pages_behind_the_first_are_told(options: dict[str, Any], server: Server, tmp_path: Path) -> None:
    for name, pages in (("one.tif", 1), ("two.tif", 2)):
        tifffile.imwrite(tmp_path / name, np.zeros((pages, 30, 40), np.uint8), photometric="minisblack", **options)
    out = tmp_path / "out"
    assert (
        main([str(tmp_path / "one.tif"), str(tmp_path / "two.tif"), "--url", server.grpc_url, "--output", str(out)])
        == 0
    )
    one, two = json.loads((out / "result.json").read_text())["images"]
    assert one["notes"] == []
    assert two["notes"] == ["a TIFF file of several pages, of which the first is answered"]


def test_asyncio_client_gives_the_same_masks(server: Server, make_image: MakeImage) -> None:
    data = make_image((130, 70))

    async def ask() -> Any:
        async with AsyncClient(server.grpc_url) as client:
            return await client.segment(data, own_size=True)

    with Client(server.grpc_url) as client:
        np.testing.assert_array_equal(
            asyncio.run(ask()).own_mask, np.asarray(client.segment(data, own_size=True).own_mask)
        )


def test_masks_of_turned_images_are_upright(server: Server, make_image: MakeImage) -> None:
    exif = Image.Exif()
    exif[274] = 6
    with Client(server.grpc_url) as client:
        turned = client.segment(make_image((120, 70), "JPEG", exif=exif), own_size=True)
        plain = client.segment(make_image((120, 70), "JPEG"), own_size=True)
    assert turned.own_mask is not None
    assert plain.own_mask is not None
    assert turned.own_mask.shape == (120, 70)
    assert plain.own_mask.shape == (70, 120)
