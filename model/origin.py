"""Tell whether images to be scored are others than those that a checkpoint was trained on."""

from typing import Any

from data_pipeline import Dataset, Split
from data_pipeline.command_line import LARGEST_SEED
from data_pipeline.fields import is_whole
from model.checkpoint import CheckpointInfo


def training_origin(dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint keeps of the data it is trained on, for this module to compare with."""
    return {"source": dataset.name, "split_seed": dataset.split_seed}


def split_seed(info: CheckpointInfo) -> int:
    """Return the seed by which the training's source was divided, or 0 where nothing is known of it."""
    # What was trained before the two were told apart was divided by the seed of the training.
    recorded = info.training.get("split_seed")
    seed: Any = info.training.get("seed") if recorded is None else recorded
    return seed if is_whole(seed, 0, LARGEST_SEED) else 0


def is_of_the_training(info: CheckpointInfo, dataset: Dataset) -> bool:
    """Tell whether a data set is from the source of the training, as far as its name tells."""
    return bool(dataset.name == info.training.get("source", info.data))


def is_unseen(info: CheckpointInfo, dataset: Dataset, split: Split) -> bool:
    """Tell whether a split is known to share no image with those that the checkpoint was trained on or chosen by."""
    divided_alike = dataset.split_seed in (None, split_seed(info))
    return split == "test" and is_of_the_training(info, dataset) and divided_alike
