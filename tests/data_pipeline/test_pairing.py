"""Test that files and rows are paired as people name them."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import DataError, open_source
from data_pipeline.sources.pairing import stem_of
from tests.helpers.samples import blob, picture


def write(folder: Path, image: str, mask: str, row: str, table: str = "image,x\n{row},1\n") -> str:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    Image.fromarray(picture(20, 30)).save(folder / "images" / image, "PNG" if image.lower().endswith("png") else "JPEG")
    Image.fromarray(blob(20, 30)).save(folder / "masks" / mask, "PNG")
    (folder / "labels.csv").write_text(table.format(row=row))
    return f"folder:{folder}"


@pytest.mark.parametrize(
    ("image", "mask", "row"),
    [
        ("a.png", "a.png", "a"),
        ("a.png", "a_mask.png", "a.png"),
        ("a.jpg", "a_segmentation.png", "a.jpg"),
        ("a.jfif", "a.png", "a"),
        ("a.mpo", "a.png", "a.mpo"),
        ("A.PNG", "a.png", "a.png"),
        ("2024.05.01.png", "2024.05.01.png", "2024.05.01"),
        ("1.2.840.113619.2.5.jpg", "1.2.840.113619.2.5.png", "1.2.840.113619.2.5"),
        ("a.png", "a.png", "images/a.png"),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png"), "é.png"),
    ],
)
def test_names_that_mean_the_same_are_paired(image: str, mask: str, row: str, tmp_path: Path) -> None:
    assert len(open_source(write(tmp_path, image, mask, row), "all", cache=tmp_path).records) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("masks/a_mask.png", "1 images with several masks: a$"),
        ("masks/a_gt.png", "1 images with several masks: a$"),
        ("images/A.png", "1 images that share their name with another: a$"),
    ],
)
def test_of_two_files_for_one_name_neither_is_taken(more: str, message: str, tmp_path: Path) -> None:
    source = write(tmp_path, "a.png", "a.png", "a")
    Image.fromarray(blob(20, 30)).save(tmp_path / more)
    with pytest.raises(DataError, match=message):
        open_source(source, "all", cache=tmp_path)


@pytest.mark.parametrize(("image", "mask"), [("a.png", "mask_a.png"), ("a_0000.png", "a.png")])
def test_masks_of_other_names_are_listed_with_what_to_do(image: str, mask: str, tmp_path: Path) -> None:
    source = write(tmp_path, image, mask, image)
    with pytest.raises(DataError, match=rf"1 masks without an image \(name each like its image, .*\): {mask}$"):
        open_source(source, "all", cache=tmp_path)


def test_what_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    source = write(tmp_path, "a.png", "a.png", "a")
    for name in ("images", "masks"):
        for file in ("Thumbs.db", "desktop.ini", "._a.png", ".DS_Store", "a.json"):
            (tmp_path / name / file).write_bytes(b"x")
        (tmp_path / name / "@eaDir").mkdir()
        (tmp_path / name / "__MACOSX").mkdir()
    assert len(open_source(source, "all", cache=tmp_path).records) == 1


@pytest.mark.parametrize("table", ["image, x ,\n{row}, 1 ,\n,,\n", "image,x,,\n{row},1,,\n,,,\n,,,\n"])
def test_tables_as_spreadsheets_write_them(table: str, tmp_path: Path) -> None:
    data = open_source(write(tmp_path, "a.png", "a.png", "a.png", table), "all", cache=tmp_path)
    assert data.labels == ("x",) and data.records[0].labels == (1,)


def test_skip_bad_leaves_out_every_kind_of_problem(tmp_path: Path) -> None:
    source = write(tmp_path, "good.png", "good.png", "good")
    names = ("mask_missing", "wrong_size", "row_missing", "wrong_value")
    for name in names:
        Image.fromarray(picture(20, 30)).save(tmp_path / "images" / f"{name}.png")
        if name != "mask_missing":
            Image.fromarray(blob(20, 30 + (name == "wrong_size"))).save(tmp_path / "masks" / f"{name}.png")
    with (tmp_path / "labels.csv").open("a") as table:
        table.write("mask_missing,0\nwrong_size,0\nwrong_value,7\nno_image,1\n")
    data = open_source(source, "all", cache=tmp_path, skip_bad=True)
    assert [record.image.name for record in data.records] == ["good.png"]
    assert "left out 5 of" in data.notes[0]
    assert set(np.unique(np.asarray(Image.open(data.records[0].mask)))) == {0, 1}


def test_only_endings_of_images_are_no_part_of_a_name() -> None:
    names = {"a.PNG": "a", "a.b": "a.b", "x/y/a.tif": "a", "C:\\a.jpeg": "a", ".png": ".png", "1.2.3": "1.2.3"}
    assert {name: stem_of(name) for name in names} == names


@pytest.mark.parametrize(
    ("table", "part"),
    [
        (
            'image,x\n\nz,0\n"{row},1\n' + "y,0\n" * 900,
            "row 2, counted without the header",
        ),
        ('image,"x\n{row},1\n' + "y,0\n" * 900, "the header has a cell of several"),
        ('"image,x\n{row},1\n' + "y,0\n" * 900, "the header has a cell of several"),
        ('image,x\r{row},"1\ry,0\rz,0\r', "row 1, "),
        ("picture," + "x" * 900 + "\n{row},1\n", "found 'picture,xxx"),
    ],
)
def test_a_quote_that_is_not_closed_is_told_in_one_short_line(table: str, part: str, tmp_path: Path) -> None:
    source = write(tmp_path, "a.png", "a.png", "a", table)
    with pytest.raises(DataError) as caught:
        open_source(source, "all", cache=tmp_path)
    message = str(caught.value).removeprefix(str(tmp_path))
    assert part in message and "\n" not in message and "\r" not in message and len(message) < 300


def test_names_that_are_no_line_are_shown_by_their_escapes(tmp_path: Path) -> None:
    source = write(tmp_path, "a.png", "a.png", "a", "image,x\n{row},1\nb\x1b[31m" + "c" * 900 + ",2\n")
    Image.fromarray(picture(20, 30)).save(tmp_path / "images" / "d\ne\x1b[31m.png")
    with pytest.raises(DataError) as caught:
        open_source(source, "all", cache=tmp_path)
    message = str(caught.value)
    assert r"1 images without a mask: d\ne\x1b[31m; " in message and r"x is '2' for b\x1b[31mccc" in message
    assert "\n" not in message and "\x1b" not in message and "c" * 200 not in message
