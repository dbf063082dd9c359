"""Overlays for the report: the truth, PyTorch's mask and the deployed engine's mask over some validation images."""

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

CASES = 4
WIDTH = 320


@dataclass(frozen=True)
class Case:
    """One image of the gallery: PNG pictures as data URLs, and each label's truth and probability."""

    pictures: dict[str, str]
    labels: list[tuple[str, int, float]]


def gallery(samples: Samples, runners: dict[str, Runner]) -> Sequence[Case]:
    """The first cases of the samples, as every runner sees them; empty for noise.

    runners: by the name that stands over their column; the last one's probabilities are shown.
    """
    if samples.dataset is None or samples.targets is None:
        return ()
    return [
        _case(samples.dataset, samples.targets.masks, samples.images, index, runners)
        for index in range(min(CASES, len(samples.images)))
    ]


def _case(dataset: Dataset, masks: Tensor, images: NDArray[np.float32], index: int, runners: dict[str, Runner]) -> Case:
    record = dataset.records[index]
    # One image a call: an engine may take no more.
    outputs = {name: runner(images[index : index + 1]) for name, runner in runners.items()}
    probabilities = list(outputs.values())[-1].class_probs[0].tolist()
    shown = {"truth": masks[index].numpy(), **{name: output.mask[0] for name, output in outputs.items()}}
    return Case(
        pictures=_pictures(record.image.read_bytes(), shown),
        labels=list(zip(dataset.labels, record.labels, probabilities, strict=True)),
    )


def _pictures(data: bytes, masks: dict[str, NDArray[np.generic]]) -> dict[str, str]:
    image = open_upright(data)
    image = image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)
    overlays = {name: draw(image, fit_mask(mask.astype(np.uint8), image.size)) for name, mask in masks.items()}
    return {name: _data_url(picture) for name, picture in {"image": image, **overlays}.items()}


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()
