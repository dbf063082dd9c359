"""Load training batches: one epoch of augmented samples as torch tensors, every sample exactly once."""

import ctypes
import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali.backend import TensorListCPU
from nvidia.dali.pipeline import Pipeline
from PIL import Image, ImageOps
from torch.utils.dlpack import from_dlpack

from data_pipeline.cores import cores
from data_pipeline.dicom import picture_file
from data_pipeline.graph import Device, as_input
from data_pipeline.graph.augmentation import Strength, choose_ranges, draw_parameters
from data_pipeline.graph.training import NO_FILE, NO_PIXELS, Columns, input_names, training_pipeline
from data_pipeline.image_file import decodable
from data_pipeline.image_header import ImageError
from data_pipeline.records import DataError, Dataset
from data_pipeline.scan import examine
from data_pipeline.sources.prepared import load_pixels
from data_pipeline.spec import Preprocessing

Sample = tuple[NDArray[np.generic], ...]
MOST_OFTEN = 3.0  # visits of an image of the smallest lesions, for one of an image of large ones
PREFETCH = 2  # batches that the threads work ahead of the graph, and that the graph works ahead of its caller


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Hold the samples of one step.

    image: (B, 3, S, S) float32, normalised.
    mask: (B, S, S) int64 class indices.
    labels: (B, C) float32, 0 or 1.
    index: (B,) int64 indices into the data set's records.
    """

    image: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


class TrainingLoader:
    """Iterate over the batches of one epoch after another.

    Each new iteration is the next epoch, with its own order and augmentation. A sample depends only on (seed, epoch,
    index, how often the epoch has had it before): the number of threads, the batch size and the shards change nothing.
    An epoch that was left in the middle is continued by the next iteration, in another process after `load_state_dict`.

    Args:
        dataset: the samples.
        spec: size and normalisation of the images.
        batch_size: samples a batch. The last batch of an epoch may be smaller.
        augment: whether to augment.
        shuffle: whether to visit the samples in random order.
        augmentation: how to augment. "auto" is by what the data set's images show.
        oversample_small: whether an epoch, which stays as long, has images of small lesions or fluids more often, up to
            `MOST_OFTEN` times as often as those of large ones (see `oversampling_weights`).
        seed: of the order and of the augmentation.
        threads: of DALI, and as many that read and draw its inputs. None is this process's share of the machine.
        shard: (number, count), to load only every `count`-th sample from `number` on.
        device: where DALI decodes and augments.

    Raises:
        DataError: the data set was prepared for another image size, the sizes of its masks are needed and not known or,
            in an iteration, a file cannot be read.
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
        augmentation: Strength = "auto",
        oversample_small: bool = False,
        threads: int | None = None,
        shard: tuple[int, int] = (0, 1),
        device: Device = "cpu",
    ) -> None:
        self.dataset, self.spec, self.batch_size = dataset, spec, batch_size
        self.ranges = choose_ranges(dataset, augmentation) if augment else None
        self.weights = oversampling_weights(dataset) if oversample_small else None
        self.shuffle, self.seed, self.shard, self.device = shuffle, seed, shard, device
        self.threads = threads or share_of_cores()
        self.epoch, self.position = 0, 0
        self.pixels = load_pixels(dataset.prepared, spec.image_size) if dataset.prepared else None
        self.labels = torch.tensor([record.labels for record in dataset.records], dtype=torch.float32)

    def __len__(self) -> int:
        number, shards = self.shard
        return -(-len(range(number, len(self.dataset.records), shards)) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches of the current epoch."""
        epoch, batches = self.epoch, self._batches()[self.position :]
        # A new pipeline an epoch costs milliseconds, and nothing of an epoch that failed stays behind in it.
        pipeline = self._build(epoch, batches)
        try:
            for number, places in enumerate(batches):
                try:
                    outputs = pipeline.run()
                # The threads that read files raise the other two.
                except (RuntimeError, ImageError, OSError) as error:
                    raise self._explain(batches[number:], error) from error
                # Before the yield: a caller that saves the state while it uses a batch continues with the next one.
                self._advance()
                if self.pixels:
                    self.pixels.release()
                yield self._to_torch(places[:, 0], *outputs)
        finally:
            # Deleted first, so that what the pipeline frees is given back as well.
            del pipeline
            _return_freed_memory()

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next batch, which is all that a resumed run needs.

        The randomness has no other state, because it depends only on the seed, the epoch and the samples.
        """
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def _explain(self, remaining: list[NDArray[np.int64]], error: Exception) -> Exception:
        """Name the unreadable files that made an epoch fail, or return `error` if all files are readable.

        DALI's own message names no file, and the batch that it failed on may be any of those it works ahead on.
        """
        ahead = 2 * PREFETCH
        records = [self.dataset.records[index] for places in remaining[:ahead] for index, _ in places]
        findings = zip(records, examine(records, len(self.dataset.seg_classes), self.threads), strict=True)
        bad = "; ".join(f"{record.image}: {finding.reason}" for record, finding in findings if finding.reason)
        return DataError(f"training met unreadable samples (--skip-bad leaves them out): {bad}") if bad else error

    def _advance(self) -> None:
        self.position += 1
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0

    def _batches(self) -> list[NDArray[np.int64]]:
        """Return each batch of the current epoch and this shard: rows of a record's index and its earlier visits."""
        count = len(self.dataset.records)
        # A separate generator for each epoch, so that a resumed run finds the same order without replaying others.
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        if self.weights is not None:
            order = draw_by_weight(rng, order, self.weights)
        # Interleaved, so that the shards differ by one sample at most.
        number, shards = self.shard
        mine = np.column_stack([order, earlier_visits(order)])[number::shards]
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
            # None keeps DALI from looking for a GPU.
            device_id=torch.cuda.current_device() if self.device == "gpu" else None,
        )
        pipeline.build()
        return pipeline

    def _columns(self, epoch: int, batches: list[NDArray[np.int64]]) -> Iterator[Columns]:
        """Yield the graph's inputs of each batch, made by threads that keep `PREFETCH` batches in progress."""
        pool = ThreadPoolExecutor(self.threads)
        ahead: deque[list[Future[Sample]]] = deque()
        try:
            for places in batches:
                ahead.append([pool.submit(self._sample, epoch, int(index), int(visit)) for index, visit in places])
                if len(ahead) == PREFETCH:
                    yield _transpose(ahead.popleft())
            for samples in ahead:
                yield _transpose(samples)
        finally:
            # Also when the epoch is left in the middle: what has not begun is dropped, and nobody waits for the rest.
            pool.shutdown(wait=False, cancel_futures=True)

    def _sample(self, epoch: int, index: int, visit: int) -> Sample:
        """Return the graph's inputs for one record, in the order of `graph.training.input_names`."""
        record, size = self.dataset.records[index], self.spec.image_size
        if self.pixels is not None:
            # Views of prepared files.
            read: Sample = NO_FILE, NO_FILE, self.pixels.images[index], self.pixels.masks[index]
        else:
            file, pixels = self._read_image(record.image.read_bytes())
            read = file, as_input(decodable(record.mask.read_bytes())), pixels, NO_PIXELS
        if self.ranges is None:
            return read
        drawn = draw_parameters(self.ranges, size, (self.seed, epoch, index, visit))
        return *read, *(drawn[name] for name in input_names(self.ranges)[len(read) :])

    def _read_image(self, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the file that DALI is to decode, or the pixels of a JPEG decoded at reduced size on the CPU."""
        white_level = self.spec.white_level
        file = decodable(picture_file(data, white_level), white_level=white_level)
        # Without augmentation the image must be what serving computes, and that decodes at full size. A GPU decodes at
        # full size in less time than a core takes for the reduced one.
        if self.ranges is not None and self.device == "cpu":
            pixels = read_reduced(file, self.spec.image_size)
            if pixels is not NO_PIXELS:
                return NO_FILE, pixels
        return as_input(file), NO_PIXELS

    def _to_torch(self, indices: NDArray[np.int64], images: TensorListCPU, masks: TensorListCPU) -> Batch:
        index = torch.from_numpy(indices)
        # Copied (`long` copies as well): a batch may outlive its pipeline, and would then point into freed buffers.
        image = from_dlpack(images.as_tensor()).clone()
        mask = from_dlpack(masks.as_tensor()).squeeze(-1).long()
        return Batch(image=image, mask=mask, labels=self.labels[index], index=index)


def oversampling_weights(dataset: Dataset) -> NDArray[np.float64]:
    """Return how often each record is to be visited, relative to those whose smallest class is of median size or more.

    The number of visits grows with the inverse root of the size, up to `MOST_OFTEN`. A record without any class counts
    once. Raises DataError where the sizes were not measured.
    """
    measured = [record.smallest for record in dataset.records]
    if None in measured:
        raise DataError(f"{dataset.name}: the sizes of small lesions were not measured; prepare the data again")
    sizes = np.array(measured, np.float64)
    shown = sizes > 0
    middle = np.median(sizes[shown]) if shown.any() else 1.0
    weights: NDArray[np.float64] = np.clip(np.sqrt(middle / np.where(shown, sizes, middle)), 1, MOST_OFTEN)
    return weights


def draw_by_weight(
    rng: np.random.Generator, order: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw as many indices as there are, each as often as its weight says to within one visit, in random order."""
    # Evenly spaced places on the joined weights. Independent draws would leave some out by chance, epoch after epoch.
    ends = np.cumsum(weights[order])
    places = (np.arange(len(order)) + rng.random()) * (ends[-1] / len(order))
    drawn: NDArray[np.int64] = rng.permutation(order[np.searchsorted(ends, places, side="right")])
    return drawn


def earlier_visits(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each place in an order how often its index has come before: 0 everywhere where none is repeated."""
    ranked = np.argsort(order, kind="stable")
    indices = order[ranked]
    # In the sorted order equal indices lie side by side, and each run starts counting anew.
    starts = np.searchsorted(indices, indices)
    visits = np.empty_like(order)
    visits[ranked] = np.arange(len(order)) - starts
    return visits


def share_of_cores() -> int:
    """Return the number of cores that this process may use, divided by the processes that torchrun started here."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def read_reduced(file: bytes, size: int) -> NDArray[np.uint8]:
    """Decode a JPEG file at the smallest of 1/2, 1/4 and 1/8 of its size whose sides are both at least `size`.

    Returns:
        (H, W, 3) RGB, or NO_PIXELS for a file that is no RGB or grey JPEG, is smaller than 2 * size or is damaged.
        DALI then decodes or refuses the file.
    """
    if not file.startswith(b"\xff\xd8"):
        return NO_PIXELS
    try:
        with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
            if min(image.size) < 2 * size or image.mode not in ("RGB", "L"):
                return NO_PIXELS
            # Before any pixel is read, `draft` only chooses the scale at which libjpeg decodes.
            image.draft(image.mode, (size, size))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return NO_PIXELS


def _transpose(samples: list[Future[Sample]]) -> Columns:
    """Turn the samples of a batch into one list for each input, as DALI takes them."""
    return tuple(list(column) for column in zip(*(sample.result() for sample in samples), strict=True))


def _return_freed_memory() -> None:
    """Give freed memory back to the system.

    glibc keeps what the pipeline's threads have freed. Without this, memory grows by 40 MB an epoch at first.
    """
    ctypes.CDLL(None).malloc_trim(0)
