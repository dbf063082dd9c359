"""The training pipeline: one epoch of augmented batches as torch tensors, every sample exactly once."""

import ctypes
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali.backend import TensorListCPU
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack

from data_pipeline.graph.augment import COLOUR, GREY, draw
from data_pipeline.graph.preprocess import Device
from data_pipeline.graph.reduced_jpeg import read_reduced
from data_pipeline.graph.training import NO_PIXELS, Columns, path_bytes, training_pipeline
from data_pipeline.records import DataError, Dataset
from data_pipeline.scan import examine
from data_pipeline.sources.prepared import load_pixels
from data_pipeline.spec import Preprocessing

Sample = tuple[NDArray[np.generic], ...]
MALLOC_TRIM = ctypes.CDLL(None).malloc_trim
PREFETCH = 2  # batches that the threads, and after them the graph, work ahead


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
        self.ranges = (GREY if dataset.grey else COLOUR) if augment else None
        self.shuffle, self.seed, self.threads, self.shard, self.device = shuffle, seed, threads, shard, device
        self.epoch, self.position = 0, 0
        self.prepared = load_pixels(dataset.prepared, spec.image_size) if dataset.prepared else None
        self.labels = torch.tensor([record.labels for record in dataset.records], dtype=torch.float32)

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[Batch]:
        """A fresh pipeline an epoch costs milliseconds and forgets whatever a failed epoch left behind."""
        epoch, batches = self.epoch, self._batches()[self.position :]
        pipeline = self._build(epoch, batches)
        try:
            for number, indices in enumerate(batches):
                try:
                    outputs = pipeline.run()
                except RuntimeError as error:
                    raise self._explain(batches[number:], error) from error
                self._advance()
                if self.prepared:
                    self.prepared.release()
                yield self._to_torch(indices, *outputs)
        finally:
            # glibc keeps what the pipeline's threads have freed: without this, memory grows by 40 MB an epoch at first
            del pipeline
            MALLOC_TRIM(0)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch stands; all that a resumed run needs, because the randomness has no other state."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def _explain(self, remaining: list[NDArray[np.int64]], error: RuntimeError) -> Exception:
        """The unreadable files among the batches DALI may have been working on; `error` itself if all are readable."""
        records = [self.dataset.records[index] for indices in remaining[:4] for index in indices]
        reasons = zip(records, examine(records, len(self.dataset.seg_classes), self.threads), strict=True)
        bad = "; ".join(f"{record.image}: {reason}" for record, reason in reasons if reason)
        return DataError(f"training met unreadable samples (--skip-bad leaves them out): {bad}") if bad else error

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
            self._columns(epoch, batches),
            self.spec,
            self.ranges,
            self.device,
            batch_size=self.batch_size,
            num_threads=self.threads,
            prefetch_queue_depth=PREFETCH,
            device_id=torch.cuda.current_device() if self.device == "gpu" else None,
        )
        pipeline.build()
        return pipeline

    def _columns(self, epoch: int, batches: list[NDArray[np.int64]]) -> Iterator[Columns]:
        """The graph's inputs batch by batch, made by threads that keep `PREFETCH` batches under way."""
        pool = ThreadPoolExecutor(self.threads)
        ahead: deque[list[Future[Sample]]] = deque()
        try:
            for indices in batches:
                ahead.append([pool.submit(self._sample, epoch, int(index)) for index in indices])
                if len(ahead) == PREFETCH:
                    yield _transpose(ahead.popleft())
            for samples in ahead:
                yield _transpose(samples)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _sample(self, epoch: int, index: int) -> Sample:
        """The graph's inputs for one record, in the order `training_graph` lists them."""
        record, size = self.dataset.records[index], self.spec.image_size
        image, mask = self._pixels(index)
        files = path_bytes(record.image), path_bytes(record.mask)
        if self.ranges is None:
            return (*files, image, mask)
        return (*files, image, mask, *draw(self.ranges, size, (self.seed, epoch, index)))

    def _pixels(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Pixels that need no decoding by DALI: views of the prepared files, or a JPEG decoded at reduced size."""
        if self.prepared is not None:
            return self.prepared.images[index], self.prepared.masks[index]
        image = self.dataset.records[index].image
        return NO_PIXELS if self.ranges is None else read_reduced(image, self.spec.image_size), NO_PIXELS

    def _to_torch(self, indices: NDArray[np.int64], images: TensorListCPU, masks: TensorListCPU) -> Batch:
        """The image is copied: a batch may outlive its pipeline, whose buffers it would otherwise share."""
        index = torch.from_numpy(indices)
        image = from_dlpack(images.as_tensor()).clone()
        mask = from_dlpack(masks.as_tensor()).squeeze(-1).long()
        return Batch(image, mask, self.labels[index], index)


def _transpose(samples: list[Future[Sample]]) -> Columns:
    return tuple(list(column) for column in zip(*(sample.result() for sample in samples), strict=True))
