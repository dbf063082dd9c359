"""A prepared data set on disk: decoded, pre-shrunk samples that DALI reads without copying.

Uncompressed .npy arrays, because a row of a memory map goes to DALI as it lies in the page cache: nothing is decoded
and nothing copied. Masks are kept at three times the images' size, so that a warp samples them finely.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.files import write_whole
from data_pipeline.records import DataError, Dataset, Record, Split, Volume

IMAGES, MASKS, MANIFEST = "images.npy", "masks.npy", "manifest.json"
MASK_SCALE = 3  # odd: the nearest pixel of a mask shrunk back to S is then the one its file gives


@dataclass(frozen=True)
class Pixels:
    """images: (N, S, S, 3) uint8.  masks: (N, 3S, 3S, 1) uint8.  Memory maps."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    def release(self) -> None:
        """Unmap what was read, so that an epoch does not gather the whole data set as this process's memory.

        It stays in the page cache, and is mapped again when it is read again.
        """
        for pixels in (self.images, self.masks):
            assert isinstance(pixels.base, mmap)
            pixels.base.madvise(MADV_DONTNEED)

    def digest(self, index: int) -> str:
        """Hash of one sample's image and mask."""
        return hashlib.sha256(self.images[index].tobytes() + self.masks[index].tobytes()).hexdigest()


def create_pixels(folder: Path, count: int, size: int) -> Pixels:
    """New arrays of `count` samples, or those already in `folder` if they are of that shape, open for writing."""
    shapes = {IMAGES: (count, size, size, 3), MASKS: (count, MASK_SCALE * size, MASK_SCALE * size, 1)}
    open_map: Callable[..., NDArray[np.uint8]] = np.lib.format.open_memmap
    maps = []
    for name, shape in shapes.items():
        mode = "r+" if _has_shape(folder / name, shape) else "w+"
        maps.append(open_map(folder / name, mode=mode, dtype=np.uint8, shape=shape))
    return Pixels(*maps)


def _has_shape(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        return bool(np.load(file, mmap_mode="r", allow_pickle=False).shape == shape)
    except (OSError, ValueError):  # missing, or cut short
        return False


def load_pixels(folder: Path, size: int) -> Pixels:
    """The arrays for a network whose input is `size`; DataError if they were prepared for another."""
    pixels = Pixels(*(np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (IMAGES, MASKS)))
    found = pixels.images.shape[1]
    if found != size:
        raise DataError(
            f"{folder} was prepared for {found} px, the network takes {size} px: prepare with --size {size}"
        )
    return pixels


def write_manifest(folder: Path, dataset: Dataset, size: int, sources: list[str], digests: list[str]) -> None:
    """The last step of preparing: a folder with a manifest is whole."""
    manifest = {
        "size": size,
        **{key: value for key, value in asdict(dataset).items() if key not in ("records", "prepared")},
        "records": [
            {**asdict(r), "image": str(r.image), "mask": str(r.mask), "source": source, "pixels": digest}
            for r, source, digest in zip(dataset.records, sources, digests, strict=True)
        ],
    }
    write_whole(folder / MANIFEST, json.dumps(manifest))


def open_prepared(folder: Path, split: Split, samples: int | None) -> Dataset:
    """The data set that `data_pipeline.prepare` wrote, its pixels verified against their hashes."""
    place = folder / split
    if not (place / MANIFEST).is_file():
        raise DataError(
            f"{place} holds no finished prepared data: run python -m data_pipeline.prepare --output {folder}"
        )
    try:
        manifest: dict[str, Any] = json.loads((place / MANIFEST).read_text())
        pixels = load_pixels(place, manifest["size"])
    except (OSError, ValueError) as error:
        raise DataError(f"{place} cannot be read ({error}): prepare again") from None
    rows = manifest["records"][:samples]
    damaged = [row["image"] for index, row in enumerate(rows) if pixels.digest(index) != row["pixels"]]
    if damaged:
        raise DataError(f"{place}: {len(damaged)} prepared samples are damaged, {damaged[0]} first: prepare again")
    records = tuple(_record(row) for row in rows)
    names = {key: tuple(manifest[key]) for key in ("seg_classes", "labels")}
    return Dataset(manifest["name"], records, **names, grey=manifest["grey"], prepared=place)


def _record(row: dict[str, Any]) -> Record:
    volume = Volume(**row["volume"]) if row["volume"] else None
    return Record(Path(row["image"]), Path(row["mask"]), tuple(row["labels"]), volume)
