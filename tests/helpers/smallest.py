"""Share the smallest network's contract, and images for it, among the tests of exported files."""

import numpy as np

from data_pipeline import Preprocessing
from deploy.contract import Contract

CONTRACT = Contract(
    preprocessing=Preprocessing(image_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    seg_classes=("background", "a", "b", "c"),
    labels=("x", "y", "z"),
    max_batch=4,
)


def images(count: int) -> np.ndarray:  # type: ignore[type-arg]
    """Return noise (count, 3, 64, 64) from the seed `count`."""
    return np.random.default_rng(count).standard_normal((count, 3, 64, 64), dtype=np.float32)
