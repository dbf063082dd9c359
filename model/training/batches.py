"""The training batches of one process."""

from __future__ import annotations

from dataclasses import replace

from data_pipeline import Dataset, TrainingLoader
from model.checkpoint import CheckpointInfo
from model.evaluation import expected_input
from model.training.options import TrainingError, TrainingOptions
from model.training.processes import Processes


def open_batches(
    train: Dataset, info: CheckpointInfo, options: TrainingOptions, processes: Processes
) -> TrainingLoader:
    """This process's share of every joint batch; the shares are equal, so up to count - 1 samples are left out.

    Raises TrainingError where the batch cannot be shared.
    """
    count = processes.count
    if options.batch_size % count or len(train.records) < count:
        raise TrainingError(f"--batch-size must be a multiple of the {count} processes, got {options.batch_size}")
    return TrainingLoader(
        replace(train, records=train.records[: len(train.records) // count * count]),
        expected_input(info),
        batch_size=options.batch_size // count,
        augment=True,
        shuffle=True,
        seed=options.seed,
        shard=(processes.rank, count),
        device="gpu" if processes.device.type == "cuda" else "cpu",
    )
