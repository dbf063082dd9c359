"""The training pipeline: one epoch of augmented batches as torch tensors, every sample exactly once."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from numpy.typing import NDArray
from nvidia.dali.backend import TensorListCPU
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def

from data_pipeline.augment import (
    Augmentation,
    draw,
    jitter_colour,
    place,
    warp_image,
    warp_mask,
)
from data_pipeline.preprocess import Device, Preprocessing, decode, normalise
from data_pipeline.records import Dataset

Columns = tuple[list[NDArray[np.generic]], ...]


@dataclass(frozen=True)
class Batch:
    """image: (B, 3, S, S) float32, normalised.  mask: (B, S, S) int64.  labels: (B, C) float32.

    index: (B,) int64 into the records.
    """

    image: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


class TrainingLoader:
    """Iterates one epoch of `Batch`; each new iteration is the next epoch, with its own order and augmentation.

    A sample depends only on (seed, epoch, index): thread count, batch size and shards change nothing.
    shard: (number, count).
    An epoch left in the middle is continued by the next iteration; `state_dict` carries that place to another process.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: Preprocessing,
        *,
        batch_size: int,
        augment: bool,
        shuffle: bool,
        seed: int,
        threads: int = 2,
        shard: tuple[int, int] = (0, 1),
        device: Device = "cpu",
    ) -> None:
        self.dataset, self.spec, self.batch_size = dataset, spec, batch_size
        self.ranges = Augmentation() if augment else None
        self.shuffle, self.seed, self.threads, self.shard, self.device = shuffle, seed, threads, shard, device
        self.epoch, self.position = 0, 0
        self.labels = torch.tensor([record.labels for record in dataset.records], dtype=torch.float32)

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[Batch]:
        """A fresh pipeline an epoch costs milliseconds and forgets whatever a failed epoch left behind."""
        epoch, batches = self.epoch, self._batches()[self.position :]
        pipeline = self._build(epoch, batches)
        for indices in batches:
            outputs = pipeline.run()
            self._advance()
            yield self._to_torch(indices, *outputs)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch stands; all that a resumed run needs, because the randomness has no other state."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def _advance(self) -> None:
        self.position += 1
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0

    def _batches(self) -> list[NDArray[np.int64]]:
        """Record indices of each batch of the current epoch and this shard."""
        count = len(self.dataset.records)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(count) if self.shuffle else np.arange(count)
        number, shards = self.shard
        mine = order[number::shards]
        return [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]

    def _build(self, epoch: int, batches: list[NDArray[np.int64]]) -> Pipeline:
        pipeline = training_pipeline(
            (self._columns(epoch, indices) for indices in batches),
            self.spec,
            augment=self.ranges is not None,
            device=self.device,
            batch_size=self.batch_size,
            num_threads=self.threads,
            device_id=0 if self.device == "gpu" else None,
        )
        pipeline.build()
        return pipeline

    def _columns(self, epoch: int, indices: NDArray[np.int64]) -> Columns:
        """The graph's inputs for one batch: file paths as bytes and, with augmentation, the drawn parameters."""
        records = [self.dataset.records[index] for index in indices]
        paths = [_path_bytes(record.image) for record in records], [_path_bytes(record.mask) for record in records]
        if self.ranges is None:
            return paths
        draws = [draw(self.ranges, self.spec.image_size, (self.seed, epoch, int(index))) for index in indices]
        return (*paths, *(list(column) for column in zip(*draws, strict=True)))

    def _to_torch(self, indices: NDArray[np.int64], images: TensorListCPU, masks: TensorListCPU) -> Batch:
        """Copies out of the pipeline's buffers, which the next run overwrites."""
        index = torch.from_numpy(indices)
        image = torch.from_dlpack(images.as_tensor()).clone()
        mask = torch.from_dlpack(masks.as_tensor()).squeeze(-1).long()
        return Batch(image, mask, self.labels[index], index)


@pipeline_def(enable_conditionals=True)
def training_pipeline(
    columns: Iterable[Columns], spec: Preprocessing, augment: bool, device: Device
) -> tuple[DataNode, DataNode]:
    """Image (3, S, S) FLOAT and mask (S, S, 1) UINT8 from `columns`, batches of the graph's inputs."""
    dtypes = [types.UINT8, types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT]
    layouts = ["", "", "", "", "HWC"]
    count = 5 if augment else 2
    inputs = fn.external_source(columns, num_outputs=count, dtype=dtypes[:count], layout=layouts[:count])
    image = decode(fn.io.file.read(inputs[0]), spec.image_size, device)
    mask = fn.decoders.image(fn.io.file.read(inputs[1]), output_type=types.GRAY)
    if augment:
        image = warp_image(image, inputs[2], spec.image_size, device)
        image = jitter_colour(image, inputs[3], inputs[4], device)
        mask = warp_mask(mask, inputs[2], spec.image_size, device)
    else:
        mask = fn.resize(place(mask, device), size=(spec.image_size, spec.image_size), interp_type=types.INTERP_NN)
    return normalise(image, spec), mask


def _path_bytes(path: Path) -> NDArray[np.uint8]:
    return np.frombuffer(os.fsencode(path), dtype=np.uint8)
