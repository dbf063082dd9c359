"""Nothing is trusted across a conversion: every engine is compared with PyTorch in numbers and on the task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline import Dataset, Split, TrainingLoader, open_source
from deploy.contract import Contract
from deploy.engines import EngineOutput, Runner
from deploy.report import Parity
from model.metrics import TaskScores

BATCH = 4
NOISE_IMAGES: dict[Split, int] = {"validation": 4, "train": 16}


# fp32 engines only sum in another order. The lower precisions round at 2^-11 and 2^-8, carried through some 60 layers.
PARITY_TOLERANCE = {
    "fp32": Parity(mask=0.001, classification=0.001, segmentation=0.0001),
    "fp16": Parity(mask=0.005, classification=0.01, segmentation=0.001),
    "bf16": Parity(mask=0.02, classification=0.05, segmentation=0.01),
    # Eight bits are judged on the task; this only notices NaN.
    "int8": Parity(mask=1.0, classification=1.0, segmentation=1.0),
    "fp8": Parity(mask=1.0, classification=1.0, segmentation=1.0),
}


@dataclass(frozen=True)
class Truth:
    """masks (N, S, S) int64 and labels (N, C) float32, with the names of their classes, background first."""

    masks: torch.Tensor
    labels: torch.Tensor
    seg_classes: tuple[str, ...]
    label_names: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """Images as the network sees them, with the truth where there is one.

    images: (N, 3, S, S) float32.  truth and dataset: None for noise.
    """

    name: str
    images: NDArray[np.float32]
    truth: Truth | None = None
    dataset: Dataset | None = None

    def first(self, count: int) -> Samples:
        """The first `count` of them, for what need not look at all."""
        truth = self.truth and replace(self.truth, masks=self.truth.masks[:count], labels=self.truth.labels[:count])
        return replace(self, images=self.images[:count], truth=truth)


def load_samples(contract: Contract, source: str | None, count: int, split: Split = "validation") -> Samples:
    """`count` images of `source`; seeded noise where there is none (random weights), for numbers only.

    Raises DataError where the source has other classes than the contract.
    """
    if source is None:
        shape = (NOISE_IMAGES[split], *contract.network_input.shape)
        return Samples("noise", np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    dataset = open_source(source, split, samples=count)
    dataset.check_classes(contract.seg_classes, contract.labels)
    spec = contract.preprocessing
    batches = list(TrainingLoader(dataset, spec, batch_size=BATCH, augment=False, shuffle=False, seed=0))
    return Samples(
        f"{len(dataset.records)} {split} images of {source}",
        torch.cat([batch.image for batch in batches]).numpy(),
        Truth(
            torch.cat([batch.mask for batch in batches]),
            torch.cat([batch.labels for batch in batches]),
            tuple(dataset.seg_classes),
            tuple(dataset.labels),
        ),
        dataset,
    )


def run_all(runner: Runner, samples: Samples, max_batch: int) -> EngineOutput:
    """The outputs for all samples, in batches of 3 and a smaller last one, so that dynamic batches are tested too."""
    size = min(BATCH - 1, max_batch)
    parts = [runner(samples.images[start : start + size]) for start in range(0, len(samples.images), size)]
    return EngineOutput(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def compare(reference: EngineOutput, candidate: EngineOutput) -> Parity:
    """Differences between two engines' outputs for the same images; NaN counts as infinitely far."""
    return Parity(
        mask=float(np.mean(reference.mask != candidate.mask)),
        classification=_finite(np.max(np.abs(reference.class_probs - candidate.class_probs))),
        segmentation=_finite(np.mean(np.abs(reference.seg_probs - candidate.seg_probs))),
    )


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else float("inf")


def task_scores(output: EngineOutput, samples: Samples) -> dict[str, float] | None:
    """Dice, accuracy and AUC of an engine's outputs; None where the samples have no truth."""
    truth = samples.truth
    if truth is None:
        return None
    scores = TaskScores(truth.seg_classes, truth.label_names)
    scores.update(torch.from_numpy(output.mask), torch.from_numpy(output.class_probs), truth.masks, truth.labels)
    return scores.compute()


def failures(precision: str, parity: Parity) -> list[str]:
    """Every numeric tolerance that an engine breaks, with the figure; empty for a good one."""
    limit = PARITY_TOLERANCE[precision]
    return [
        f"{name} differs by {value:.2e}, more than {getattr(limit, name):.0e}"
        for name, value in vars(parity).items()
        if value > getattr(limit, name)
    ]
