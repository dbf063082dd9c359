"""The evaluation on disk and in the terminal: scores, one row a case, and the cases to look at."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.table import Table
from torch import nn

from data_pipeline import Dataset, Preprocessing
from data_pipeline.files import write_whole
from data_pipeline.preview import outline
from model.evaluation.cases import Answer, Case, answers
from model.evaluation.summary import MASK_SCORES, Estimate

SHOWN = 3  # cases of each kind in the gallery


def score_table(scores: dict[str, Estimate], title: str) -> Table:
    """The scores as a table for the terminal."""
    table = Table("score", "value", "95 % interval", title=title)
    for name, (value, low, high) in scores.items():
        table.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    return table


def write_cases(cases: Sequence[Case], dataset: Dataset, path: Path) -> None:
    """A CSV of one row an image; an empty field is a class that the image does not show."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    masks = [f"{score}/{name}" for score in MASK_SCORES for name in dataset.seg_classes[1:]]
    labels = [f"{kind}/{name}" for kind in ("truth", "probability") for name in dataset.labels]
    writer.writerow(["image", "volume", *masks, *labels])
    for case in cases:
        values = np.concatenate([getattr(case.masks, score) for score in MASK_SCORES])
        volume = case.record.volume.name if case.record.volume else ""
        fields = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
        probabilities = [f"{value:.6g}" for value in case.probabilities]
        writer.writerow([case.record.image, volume, *fields, *case.record.labels, *probabilities])
    write_whole(path, text.getvalue())


def pick(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """The best, median and worst cases by Dice, at most `SHOWN` of each; those that show no class have none."""
    ranked = sorted((case for case in cases if not np.isnan(case.dice)), key=lambda case: -case.dice)
    count = min(SHOWN, len(ranked))
    middle = (len(ranked) - count) // 2
    return {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[len(ranked) - count :]}


def draw_gallery(cases: Sequence[Case], model: nn.Module, dataset: Dataset, spec: Preprocessing) -> Image.Image | None:
    """A row each of best, median and worst cases: image, true mask, found mask; None where no case shows a class."""
    rows = [(f"{kind}: Dice {case.dice:.3f}", case.record) for kind, chosen in pick(cases).items() for case in chosen]
    if not rows:
        return None
    # read from the files: prepared pixels are found by a record's place in the whole data set
    shown = replace(dataset, records=tuple(record for _, record in rows), prepared=None)
    tiles = [_tile(text, answer, spec) for (text, _), answer in zip(rows, answers(model, shown, spec), strict=True)]
    across, (width, height) = len(rows) // 3, tiles[0].size
    sheet = Image.new("RGB", (across * width, 3 * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (width * (number % across), height * (number // across)))
    return sheet


def _tile(text: str, answer: Answer, spec: Preprocessing) -> Image.Image:
    """(S, 3S): the image as the network sees it, with the outline of the true mask, and of the one found."""
    pixels = answer.image.permute(1, 2, 0).numpy() * spec.std + spec.mean
    image = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    outlined = [outline(image, mask.long().numpy()) for mask in (answer.truth, answer.mask)]
    tile = Image.fromarray(np.concatenate([image, *outlined], axis=1))
    ImageDraw.Draw(tile).text((3, 2), f"{text}, {_name(answer)}", fill="white", stroke_width=1, stroke_fill="black")
    return tile


def _name(answer: Answer) -> str:
    image, volume = answer.record.image.stem, answer.record.volume
    return f"{volume.name} {image}" if volume else image
