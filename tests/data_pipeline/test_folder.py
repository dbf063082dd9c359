"""Test what `folder:DIR` accepts, and that it lists all problems at once."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import DataError, Dataset, Preprocessing, TrainingLoader, open_source, scan_samples
from tests.helpers.samples import assert_refused, blob, picture

SPLITS = ("train", "validation", "test")


def write_folder(folder: Path, count: int = 20, scale: int = 1) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        Image.fromarray(picture(40 + index, 60, index)).save(folder / "images" / f"s{index}.png")
        Image.fromarray(blob(40 + index, 60, index) * scale).save(folder / "masks" / f"s{index}.png")
    rows = "".join(f"s{index}.png,{index % 2},1\n" for index in range(count))
    (folder / "labels.csv").write_text("image,first,second\n" + rows)
    return folder


def opened(folder: Path, split: str = "train", *, skip_bad: bool = False) -> Dataset:
    return open_source(f"folder:{folder}", split, cache=folder / "cache", skip_bad=skip_bad)  # type: ignore[arg-type]


def test_splits_are_disjoint_cover_everything_and_depend_on_the_seed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    names = {split: {r.image.name for r in opened(folder, split).records} for split in SPLITS}
    assert [len(names[split]) for split in SPLITS] == [16, 2, 2]
    assert len(set.union(*names.values())) == 20
    other = open_source(f"folder:{folder}", "test", seed=1, cache=tmp_path / "cache")
    assert {r.image.name for r in other.records} != names["test"]
    assert len(open_source(f"folder:{folder}", "train", samples=5, cache=tmp_path / "cache").records) == 5


@pytest.mark.parametrize("scale", [1, 255])
def test_masks_of_one_class_may_hold_1_or_255(tmp_path: Path, scale: int) -> None:
    data = opened(write_folder(tmp_path, scale=scale))
    assert data.seg_classes == ("background", "foreground") and data.labels == ("first", "second")
    assert not scan_samples(data, cache=tmp_path)
    spec = Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    batch = next(iter(TrainingLoader(data, spec, batch_size=4, augment=False, shuffle=False, seed=0)))
    assert set(batch.mask.flatten().tolist()) == {0, 1}
    assert all(r.labels == (int(r.image.stem[1:]) % 2, 1) for r in data.records)


def test_mixed_depths_palettes_and_formats(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 10)
    indices = blob(43, 60, 3) * 3
    palette = Image.fromarray(indices).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(folder / "masks" / "s3.png")
    Image.fromarray(blob(44, 60, 4).astype(np.uint16) * 2).save(folder / "masks" / "s4.png")
    (folder / "masks" / "s5.png").unlink()
    Image.fromarray(blob(45, 60, 5)).save(folder / "masks" / "s5.tif")
    Image.fromarray((picture(46, 60).astype(np.uint16) * 257)[..., 0]).save(folder / "images" / "s6.png")
    by_name = {r.image.stem: r for split in SPLITS for r in opened(folder, split).records}
    assert opened(folder).seg_classes == ("background", "class 1", "class 2", "class 3")
    assert set(np.unique(np.asarray(Image.open(by_name["s3"].mask)))) == {0, 3}
    assert set(np.unique(np.asarray(Image.open(by_name["s4"].mask)))) == {0, 2}
    assert set(np.unique(np.asarray(Image.open(by_name["s5"].mask)))) == {0, 1}


def test_masks_of_which_none_can_be_read_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 10)
    for path in (folder / "masks").iterdir():
        Image.open(path).save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
    assert_refused(lambda: opened(folder, "all"), "10 masks that cannot be read", "found WebP")


def test_grey_folders_are_recognised(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 10)
    assert not opened(folder).grey
    for path in (folder / "images").iterdir():
        Image.open(path).convert("L").save(path)
    assert opened(folder).grey


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "masks" / "s1.png").unlink()
    Image.fromarray(blob(9, 9)).save(folder / "masks" / "s3.png")
    Image.fromarray(np.full((44, 60), 200, np.uint8)).save(folder / "masks" / "s4.png")
    with (folder / "labels.csv").open("a") as file:
        file.write("ghost.png,0,0\ns5.png,0,2\ns6.png,1\n")
    Image.fromarray(picture(9, 9)).save(folder / "images" / "stray.png")
    assert_refused(
        lambda: opened(folder),
        "2 rows of labels.csv with values other than 0 or 1 (second is '2' for s5; write 0 or 1): s5, s6",
        "2 images listed twice in labels.csv: s5, s6",
        "2 images without a mask: s1, stray",
        "1 images without a row in labels.csv: stray",
        "1 rows of labels.csv without an image: ghost",
        "1 masks of another size than their image (9 x 9, and 60 x 43 of the image): s3",
        '1 masks with values that are neither 0 and 255 nor class indices below 64: put {"threshold": 128} into',
    )


def test_rows_without_a_name_are_told_by_their_place(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    with (folder / "labels.csv").open("a") as file:
        file.write(",1,0\n")
    assert_refused(lambda: opened(folder), "1 rows of labels.csv that name no image, counted", "empty rows: row 21")


def test_names_with_two_endings_are_left_out_whole(tmp_path: Path) -> None:
    """Use the names that DICOM viewers export, of whose two endings one is part of the name."""
    folder = write_folder(tmp_path, 10)
    for place in (folder / "images", folder / "masks"):
        (place / "s3.png").rename(place / "s2.dcm.png")
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("s3.png", "s2.dcm.png"))
    (folder / "masks" / "s2.dcm.png").unlink()
    left = {record.image.name for record in opened(folder, "all", skip_bad=True).records}
    assert "s2.png" in left and "s2.dcm.png" not in left and len(left) == 9


def test_a_split_of_bad_images_alone_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 10)
    for record in opened(folder, "test").records:
        (folder / "masks" / record.image.name).unlink()
    reason = "the test split is empty: none of its 1 images can be used"
    assert_refused(lambda: opened(folder, "test", skip_bad=True), reason)


def test_files_that_share_their_stem_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    Image.fromarray(picture(47, 60, 7)).save(folder / "images" / "s7.jpg")
    with pytest.raises(DataError, match="1 images that share their name with another: s7"):
        opened(folder)
    left = {record.image.stem for record in opened(folder, "all", skip_bad=True).records}
    assert "s7" not in left and len(left) == 19


def test_unreadable_images_are_left_to_the_scan_and_masks_are_not(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    names = sorted(r.image.name for r in opened(folder).records)
    (folder / "images" / names[0]).write_bytes(b"")
    (folder / "images" / names[3]).write_bytes((folder / "images" / names[3]).read_bytes()[:600])
    bad = scan_samples(opened(folder), cache=tmp_path / "cache")
    assert sorted(sample.record.image.name for sample in bad) == [names[0], names[3]]
    # A GIF that is cut, one that breaks Pillow's rules, a bitmap that would fill the memory, and no image at all.
    gif = io.BytesIO()
    Image.fromarray(blob(44, 60)).save(gif, "GIF")
    bomb = b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 14000, 14000, 1, 24) + bytes(24)
    outside = bytearray(gif.getvalue())
    place = outside.index(b",")
    outside[place + 1 : place + 5] = b"\xff\xff\xff\xff"
    for index, data in enumerate((gif.getvalue()[:60], bytes(outside), bomb, b"broken"), 5):
        (folder / "masks" / names[index]).write_bytes(data)
    stems = ", ".join(Path(name).stem for name in names[5:9])
    assert_refused(lambda: opened(folder), "4 masks that cannot be read (", stems)
    assert {record.image.name for record in opened(folder, skip_bad=True).records}.isdisjoint(names[5:9])


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_masks(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 10)
    (folder / "cache").mkdir()
    (folder / "cache" / "masks").write_text("in the way")
    with pytest.raises(OSError, match="masks"):
        opened(folder, skip_bad=True)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "image,first\ns0.png,2\n",
            "1 rows of labels.csv with values other than 0 or 1 (first is '2' for s0; write 0 or 1): s0",
        ),
        ("image,mel\ns0.png,True\ns1.png,False\n", "0 or 1 (mel is 'True' for s0; write 0 or 1): s0, s1"),
        ("image,mel,age\ns0.png,1,45\n", "0 or 1 (age is '45' for s0; write 0 or 1): s0"),
        ("image,mel,bcc\ns0.png,1\n", "0 or 1 (s0 has 1 values for 2 labels; write 0 or 1 for each): s0"),
        ("image,first\ns0.png,0\ns0.jpg,1\n", "1 images listed twice in labels.csv: s0"),
        ("file,first\ns0.png,0\n", "the first line must be 'image'"),
        ("", "the first line must be 'image'"),
        ("image,first,second,first\ns0.png,0,1,0\n", "labels must be different names, got 'first repeated'"),
        ("image,first,\ns0.png,0,1\n", "each of the names of the labels must be one line of text, got ''"),
        ('image,"first\nsecond"\ns0.png,0\n', r"the header has a cell of several, 'first\nsecond'"),
        ("image,oedème\ns0.png,0\n", "must be a CSV file in UTF-8"),
    ],
)
def test_wrong_labels(tmp_path: Path, text: str, part: str) -> None:
    folder = write_folder(tmp_path, 3)
    (folder / "labels.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"labels\.csv") as caught:
        opened(folder)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["isic", "synthetic:x", "folder:", "folder:/nowhere", "prepared:/nowhere"])
def test_unknown_or_missing_sources_are_refused_in_one_line(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_source(source, "train", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_labels_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    """Read labels with a byte order mark and the line ends of Windows."""
    folder = write_folder(tmp_path)
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_bytes(text.replace("first", "œdème").replace("\n", "\r\n").encode("utf-8-sig"))
    assert opened(folder).labels == ("œdème", "second")


def test_too_few_images_to_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation split is empty"):
        opened(write_folder(tmp_path, 2), "validation")
