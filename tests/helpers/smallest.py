"""What the tests of exported files share: the smallest network's contract, and images for it."""

import numpy as np

from data_pipeline import Preprocessing
from deploy.contract import Contract

CONTRACT = Contract(
    preprocessing=Preprocessing(64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    seg_classes=("background", "a", "b", "c"),
    labels=("x", "y", "z"),
    max_batch=4,
)


def images(count: int) -> np.ndarray:  # type: ignore[type-arg]
    """(count, 3, 64, 64) noise from the seed `count`."""
    return np.random.default_rng(count).standard_normal((count, 3, 64, 64), dtype=np.float32)
