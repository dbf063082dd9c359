"""Tell whether images to be scored are others than those that a checkpoint was trained on."""

from collections.abc import Mapping
from typing import Any

from data_pipeline import Dataset, Split
from data_pipeline.command_line import LARGEST_SEED
from data_pipeline.fields import is_whole
from data_pipeline.records import place_of
from model.checkpoint import CheckpointInfo


def training_origin(dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint keeps of the data it is trained on, for this module to compare with."""
    return {"source": dataset.name, "split_seed": dataset.split_seed, "divided": dict(dataset.divided)}


def split_seed(info: CheckpointInfo) -> int:
    """Return the seed by which the training's source was divided, or 0 where nothing is known of it."""
    # What was trained before the two were told apart was divided by the seed of the training.
    recorded = info.training.get("split_seed")
    seed: Any = info.training.get("seed") if recorded is None else recorded
    return seed if is_whole(seed, 0, LARGEST_SEED) else 0


def is_of_the_training(info: CheckpointInfo, dataset: Dataset) -> bool:
    """Tell whether a data set is from the source of the training, as far as its name tells."""
    return place_of(dataset.name) == place_of(str(info.training.get("source", info.data)))


def is_unseen(info: CheckpointInfo, dataset: Dataset, split: Split) -> bool:
    """Tell whether a split is known to share no image with those that the checkpoint was trained on or chosen by."""
    return split == "test" and is_of_the_training(info, dataset) and _is_divided_alike(info, dataset)


def _is_divided_alike(info: CheckpointInfo, dataset: Dataset) -> bool:
    """Tell whether the splits are still those of the training: the same seed has divided the same names."""
    known = info.training.get("divided")
    # Older checkpoints know the seed alone. A vendor of RETOUCH is divided alone as among the others.
    names = known if isinstance(known, Mapping) else {}
    same_names = all(names.get(group, found) == found for group, found in dataset.divided.items())
    return same_names and dataset.split_seed in (None, split_seed(info))
