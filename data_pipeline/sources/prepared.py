"""Keep a data set on disk as decoded, shrunk pixels, and open it as `prepared:DIR`.

The arrays are uncompressed .npy files. A row of their memory map goes to DALI from the page cache without decoding.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from errno import EINVAL, EOPNOTSUPP
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.fields import INT32, are_whole, is_number, is_whole, object_of, read_object, require, require_keys
from data_pipeline.files import write_whole
from data_pipeline.records import DataError, Dataset, Record, SourceVolume, Split

IMAGES, MASKS, MANIFEST = "images.npy", "masks.npy", "manifest.json"
# Masks are larger than the images, so that a warp samples them finely. The factor is odd: shrinking a mask back to S
# then takes the centre of each 3 x 3 block, which is the pixel that its file gives.
MASK_SCALE = 3


@dataclass(frozen=True)
class PreparedPixels:
    """Hold the memory maps of a prepared split.

    images: (N, S, S, 3) uint8.
    masks: (N, 3S, 3S, 1) uint8.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    def release(self) -> None:
        """Unmap what was read, so that an epoch does not add the whole data set to this process's memory.

        The pixels stay in the page cache and are mapped again at the next read.
        """
        for pixels in (self.images, self.masks):
            assert isinstance(pixels.base, mmap)
            pixels.base.madvise(MADV_DONTNEED)

    def digest(self, index: int) -> str:
        """Hash the image and the mask of one sample."""
        return hashlib.sha256(self.images[index].tobytes() + self.masks[index].tobytes()).hexdigest()


def create_pixels(folder: Path, count: int, size: int) -> PreparedPixels:
    """Open the arrays of a folder for writing, and create those that are missing or have another shape.

    Args:
        folder: where the arrays are.
        count: number of samples.
        size: side of the images in pixels.

    Raises:
        OSError: the disk has no room for them. Arrays that this call created are removed again.
    """
    shapes = {IMAGES: (count, size, size, 3), MASKS: (count, MASK_SCALE * size, MASK_SCALE * size, 1)}
    new = [folder / name for name, shape in shapes.items() if not _has_shape(folder / name, shape)]
    try:
        return PreparedPixels(
            *(_open_map(folder / name, shape, folder / name in new) for name, shape in shapes.items())
        )
    except OSError:
        # They would keep a full disk full.
        for file in new:
            file.unlink(missing_ok=True)
        raise


def _open_map(file: Path, shape: tuple[int, ...], new: bool) -> NDArray[np.uint8]:
    open_map: Callable[..., NDArray[np.uint8]] = np.lib.format.open_memmap
    try:
        # "r+" keeps the samples of an interrupted run, "w+" starts with zeros.
        pixels = open_map(file, mode="w+" if new else "r+", dtype=np.uint8, shape=shape)
        _reserve(file)
    except OSError as error:
        # That of a full disk names no file.
        raise OSError(error.errno, error.strerror, str(file)) from None
    return pixels


def _reserve(file: Path) -> None:
    """Give a file all of its disk space, because a write to a memory map of a full disk kills the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            # Some file systems cannot.
            if error.errno not in (EINVAL, EOPNOTSUPP):
                raise


def _has_shape(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        return bool(np.load(file, mmap_mode="r", allow_pickle=False).shape == shape)
    except (OSError, ValueError, EOFError):
        # Missing, cut short, or empty.
        return False


def load_pixels(folder: Path, size: int) -> PreparedPixels:
    """Open the arrays of a folder for reading.

    Raises DataError where they were prepared for another size, and ValueError where they are of something else.
    """
    pixels = PreparedPixels(*(np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (IMAGES, MASKS)))
    for name, array in ((IMAGES, pixels.images), (MASKS, pixels.masks)):
        require(array.ndim == 4 and array.dtype == np.uint8, name, "four dimensions of uint8", array.shape)
    actual = pixels.images.shape[1]
    if actual != size:
        raise DataError(
            f"{folder} was prepared for {actual} px, the network takes {size} px: prepare with --size {size}"
        )
    return pixels


def write_manifest(folder: Path, dataset: Dataset, size: int, sources: list[str], digests: list[str]) -> None:
    """Write the file that marks a prepared split as finished.

    Args:
        folder: where to write.
        dataset: the split.
        size: side of the images in pixels.
        sources: for each record, the hash of its files.
        digests: for each record, the hash of its pixels.
    """
    records = [
        # `asdict` leaves paths as they are, and JSON has none. Whole, so that the data can be used from any folder.
        {**asdict(record), "image": str(record.image.absolute()), "mask": str(record.mask.absolute())}
        for record in dataset.records
    ]
    manifest = {
        "size": size,
        **{key: value for key, value in asdict(dataset).items() if key not in ("records", "prepared", "notes")},
        "records": [
            {**record, "source": source, "pixels": digest}
            for record, source, digest in zip(records, sources, digests, strict=True)
        ],
    }
    write_whole(folder / MANIFEST, json.dumps(manifest))


def open_prepared(folder: Path, split: Split, samples: int | None) -> Dataset:
    """Return the records of a split that `data_pipeline.prepare` wrote, after verifying the hashes of the pixels.

    Args:
        folder: holds one folder for each split.
        split: which split.
        samples: at most this many records.

    Raises:
        DataError: the split was not prepared, is unfinished or is damaged.
    """
    place = folder / split
    if not (place / MANIFEST).is_file():
        raise DataError(
            f"{place} holds no finished prepared data: run python -m data_pipeline.prepare --split {split} "
            f"--output {folder} with the --data, --size and --seed of its other splits"
        )
    try:
        manifest = read_object((place / MANIFEST).read_text(encoding="utf-8"), MANIFEST)
        fields = ("size", "name", "seg_classes", "labels", "grey", "split_seed", "records")
        # What older versions have prepared lacks the hashes of names, and below the sizes in masks.
        require_keys(manifest, MANIFEST, fields, optional=("divided",))
        divided = object_of(manifest.get("divided", {}), "divided")
        require(isinstance(manifest["records"], tuple), "records", "a list", manifest["records"])
        require(isinstance(manifest["labels"], tuple), "labels", "a list of names", manifest["labels"])
        require(type(manifest["grey"]) is bool, "grey", "true or false", manifest["grey"])
        seed = manifest["split_seed"]
        require(seed is None or is_whole(seed, 0, INT32), "split_seed", "a whole number or null", seed)
        rows = [object_of(row, "each record") for row in manifest["records"][:samples]]
        records = tuple(_record(row, len(manifest["labels"])) for row in rows)
        pixels = load_pixels(place, manifest["size"])
        held = len(pixels.images)
        listed = len(manifest["records"])
        require(listed == held, "the number of records", f"that of {IMAGES}, {held}", listed)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{place} cannot be read ({error}): prepare again") from None
    damaged = [row["image"] for index, row in enumerate(rows) if pixels.digest(index) != row["pixels"]]
    if damaged:
        raise DataError(f"{place}: {len(damaged)} prepared samples are damaged, {damaged[0]} first: prepare again")
    return Dataset(
        name=manifest["name"],
        records=records,
        seg_classes=manifest["seg_classes"],
        labels=manifest["labels"],
        grey=manifest["grey"],
        split_seed=seed,
        divided=divided,
        prepared=place,
    )


def _record(row: dict[str, Any], labels: int) -> Record:
    """Read one row of the manifest, or raise ValueError where it is none of a record with that many labels."""
    needed = ("image", "mask", "labels", "volume", "source", "pixels")
    require_keys(row, "each record", needed, optional=("smallest",))
    for name in ("image", "mask", "source", "pixels"):
        require(isinstance(row[name], str), name, "a text", row[name])
    fits = are_whole(row["labels"], 0, 1) and len(row["labels"]) == labels
    require(fits, "the labels of a record", f"{labels} of 0 and 1", row["labels"])
    smallest = row.get("smallest")
    require(smallest is None or is_number(smallest, 0, 1), "smallest", "a number from 0 to 1 or null", smallest)
    return Record(
        image=Path(row["image"]),
        mask=Path(row["mask"]),
        labels=row["labels"],
        volume=None if row["volume"] is None else _volume(object_of(row["volume"], "volume")),
        smallest=smallest,
    )


def _volume(fields: dict[str, Any]) -> SourceVolume:
    require_keys(fields, "volume", ("name", "slice_mm3"))
    require(isinstance(fields["name"], str), "the name of a volume", "a text", fields["name"])
    require(is_number(fields["slice_mm3"], 0, float("inf")), "slice_mm3", "a number from 0", fields["slice_mm3"])
    return SourceVolume(**fields)
