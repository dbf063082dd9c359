"""Overlays for the report: the truth, PyTorch's mask and the deployed engine's mask over some validation images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deploy.client.overlay import draw, fit_mask, open_upright, png
from deploy.engines import Runner
from deploy.verify import Samples

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
    if samples.dataset is None or samples.masks is None:
        return ()
    outputs = {name: runner(samples.images[:CASES]) for name, runner in runners.items()}
    probabilities = list(outputs.values())[-1].class_probs
    return [
        Case(
            pictures=_pictures(
                record.image.read_bytes(),
                {"truth": samples.masks[i].numpy(), **{name: output.mask[i] for name, output in outputs.items()}},
            ),
            labels=[
                (name, truth, float(value))
                for name, truth, value in zip(samples.dataset.labels, record.labels, probabilities[i], strict=True)
            ],
        )
        for i, record in enumerate(samples.dataset.records[:CASES])
    ]


def _pictures(data: bytes, masks: dict[str, np.ndarray]) -> dict[str, str]:  # type: ignore[type-arg]
    image = open_upright(data)
    image = image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)
    overlays = {name: draw(image, fit_mask(mask.astype(np.uint8), image.size)) for name, mask in masks.items()}
    return {name: _data_url(picture) for name, picture in {"image": image, **overlays}.items()}


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()
