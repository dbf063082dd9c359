"""Draw the best, median and worst cases of an evaluation, with target and predicted mask."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from data_pipeline import Dataset, Preprocessing
from data_pipeline.overlay import draw_outlines
from model.evaluation import PredictedRecord, ScoredCase, predict_records

SHOWN = 3  # cases of each kind
COLUMNS = ("image", "target", "predicted")


def pick(cases: Sequence[ScoredCase]) -> dict[str, list[ScoredCase]]:
    """Pick the best, median and worst cases by Dice, at most `SHOWN` of each, from those that show a class."""
    ranked = sorted((case for case in cases if not np.isnan(case.dice)), key=lambda case: -case.dice)
    # The three kinds have the same number, so that the gallery is a full rectangle. Of few cases they overlap.
    count = min(SHOWN, len(ranked))
    middle = (len(ranked) - count) // 2
    return {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[len(ranked) - count :]}


def draw_gallery(
    cases: Sequence[ScoredCase], model: nn.Module, dataset: Dataset, spec: Preprocessing
) -> Image.Image | None:
    """Draw the best, median and worst cases in a row each, or return None where no case shows a class.

    A tile shows the image, the target mask and the predicted mask, each with its name below.
    """
    rows = [(f"{kind}: Dice {case.dice:.3f}", case.record) for kind, chosen in pick(cases).items() for case in chosen]
    if not rows:
        return None
    # Predicted again rather than kept from scoring, which would hold every image in memory. They are read from their
    # files: prepared pixels are found by a record's place in the whole data set.
    shown = replace(dataset, records=tuple(record for _, record in rows), prepared=None)
    predictions = zip(rows, predict_records(model, shown, spec), strict=True)
    tiles = [_tile(text, predicted, spec) for (text, _), predicted in predictions]
    across, (width, height) = len(rows) // 3, tiles[0].size
    sheet = Image.new("RGB", (across * width, 3 * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (width * (number % across), height * (number // across)))
    return sheet


def _tile(text: str, predicted: PredictedRecord, spec: Preprocessing) -> Image.Image:
    """Draw (S, 3S): the image as the network sees it, with the outline of the target, and of the predicted mask."""
    # Back from the network's normalisation to 8 bits.
    pixels = predicted.image.permute(1, 2, 0).numpy() * spec.std + spec.mean
    image = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    outlined = [draw_outlines(image, mask.numpy()) for mask in (predicted.target_mask, predicted.mask)]
    tile = Image.fromarray(np.concatenate([image, *outlined], axis=1))
    side, drawing = len(image), ImageDraw.Draw(tile)
    texts = {(3, 2): f"{text}, {_name(predicted)}"}
    texts |= {(3 + number * side, side - 14): name for number, name in enumerate(COLUMNS)}
    for place, words in texts.items():
        # A black rim keeps the white text readable on bright images.
        drawing.text(place, words, fill="white", stroke_width=1, stroke_fill="black")
    return tile


def _name(predicted: PredictedRecord) -> str:
    # Slices have numbers for names, which every volume has again.
    image, volume = predicted.record.image.stem, predicted.record.volume
    return f"{volume.name} {image}" if volume else image
