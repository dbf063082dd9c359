"""Draw a contact sheet of augmented training samples with their masks outlined."""

import argparse
import sys
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageDraw

from data_pipeline.command_line import Output, new_parser, positive, run_command, seed
from data_pipeline.files import whole_file
from data_pipeline.loader import TrainingLoader
from data_pipeline.overlay import draw_outlines
from data_pipeline.records import DataError, Dataset, Split
from data_pipeline.sources import SOURCES, open_source
from data_pipeline.spec import Preprocessing

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
EXAMPLES = """examples:
  python -m data_pipeline.preview --data synthetic:skin --output build/skin.png
  python -m data_pipeline.preview --data folder:my_data --split validation --samples 12 --output build/mine.png
  python -m data_pipeline.preview --data synthetic:oct --plain --size 200 --columns 8 --samples 8 --output build/oct.png
"""


def contact_sheet(dataset: Dataset, *, size: int, columns: int, augment: bool, seed: int) -> Image.Image:
    """Draw one tile for each record: the image as the network sees it, its outlined mask and its positive labels.

    Args:
        dataset: the records.
        size: side of a tile in pixels.
        columns: tiles in a row.
        augment: whether to augment as in training.
        seed: of the augmentation.
    """
    # A batch is a row. Without normalisation the values stay in [0, 1] and can be shown.
    spec = Preprocessing(image_size=size, mean=ZERO, std=ONE)
    loader = TrainingLoader(dataset, spec, batch_size=columns, augment=augment, shuffle=False, seed=seed)
    sheet = Image.new("RGB", (columns * size, len(loader) * size))
    for row, batch in enumerate(loader):
        for column, index in enumerate(batch.index.tolist()):
            # Augmentation may leave [0, 1], and a cast to bytes would then wrap around.
            pixels = np.rint(batch.image[column].clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            tile = Image.fromarray(draw_outlines(pixels, batch.mask[column].numpy()))
            names = [name for name, value in zip(dataset.labels, dataset.records[index].labels, strict=True) if value]
            text = ", ".join(names) or "none"
            # White with a black edge is legible on skin and on the black of a scan.
            ImageDraw.Draw(tile).text((3, 2), text, fill="white", stroke_width=1, stroke_fill="black")
            sheet.paste(tile, (column * size, row * size))
    return sheet


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or exit with code 2 and one line for a misuse."""
    parser = new_parser("data_pipeline.preview", __doc__, EXAMPLES)
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--split", choices=get_args(Split), default="train", help="(default: train)")
    parser.add_argument("--samples", type=positive(int), default=24, help="tiles to draw (default: 24)")
    parser.add_argument("--size", type=positive(int), default=224, help="side of a tile in pixels (default: 224)")
    parser.add_argument("--columns", type=positive(int), default=6, help="tiles in a row (default: 6)")
    parser.add_argument("--seed", type=seed, default=0, help="of the augmentation and of generated data (default: 0)")
    parser.add_argument("--plain", action="store_true", help="leave out augmentation")
    return parser.parse_args(arguments)


def write_sheet(options: argparse.Namespace) -> None:
    """Draw the contact sheet that the options describe, and write it."""
    output = Output()
    dataset = open_source(options.data, options.split, samples=options.samples, seed=options.seed)
    sheet = contact_sheet(
        dataset, size=options.size, columns=options.columns, augment=not options.plain, seed=options.seed
    )
    with whole_file(options.output) as temporary:
        # The temporary name has no extension from which Pillow could tell the format.
        sheet.save(temporary, Image.registered_extensions().get(options.output.suffix.lower(), "PNG"))
    output.print(f"{options.output}: {len(dataset.records)} samples of {dataset.name}")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return run_command(lambda: write_sheet(options), DataError, OSError, RuntimeError)


if __name__ == "__main__":
    sys.exit(main())
