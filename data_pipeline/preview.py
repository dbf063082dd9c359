"""`python -m data_pipeline.preview`: a contact sheet of augmented training samples with their masks outlined."""

import argparse
import sys
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data_pipeline.loader import TrainingLoader
from data_pipeline.records import DataError, Dataset, Split
from data_pipeline.sources import SOURCES, open_source
from data_pipeline.spec import Preprocessing

COLOURS = np.array([[0, 0, 0], [255, 60, 60], [60, 255, 60], [80, 120, 255], [255, 230, 60]], np.uint8)
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def contact_sheet(dataset: Dataset, *, size: int, columns: int, augment: bool, seed: int) -> Image.Image:
    """One tile a record: the image as the network sees it, its mask outlined, its positive labels written on it."""
    loader = TrainingLoader(
        dataset, Preprocessing(size, ZERO, ONE), batch_size=columns, augment=augment, shuffle=False, seed=seed
    )
    rows = -(-len(dataset.records) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size))
    for row, batch in enumerate(loader):
        for column, index in enumerate(batch.index.tolist()):
            pixels = np.rint(batch.image[column].clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            tile = Image.fromarray(outline(pixels, batch.mask[column].numpy()))
            names = [name for name, value in zip(dataset.labels, dataset.records[index].labels, strict=True) if value]
            ImageDraw.Draw(tile).text(
                (3, 2), ", ".join(names) or "none", fill="white", stroke_width=1, stroke_fill="black"
            )
            sheet.paste(tile, (column * size, row * size))
    return sheet


def outline(image: NDArray[np.uint8], mask: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(H, W, 3) image with the border pixels of each class of (H, W) `mask` in the class's colour."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = (mask > 0) & np.any([neighbour != mask for neighbour in neighbours], axis=0)
    drawn = image.copy()
    drawn[border] = COLOURS[1 + (mask[border] - 1) % (len(COLOURS) - 1)]
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.preview", description=__doc__)
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--split", choices=get_args(Split), default="train")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--size", type=int, default=224, help="side of a tile in pixels")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="without augmentation")
    options = parser.parse_args(arguments)
    try:
        dataset = open_source(options.data, options.split, samples=options.samples, seed=options.seed)
        sheet = contact_sheet(
            dataset, size=options.size, columns=options.columns, augment=not options.plain, seed=options.seed
        )
        options.output.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(options.output)
    except (DataError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {len(dataset.records)} samples of {dataset.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
