"""Load the images that engines are scored on, and decide what an engine may cost in Dice, accuracy and AUC."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline import Dataset, Split, TrainingLoader, open_usable
from deploy.contract import Contract
from deploy.engines import EngineOutput
from deploy.verify import SCORES, Change
from model.bootstrap import Array, interval, resample, with_means
from model.checkpoint import CheckpointInfo
from model.metrics import TaskScores
from model.origin import split_seed

TASK_TOLERANCE = {"dice": 0.005, "accuracy": 0.01}
BATCH = 4
NOISE_IMAGES: dict[Split, int] = {"validation": 4, "train": 16}  # 16 is the fewest that a calibration takes


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Hold the targets of a set of images.

    masks: (N, S, S) int64 class indices.
    labels: (N, C) float32, 0 or 1.
    seg_classes: names of the mask's values, background first.
    label_names: names of the C labels.
    """

    masks: torch.Tensor
    labels: torch.Tensor
    seg_classes: tuple[str, ...]
    label_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Hold images as the network sees them, with their targets where there are any.

    name: what they are, for the reader.
    images: (N, 3, S, S) float32.
    targets: masks and labels, or None for noise.
    dataset: the files that the images come from, or None for noise.
    """

    name: str
    images: NDArray[np.float32]
    targets: Targets | None = None
    dataset: Dataset | None = None


def open_images(
    info: CheckpointInfo, source: str, split: Split, count: int, report: Callable[[str], object]
) -> Dataset:
    """Open up to `count` images of a source, divided as for the training and without those that cannot be used.

    Args:
        info: of the checkpoint, whose classes the images must have.
        source: as `--data` takes it.
        split: which split.
        count: number of images, before those that the scan finds bad are left out.
        report: called with each line on what was left out.

    Raises:
        DataError: the source has other classes, or no image that can be used.
    """
    dataset = open_usable(source, split, samples=count, seed=split_seed(info), skip_bad=True, report=report)
    return dataset.fit_classes(info.seg_classes, info.labels)


def load_samples(
    contract: Contract,
    info: CheckpointInfo,
    source: str | None,
    split: Split,
    count: int,
    report: Callable[[str], object],
) -> Samples:
    """Load the images of `open_images`, whose arguments it takes, or seeded noise where there is no source."""
    # Random weights have no data of their own. Noise is enough to compare numbers on.
    if source is None:
        shape = (NOISE_IMAGES[split], *contract.network_input.shape)
        return Samples(name="noise", images=np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    dataset = open_images(info, source, split, count, report)
    # In the order of the dataset, which the report's gallery relies on.
    loader = TrainingLoader(dataset, contract.preprocessing, batch_size=BATCH, augment=False, shuffle=False, seed=0)
    batches = list(loader)
    targets = Targets(
        masks=torch.cat([batch.mask for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        seg_classes=tuple(dataset.seg_classes),
        label_names=tuple(dataset.labels),
    )
    return Samples(
        name=f"{len(dataset.records)} {split} images of {source}",
        images=torch.cat([batch.image for batch in batches]).numpy(),
        targets=targets,
        dataset=dataset,
    )


def score(output: EngineOutput, targets: Targets) -> TaskScores:
    """Score an engine's outputs against the targets of the same images."""
    scores = TaskScores(targets.seg_classes, targets.label_names)
    scores.update(torch.from_numpy(output.mask), torch.from_numpy(output.class_probs), targets.masks, targets.labels)
    return scores


def task_changes(reference: EngineOutput, candidate: EngineOutput, targets: Targets) -> dict[str, Change]:
    """Measure how the candidate's scores differ from the reference's.

    The names are those of `TaskScores`: `dice`, `accuracy`, `auc`, and each class or label as in `dice/lesion`.
    """
    # A paired bootstrap: both engines are scored on the same resampled images, so what is hard about an image cancels.
    weights = resample(range(len(targets.masks)))
    before, after = (_compared(score(output, targets), weights) for output in (reference, candidate))
    return {name: Change(*interval(after[name] - before[name])) for name in before}


def broken_task_tolerances(changes: dict[str, Change]) -> list[str]:
    """List every tolerance on the task that an engine breaks, with the figure.

    A score that the samples do not define is left out, as the Dice of images without any lesion.
    """
    # The value decides. The interval tells the reader how far to trust it.
    return [
        f"{name} fell by {-change.value:.4f} (95 % interval {-change.high:.4f} to {-change.low:.4f}), more than {limit}"
        for name, limit in TASK_TOLERANCE.items()
        if (change := changes.get(name)) and change.value < -limit
    ]


def _compared(scores: TaskScores, weights: Array) -> dict[str, Array]:
    groups = scores.weighted(weights)
    return with_means({name: groups[name] for name in SCORES})
