"""Test that masks are used where their meaning is certain, and refused with what was found and a remedy elsewhere."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.image_header import ImageError
from data_pipeline.records import DataError
from data_pipeline.sources import open_source
from data_pipeline.sources.mask_values import MaskError, MaskRules, read_indices
from data_pipeline.sources.masks import read_rules
from tests.helpers.hostile import png_chunk
from tests.helpers.kinds import PNG
from tests.helpers.samples import assert_refused, blob
from tests.helpers.wild import tiff

SHAPE = blob(60, 80)
Values = NDArray[np.generic]


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def palette(indices: Values, colours: list[int], kind: str = "PNG", **options: object) -> bytes:
    image = Image.fromarray(indices.astype(np.uint8), "L").convert("P")
    image.putpalette(colours)
    image.putdata(indices.ravel().tolist())
    return saved(image, kind, **options)


def grey(values: Values, kind: str = "PNG", **options: object) -> bytes:
    return saved(Image.fromarray(values.astype(np.uint8)), kind, **options)


def blurred() -> NDArray[np.uint8]:
    """Draw the shape with an edge of several greys, as a drawing program does."""
    large = Image.fromarray(SHAPE * 255).resize((240, 180)).resize((80, 60), Image.Resampling.BILINEAR)
    return np.asarray(large)


def coloured(*colours: tuple[int, int, int]) -> bytes:
    return saved(Image.fromarray(np.array(colours, np.uint8)[SHAPE]))


def png_of(values: Values, depth: int, colour: int) -> bytes:
    """Write values into the first channel of a PNG of a type of colour, whose other channels are 0."""
    samples = np.zeros((60, 80, {0: 1, 2: 3, 4: 2}[colour]), np.uint16)
    samples[..., 0] = values
    # The samples of a row stand bit by bit behind each other, with the highest bit first.
    bits = (samples.reshape(60, -1, 1) >> np.arange(depth)[::-1]) & 1
    rows = np.pad(np.packbits(bits.astype(np.uint8).reshape(60, -1), axis=1), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", 80, 60, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return PNG[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


def frames(kind: str, **options: object) -> bytes:
    """Write an animation of the shape and of its opposite."""
    others = [Image.fromarray(255 - SHAPE * 255)]
    return saved(Image.fromarray(SHAPE * 255), kind, save_all=True, append_images=others, **options)


BLACK_WHITE = [0, 0, 0, 255, 255, 255]
# Palettes of an inverted display.
FALLING, FALLING_BY_85 = ([255 - index // 3 * step for index in range(3 * (255 // step + 1))] for step in (1, 85))
# A small area of a third grey.
BARS = SHAPE * 255
BARS[2:8, 2:12] = 128
RGBA = np.dstack([np.zeros((60, 80, 3), np.uint8), SHAPE * 255])
CERTAIN: dict[str, bytes] = {
    "0 and 1": grey(SHAPE),
    "0 and 255": grey(SHAPE * 255),
    "1 bit": saved(Image.fromarray(SHAPE.astype(bool))),
    "16 bits of 0 and 65535": saved(Image.fromarray(SHAPE.astype(np.uint16) * 65535)),
    "TIFF of 16 bits": tiff(SHAPE.astype(np.uint16)),
    "1 bit of a TIFF where black is 0": tiff(SHAPE.astype(bool), photometric="minisblack"),
    "1 bit of a fax": saved(Image.fromarray(SHAPE.astype(bool)), "TIFF", compression="group4"),
    "GIF": grey(SHAPE * 255, "GIF"),
    "GIF of white before black": palette(1 - SHAPE, BLACK_WHITE[3:] + BLACK_WHITE[:3], "GIF"),
    "BMP": grey(SHAPE * 255, "BMP"),
    "palette of black and white": palette(SHAPE, BLACK_WHITE),
    "palette of white and black": palette(1 - SHAPE, BLACK_WHITE[3:] + BLACK_WHITE[:3]),
    "palette of colours": palette(SHAPE, [0, 0, 0, 128, 0, 0]),
    "white as the last of 256 colours": palette(SHAPE * 255, [0, 0, 0, *([9, 99, 9] * 254), 255, 255, 255]),
    "1 bit of GIF and BMP": saved(Image.fromarray(SHAPE.astype(bool)), "BMP"),
    "indices of 4 bits": png_of(SHAPE, 4, 0),
    "black and white in a lossy TIFF": tiff(SHAPE * 255, compression="jpeg", compressionargs={"level": 90}),
    "grey as RGB": coloured((0, 0, 0), (255, 255, 255)),
    "opaque RGBA": saved(Image.fromarray(SHAPE * 255).convert("RGBA")),
    "JPEG of black and white": grey(SHAPE * 255, "JPEG", quality=60),
}
DOUBTFUL: dict[str, tuple[bytes, str]] = {
    "0 and 128": (grey(SHAPE * 128), "128 in "),
    "indices as JPEG": (grey(SHAPE * 3, "JPEG", quality=60), "lossy compression, that are not black and white"),
    "0 and 128 as JPEG": (grey(SHAPE * 128, "JPEG"), "lossy compression, that are not black and white"),
    "colours": (coloured((0, 0, 0), (128, 0, 0)), "#800000 in "),
    "soft": (grey(np.arange(4800).reshape(60, 80) % 256), "and 250 more values"),
    "antialiased": (grey(blurred()), "threshold"),
    "alpha alone": (saved(Image.fromarray(RGBA)), "transparency varies"),
    "void": (grey(SHAPE + 254 * (SHAPE & (np.arange(80) > 40))), "255 for void"),
    "palette that does not begin with black": (palette(SHAPE, [9, 9, 200, 0, 0, 0]), "may be no classes"),
    "white of a palette with other colours": (palette(2 * SHAPE, [0, 0, 0, 255, 0, 0, 255, 255, 255]), "#ffffff in "),
    "palette with a transparent background": (
        palette(SHAPE, [0, 0, 0, 0, 0, 0], transparency=0),
        "P with alpha from 0 to 255",
    ),
    "grey with a transparent value": (grey(SHAPE * 255, transparency=0), "L with alpha from 0 to 255"),
    "GIF with a transparent background": (palette(SHAPE, BLACK_WHITE, "GIF", transparency=0), "transparency varies"),
    "alpha in a TIFF": (tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]), "a TIFF with alpha from 0 to 255"),
    "indices of 16 bits in colour": (png_of(SHAPE, 16, 2), "PNG of 16 bits a channel"),
    "indices of 16 bits with alpha": (png_of(SHAPE, 16, 4), "PNG of 16 bits a channel"),
    "TIFF of 16 bits in colour": (tiff(np.dstack([SHAPE.astype(np.uint16)] * 3)), "TIFF of 16 bits a channel"),
    "white of 2 bits, or the last class": (png_of(3 * SHAPE, 2, 0), "0 and 3 of 2 bits"),
    "indices in a lossy TIFF": (tiff(SHAPE * 3, compression="jpeg"), "lossy compression"),
    "a third grey as JPEG": (grey(BARS, "JPEG", quality=60), "lossy compression"),
    "a light grey as JPEG": (grey(np.where(BARS == 128, 200, BARS), "JPEG", quality=60), "lossy compression"),
    "bool by tifffile": (tiff(SHAPE.astype(bool)), "call 0 white"),
    "inverted by ImageJ, of 8 bits": (tiff(SHAPE * 255, photometric="miniswhite"), "call 0 white"),
    "inverted by ImageJ, of 16 bits": (tiff(SHAPE * np.uint16(65535), photometric="miniswhite"), "call 0 white"),
    "inverted by ImageJ, PNG": (palette(SHAPE * 255, FALLING), "a palette from 255 to 0"),
    "inverted by ImageJ, GIF": (palette(SHAPE * 255, FALLING, "GIF", optimize=False), "a palette from 255 to 0"),
    "inverted by ImageJ, BMP": (palette(SHAPE * 255, FALLING, "BMP"), "a palette from 255 to 0"),
    "inverted greys of 2 bits": (palette(SHAPE * 3, FALLING_BY_85, bits=2), "a palette from 255 to 0"),
    "pages": (tiff(np.stack([SHAPE, SHAPE]), photometric="minisblack"), "several pages"),
    "frames of a GIF": (frames("GIF"), "several pages: save the one that is meant alone (an animated GIF)"),
    "frames of a PNG": (frames("PNG"), "several pages: save the one that is meant alone (an animated PNG)"),
    "a frame beside the picture of a PNG": (frames("PNG", default_image=True), "several pages"),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_certain_masks_are_read_as_they_are_meant(name: str) -> None:
    indices = read_indices(CERTAIN[name], MaskRules()).values
    wrong = indices != SHAPE
    # A JPEG may move the outline by a pixel.
    assert wrong.mean() <= (0.01 if name.startswith("JPEG") else 0)


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_masks_are_refused_with_what_was_found(name: str) -> None:
    data, part = DOUBTFUL[name]
    with pytest.raises(MaskError) as caught:
        read_indices(data, MaskRules())
    assert part in str(caught.value) and "\n" not in str(caught.value)


def rows_of(width: int, height: int, depth: int) -> list[bytes]:
    return [bytes(1 + (width * depth + 7) // 8) for _ in range(height)]


def png_of_rows(width: int, height: int, depth: int, interlaced: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlaced)
    packed = zlib.compress(rows)
    parts = ((b"IDAT", packed[:9]), (b"IDAT", packed[9:]))
    return PNG[:8] + b"".join(png_chunk(*chunk) for chunk in ((b"IHDR", header), *parts, (b"IEND", b"")))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (5, 5), (80, 60), (2000, 1100)])
@pytest.mark.parametrize("depth", [1, 8, 16])
def test_png_masks_without_their_last_rows_are_refused(width: int, height: int, depth: int) -> None:
    whole = b"".join(rows_of(width, height, depth))
    assert read_indices(png_of_rows(width, height, depth, 0, whole), MaskRules()).values.shape == (height, width)
    for part in (whole[:-1], whole[: len(whole) // 2]):
        with pytest.raises(ImageError, match=f"holds {len(part):,} of {len(whole):,} bytes"):
            read_indices(png_of_rows(width, height, depth, 0, part), MaskRules())


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (5, 5), (80, 60)])
def test_interlaced_png_masks_without_their_last_rows_are_refused(width: int, height: int) -> None:
    # Of the pattern that the standard draws, by the pixels of each pass.
    pattern = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    passes = [
        [count for row in range(height) if (count := sum(pattern[row % 8][x % 8] == name for x in range(width)))]
        for name in "1234567"
    ]
    whole = b"".join(bytes(1 + count) for rows in passes for count in rows)
    assert not read_indices(png_of_rows(width, height, 8, 1, whole), MaskRules()).values.any()
    with pytest.raises(ImageError, match=f"holds {len(whole) - 1:,} of {len(whole):,} bytes"):
        read_indices(png_of_rows(width, height, 8, 1, whole[:-1]), MaskRules())


def test_an_inverted_outline_of_several_classes_keeps_its_indices() -> None:
    classes = SHAPE * 2 + (np.arange(80) > 60)
    assert np.array_equal(read_indices(grey(classes), MaskRules()).values, classes)
    voc = palette(classes, [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    assert np.array_equal(read_indices(voc, MaskRules()).values, classes)


def test_rules_settle_what_is_in_doubt() -> None:
    for name in ("0 and 128", "0 and 128 as JPEG", "antialiased"):
        assert (read_indices(DOUBTFUL[name][0], MaskRules(threshold=64)).values != SHAPE).mean() < 0.05
    # tifffile reads its own as it wrote it, and all others as they show it.
    for name in (name for name, (_, part) in DOUBTFUL.items() if part in ("call 0 white", "a palette from 255 to 0")):
        inverted = DOUBTFUL[name][0]
        assert np.array_equal(read_indices(inverted, MaskRules(threshold=128)).values, 1 - SHAPE)
        assert np.array_equal(read_indices(inverted, MaskRules(colours={0: 1, 0xFFFFFF: 0})).values, SHAPE)
    colours = MaskRules(colours={0: 0, 0x800000: 1})
    assert np.array_equal(read_indices(DOUBTFUL["colours"][0], colours).values, SHAPE)
    with pytest.raises(MaskError, match=r"does not list \(#ffffff"):
        read_indices(CERTAIN["0 and 255"], colours)


@pytest.mark.parametrize(
    ("data", "threshold"),
    [
        (grey(blurred()), 128),
        (saved(Image.fromarray(blurred().astype(np.uint16) * 257)), 32768),
        (saved(Image.fromarray(blurred().astype(np.uint16))), 128),
    ],
)
def test_the_threshold_advised_is_half_of_white(data: bytes, threshold: int) -> None:
    with pytest.raises(MaskError, match=f'"threshold": {threshold}}}'):
        read_indices(data, MaskRules())
    advised = read_indices(data, MaskRules(threshold=threshold)).values
    assert np.array_equal(advised, blurred() > 127)


def test_a_lossy_mask_of_16_bits_is_judged_by_its_own_white() -> None:
    def lossy(grey: int) -> bytes:
        return tiff(SHAPE.astype(np.uint16) * grey, compression="jpeg2000")

    assert np.array_equal(read_indices(lossy(65535), MaskRules()).values, SHAPE)
    with pytest.raises(MaskError, match=r"lossy compression, .*: 32768\}"):
        read_indices(lossy(25000), MaskRules())
    with pytest.raises(MaskError, match="lies below the threshold 32768"):
        read_indices(lossy(25000), MaskRules(threshold=32768))


@pytest.mark.parametrize("values", [SHAPE, 3 * SHAPE.astype(np.uint16), 100 * SHAPE])
def test_a_threshold_that_empties_a_shape_is_refused(values: Values) -> None:
    data = saved(Image.fromarray(values))
    with pytest.raises(MaskError, match=f"largest value {values.max()} lies below the threshold 128"):
        read_indices(data, MaskRules(threshold=128))


def test_a_threshold_empties_noise_and_what_is_dark() -> None:
    noise = np.random.default_rng(0).integers(0, 4, SHAPE.shape).astype(np.uint8)
    soft = np.add.outer(np.arange(60), np.arange(80)) // 2
    for data in (grey(0 * SHAPE), grey(noise), grey(noise, "JPEG", quality=60), grey(soft)):
        assert not read_indices(data, MaskRules(threshold=128)).values.any()
    with pytest.raises(MaskError, match="lies below the threshold 200"):
        read_indices(grey(100 * SHAPE, "JPEG"), MaskRules(threshold=200))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "JSON"),
        ('{"threshold": 0}', "threshold must be"),
        ('{"colours": {"red": 1}}', "written as #rrggbb"),
        ('{"colours": {"#ff0000": 64}}', "each class"),
        ('{"colour": {}}', "alone"),
        ('{"threshold": 9, "colours": {"#ff0000": 1}}', "of threshold or of colours"),
    ],
)
def test_wrong_rules_are_refused_in_one_line(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "masks.json").write_text(text)
    with pytest.raises(DataError, match=r"masks\.json") as caught:
        read_rules(tmp_path)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def write(folder: Path, masks: dict[str, bytes]) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    for name, data in masks.items():
        Image.new("RGB", (80, 60), "red").save(folder / "images" / f"{Path(name).stem}.png")
        (folder / "masks" / name).write_bytes(data)
    (folder / "labels.csv").write_text("image,x\n" + "".join(f"{Path(name).stem},1\n" for name in masks))


def test_a_folder_names_the_masks_in_doubt_and_takes_the_remedy(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": DOUBTFUL["0 and 128"][0], "b.png": DOUBTFUL["antialiased"][0], "c.png": grey(SHAPE)})
    source = f"folder:{tmp_path}"
    assert_refused(
        lambda: open_source(source, "all", cache=tmp_path), "2 masks with values", '{"threshold": 128}', "a, b"
    )
    good = open_source(source, "all", cache=tmp_path, skip_bad=True)
    assert [record.image.name for record in good.records] == ["c.png"]
    assert "left out 2 of" in good.notes[0]
    (tmp_path / "masks.json").write_text(json.dumps({"threshold": 1}))
    assert len(open_source(source, "all", cache=tmp_path).records) == 3


MIXED = {"indices.png": grey(2 * SHAPE), "white.png": grey(255 * SHAPE), "empty.png": grey(0 * SHAPE)}
# What shows class 1 by its indices or nothing at all, and what shows white.
BY_INDEX = {"0 and 1", "TIFF of 16 bits", "palette of colours", "indices of 4 bits"}


@pytest.mark.parametrize("name", CERTAIN)
def test_masks_of_black_and_white_are_told_from_indices(name: str) -> None:
    assert read_indices(CERTAIN[name], MaskRules()).black_white is (name not in BY_INDEX)


def test_white_among_class_indices_is_refused(tmp_path: Path) -> None:
    more = {f"more{index}.png": grey(2 * SHAPE) for index in range(2)}
    write(tmp_path, {**MIXED, **more, "one.png": grey(SHAPE), "photo.jpg": grey(255 * SHAPE, "JPEG")})
    source = f"folder:{tmp_path}"
    # The second time from the cache.
    for _ in range(2):
        assert_refused(
            lambda: open_source(source, "all", cache=tmp_path),
            "2 masks of black and white among 3 of class indices over 1, so that white may mean any of them: ",
            "(indices is one): photo, white",
        )
    good = open_source(source, "all", cache=tmp_path, skip_bad=True)
    assert sorted(record.image.stem for record in good.records) == ["empty", "indices", "more0", "more1", "one"]
    assert "left out 2 of" in good.notes[0]


def test_masks_of_another_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    write(tmp_path, {f"{name}.png": grey(SHAPE) for name in ("good", "small", "smaller", "turned")})
    for name, size in (("small", 9), ("smaller", 8)):
        (tmp_path / "masks" / f"{name}.png").write_bytes(grey(SHAPE[:size]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(tmp_path / "images" / "turned.png", exif=exif)
    assert_refused(
        lambda: open_source(f"folder:{tmp_path}", "all", cache=tmp_path),
        "2 masks of another size than their image (80 x 9, and 80 x 60 of the image): small, smaller",
        "1 masks of the size that their image has before its orientation (EXIF or the like) turns it: turn these masks",
        "(80 x 60, and 60 x 80 of the image): turned",
    )


def test_one_stray_index_does_not_put_all_other_masks_in_the_wrong(tmp_path: Path) -> None:
    write(tmp_path, {**{f"{index}.png": grey(255 * SHAPE) for index in range(5)}, "stray.png": grey(SHAPE * 2)})
    source = f"folder:{tmp_path}"
    assert_refused(
        lambda: open_source(source, "all", cache=tmp_path),
        "1 masks of class indices over 1 among 5 of black",
        ": stray",
    )
    good = open_source(source, "all", cache=tmp_path, skip_bad=True)
    assert len(good.records) == 5 and good.seg_classes == ("background", "foreground")


def test_white_among_class_indices_is_settled_by_rules(tmp_path: Path) -> None:
    write(tmp_path, MIXED)
    rules = {"colours": {"#000000": 0, "#020202": 2, "#ffffff": 0}}
    (tmp_path / "masks.json").write_text(json.dumps(rules))
    records = open_source(f"folder:{tmp_path}", "all", cache=tmp_path).records
    highest = {record.image.stem: int(np.asarray(Image.open(record.mask)).max()) for record in records}
    assert highest == {"indices": 2, "white": 0, "empty": 0}


def test_a_class_of_left_out_masks_alone_is_told_as_missing(tmp_path: Path) -> None:
    write(tmp_path, MIXED)
    good = open_source(f"folder:{tmp_path}", "all", cache=tmp_path, skip_bad=True)
    assert "shows class 1" in good.notes[1]


def test_a_class_that_no_mask_shows_is_told_before_training(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": grey(0 * SHAPE), "b.png": grey(0 * SHAPE)})
    assert "no mask of" in open_source(f"folder:{tmp_path}", "all", cache=tmp_path).notes[0]
    write(tmp_path, {"a.png": grey(2 * SHAPE), "b.png": grey(0 * SHAPE)})
    assert "shows class 1" in open_source(f"folder:{tmp_path}", "all", cache=tmp_path).notes[0]


DAMAGED_FACTS = (None, b"", b'{"cl', b"[]", b"7", b"\xff", b'{"classes": [], "size": [80, 60]}')


@pytest.mark.parametrize(
    ("ending", "content"),
    [*(("json", content) for content in DAMAGED_FACTS), ("png", None), ("png", b""), ("png", b"cut")],
)
def test_a_damaged_cache_is_made_again(ending: str, content: bytes | None, tmp_path: Path) -> None:
    write(tmp_path, {"a.png": grey(255 * SHAPE)})
    source, cache = f"folder:{tmp_path}", tmp_path / "cache"
    opened = open_source(source, "all", cache=cache)
    (cached,) = cache.glob(f"masks/*.{ending}")
    whole = cached.read_bytes()
    cached.unlink() if content is None else cached.write_bytes(content)
    assert open_source(source, "all", cache=cache) == opened
    assert cached.read_bytes() == whole


def test_a_mask_of_the_same_size_and_date_is_read_again(tmp_path: Path) -> None:
    """Replace a mask as a copying program does that keeps dates."""
    from os import utime

    source = f"folder:{tmp_path}"
    highest = []
    for values in (SHAPE, SHAPE * 2):
        data = tiff(values)
        write(tmp_path, {"a.tif": data})
        utime(tmp_path / "masks" / "a.tif", (1, 1))
        (record,) = open_source(source, "all", cache=tmp_path).records
        highest.append(int(np.asarray(Image.open(record.mask)).max()))
    assert highest == [1, 2]
