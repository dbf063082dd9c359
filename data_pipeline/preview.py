"""Draw a contact sheet of augmented training samples with their masks outlined."""

import argparse
import sys
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageDraw

from data_pipeline.command_line import LARGEST_SIDE, Output, new_parser, positive, run_command, seed, white_level
from data_pipeline.files import whole_file
from data_pipeline.graph.augmentation import Strength
from data_pipeline.loader import TrainingLoader
from data_pipeline.overlay import draw
from data_pipeline.records import DataError, Dataset, Split
from data_pipeline.scan import open_usable
from data_pipeline.sources import SOURCES
from data_pipeline.spec import SIXTEEN_BITS, Preprocessing

ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
EXAMPLES = """examples:
  python -m data_pipeline.preview --data synthetic:skin --output build/skin.png
  python -m data_pipeline.preview --data folder:my_data --split validation --samples 12 --output build/mine.png
  python -m data_pipeline.preview --data synthetic:oct --plain --size 200 --columns 8 --samples 8 --output build/oct.png
"""


def contact_sheet(
    dataset: Dataset,
    *,
    size: int,
    columns: int,
    augment: bool,
    seed: int,
    augmentation: Strength = "auto",
    white_level: int = SIXTEEN_BITS,
) -> Image.Image:
    """Draw one tile for each record: the image as the network sees it, its filled mask and its positive labels.

    Args:
        dataset: the records.
        size: side of a tile in pixels.
        columns: tiles in a row, at most.
        augment: whether to augment as in training.
        seed: of the augmentation.
        augmentation: how to augment, as for `TrainingLoader`.
        white_level: value that is white in files of 16 bits.
    """
    columns = min(columns, len(dataset.records))
    # A batch is a row. Without normalisation the values stay in [0, 1] and can be shown.
    spec = Preprocessing(image_size=size, mean=ZERO, std=ONE, white_level=white_level)
    chosen = {"augment": augment, "augmentation": augmentation, "seed": seed}
    loader = TrainingLoader(dataset, spec, batch_size=columns, shuffle=False, **chosen)  # type: ignore[arg-type]
    sheet = Image.new("RGB", (columns * size, len(loader) * size))
    for row, batch in enumerate(loader):
        for column, index in enumerate(batch.index.tolist()):
            # Augmentation may leave [0, 1], and a cast to bytes would then wrap around.
            pixels = np.rint(batch.image[column].clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            # Filled, because an inverted mask has the same outline.
            tile = draw(Image.fromarray(pixels), batch.mask[column].numpy().astype(np.uint8))
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
    parser.add_argument("--output", type=Path, required=True, help="PNG or JPEG file to write")
    parser.add_argument("--split", choices=get_args(Split), default="train", help="(default: train)")
    parser.add_argument("--samples", type=positive(int), default=24, help="tiles to draw (default: 24)")
    side = positive(int, most=LARGEST_SIDE)
    parser.add_argument("--size", type=side, default=224, help="side of a tile in pixels (default: 224)")
    parser.add_argument("--columns", type=positive(int), default=6, help="tiles in a row (default: 6)")
    parser.add_argument("--seed", type=seed, default=0, help="of the augmentation and of generated data (default: 0)")
    parser.add_argument(
        "--levels", type=white_level, default=SIXTEEN_BITS, help="white level of files of 16 bits, as for model.train"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out the samples that cannot be used")
    parser.add_argument(
        "--augmentation", choices=get_args(Strength), default="auto", help="as for model.train (default: auto)"
    )
    parser.add_argument("--plain", action="store_true", help="leave out augmentation")
    options = parser.parse_args(arguments)
    if options.output.suffix.lower() not in ENDINGS:
        parser.error(f"--output must end in {', '.join(ENDINGS)}, got {options.output.name}")
    return options


def write_sheet(options: argparse.Namespace) -> None:
    """Draw the contact sheet that the options describe, and write it."""
    output = Output()
    chosen = {"samples": options.samples, "seed": options.seed, "skip_bad": options.skip_bad}
    dataset = open_usable(options.data, options.split, report=output.print, **chosen)
    drawn = {"size": options.size, "columns": options.columns, "augment": not options.plain, "seed": options.seed}
    sheet = contact_sheet(dataset, **drawn, augmentation=options.augmentation, white_level=options.levels)
    with whole_file(options.output) as temporary:
        # The temporary name has no extension from which Pillow could tell the format.
        sheet.save(temporary, ENDINGS[options.output.suffix.lower()])
    output.print(f"{options.output}: {len(dataset.records)} samples of {dataset.name}")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return run_command(lambda: write_sheet(options), DataError, OSError, RuntimeError)


if __name__ == "__main__":
    sys.exit(main())
