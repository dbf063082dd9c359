"""Preprocess images outside of training: one at a time in process, or in the server's DALI backend."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def

from data_pipeline.files import write_whole
from data_pipeline.graph import Device, as_input, preprocess
from data_pipeline.image_file import decodable
from data_pipeline.image_header import MAX_PIXELS, UNDECODABLE, ImageError
from data_pipeline.spec import Preprocessing

SERVER_THREADS = 4  # of DALI in NVIDIA's server


class Preprocessor:
    """Map the bytes of one image file to the network's input, with the shared graph on the CPU.

    Args:
        spec: size and normalisation of the result.
        max_pixels: number of pixels above which a file is refused before it is decoded.
        threads: of DALI.
    """

    def __init__(self, spec: Preprocessing, *, max_pixels: int = MAX_PIXELS, threads: int = 1) -> None:
        self.spec, self.max_pixels, self.threads = spec, max_pixels, threads
        self._pipeline = self._build()

    def __call__(self, data: bytes) -> NDArray[np.float32]:
        """Preprocess one image file.

        Args:
            data: bytes of a JPEG, PNG or TIFF file.

        Returns:
            (3, S, S) normalised values.

        Raises:
            ImageError: the file is no such image, is damaged or has more than `max_pixels`. The next call works.
        """
        # First, because a file that claims huge dimensions, or is in doubt, must not reach DALI.
        file = decodable(data, max_pixels=self.max_pixels, white_level=self.spec.white_level)
        try:
            (images,) = self._pipeline.run(encoded=[as_input(file)])
        except RuntimeError as error:
            # A pipeline that has failed once fails always. A new one costs about as much as decoding one image.
            self._pipeline = self._build()
            raise ImageError(UNDECODABLE, "damaged") from error
        # Copied, because the pipeline reuses its buffers.
        return np.array(np.from_dlpack(images.as_tensor())[0])

    def _build(self) -> Pipeline:
        # A queue deeper than 1 would compute ahead, and here there is nothing ahead of the one image.
        pipeline = serving_pipeline(
            self.spec, "encoded", "cpu", batch_size=1, num_threads=self.threads, device_id=None, prefetch_queue_depth=1
        )
        pipeline.build()
        return pipeline


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def serving_pipeline(spec: Preprocessing, input_name: str, device: Device, max_pixels: int | None = None) -> DataNode:
    """Build the graph from image files to the network's input.

    Args:
        spec: size and normalisation of the result.
        input_name: name of the graph's input: bytes of an image file, UINT8, 1-D.
        device: where the images are computed.
        max_pixels: number of pixels above which the graph itself fails before it decodes. None leaves that to a caller.

    Returns:
        (3, S, S) FLOAT.
    """
    encoded = fn.external_source(name=input_name, dtype=types.UINT8, ndim=1)
    if max_pixels is not None:
        encoded = refuse_above(encoded, max_pixels)
    return preprocess(encoded, spec, device)


def refuse_above(encoded: DataNode, max_pixels: int) -> DataNode:
    """Return an image file's bytes, or fail where its header claims more than `max_pixels` pixels."""
    height_width = fn.cast(fn.peek_image_shape(encoded), dtype=types.INT64)
    too_many = height_width[0] * height_width[1] > max_pixels
    # DALI has no operator that fails on purpose, and Python does not run in its backend: one byte more is asked for
    # than the file has.
    end = fn.cast(encoded.shape()[0], dtype=types.INT32) + fn.cast(too_many, dtype=types.INT32)
    return fn.slice(encoded, start=0, end=end, axes=[0], out_of_bounds_policy="error")


def serialize_serving(path: Path, spec: Preprocessing, *, input_name: str, max_batch: int, device: Device) -> None:
    """Write the serving graph as the `model.dali` of the server's DALI backend.

    It fails on images of more than `MAX_PIXELS` pixels before it decodes them.

    Args:
        path: file to write.
        spec: size and normalisation of the result.
        input_name: name of the served input.
        max_batch: largest batch that the server may send.
        device: "gpu" is written on a machine without a GPU too.
    """
    with _without_traces():
        pipeline = serving_pipeline(
            spec,
            input_name,
            device,
            MAX_PIXELS,
            batch_size=max_batch,
            num_threads=SERVER_THREADS,
            # The backend gives the pipeline its device when it loads it.
            device_id=None,
            # The backend needs the type and rank of the output in the file.
            output_dtype=types.FLOAT,
            output_ndim=3,
        )
        write_whole(path, pipeline.serialize())


@contextmanager
def _without_traces() -> Iterator[None]:
    """Keep DALI from writing the source lines of each operator, which name folders of this machine, into the graph.

    Its backend would show them to clients with every image that cannot be decoded.
    """
    # DALI has no public switch for it. Imported here, so that nothing else depends on this one.
    from nvidia.dali._utils import dali_trace

    enabled = dali_trace.is_tracing_enabled()
    dali_trace.set_tracing(enabled=False)
    try:
        yield
    finally:
        dali_trace.set_tracing(enabled=enabled)
