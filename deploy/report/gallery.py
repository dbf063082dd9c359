"""Draw the report's gallery: the target, PyTorch's mask and the served engine's mask over some validation images."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data_pipeline import Dataset
from data_pipeline.overlay import draw, fit_mask, open_upright, png
from deploy.engines import Runner
from deploy.verify.samples import Samples

ROWS = 4
WIDTH = 320  # of a picture, in pixels


@dataclass(frozen=True)
class GalleryRow:
    """Hold what the gallery shows of one image.

    pictures: PNG pictures as data URLs, by the name above their column.
    labels: each label's name, target and probability.
    """

    pictures: dict[str, str]
    labels: list[tuple[str, int, float]]


def gallery(samples: Samples, runners: dict[str, Runner]) -> Sequence[GalleryRow]:
    """Draw the first images of the samples with the mask of every runner, or nothing for noise.

    runners: by the name above their column. The probabilities shown are the last one's.
    """
    if samples.dataset is None or samples.targets is None:
        return ()
    return [
        _row(samples.dataset, samples.targets.masks, samples.images, index, runners)
        for index in range(min(ROWS, len(samples.images)))
    ]


def _row(
    dataset: Dataset, masks: Tensor, images: NDArray[np.float32], index: int, runners: dict[str, Runner]
) -> GalleryRow:
    record = dataset.records[index]
    # One image a call, because an engine may take no more.
    outputs = {name: runner(images[index : index + 1]) for name, runner in runners.items()}
    probabilities = list(outputs.values())[-1].class_probs[0].tolist()
    shown = {"target": masks[index].numpy(), **{name: output.mask[0] for name, output in outputs.items()}}
    return GalleryRow(
        pictures=_pictures(record.image.read_bytes(), shown),
        labels=list(zip(dataset.labels, record.labels, probabilities, strict=True)),
    )


def _pictures(data: bytes, masks: dict[str, NDArray[np.generic]]) -> dict[str, str]:
    """Return the image, and the image under each mask, by name."""
    # Drawn over the file in its own proportions: the network saw it as a square.
    image = open_upright(data)
    image = image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)
    overlays = {name: draw(image, fit_mask(mask.astype(np.uint8), image.size)) for name, mask in masks.items()}
    return {name: _data_url(picture) for name, picture in {"image": image, **overlays}.items()}


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()
