"""Preprocessing outside of training: in process for one image, and serialised for the server's DALI backend."""

from pathlib import Path

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def

from data_pipeline.graph.preprocess import Device, preprocess
from data_pipeline.image_header import MAX_PIXELS, ImageError, check_header
from data_pipeline.spec import Preprocessing


class Preprocessor:
    """Bytes of one image file -> (3, S, S) float32, by the shared graph on the CPU.

    max_pixels: width times height above which a file is refused before it is decoded.
    """

    def __init__(self, spec: Preprocessing, *, max_pixels: int = MAX_PIXELS, threads: int = 1) -> None:
        self.spec, self.max_pixels, self.threads = spec, max_pixels, threads
        self._pipeline = self._build()

    def __call__(self, data: bytes) -> NDArray[np.float32]:
        """Raises ImageError for anything but a whole JPEG, PNG or TIFF of at most `max_pixels`; the next call works."""
        check_header(data, self.max_pixels)
        try:
            (images,) = self._pipeline.run(encoded=[np.frombuffer(data, dtype=np.uint8)])
        except RuntimeError as error:
            # a pipeline that has failed once fails for ever; a new one costs about as much as decoding one image
            self._pipeline = self._build()
            message = "the image is damaged or of an unsupported kind: it could not be decoded"
            raise ImageError(message, "damaged") from error
        return np.array(np.from_dlpack(images.as_tensor())[0])

    def _build(self) -> Pipeline:
        pipeline = serving_pipeline(
            self.spec, "encoded", "cpu", batch_size=1, num_threads=self.threads, device_id=None, prefetch_queue_depth=1
        )
        pipeline.build()
        return pipeline


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def serving_pipeline(spec: Preprocessing, input_name: str, device: Device) -> DataNode:
    """`input_name`: bytes of an image file (UINT8, 1-D) -> (3, S, S) FLOAT."""
    encoded = fn.external_source(name=input_name, dtype=types.UINT8, ndim=1)
    return preprocess(encoded, spec, device)


def serialize_serving(
    path: Path, spec: Preprocessing, *, input_name: str, max_batch: int, device: Device, threads: int = 4
) -> None:
    """Write the serving graph as the `model.dali` of the server's DALI backend.

    The backend gives the pipeline its device when it loads it, so "gpu" is written on a machine without one too.
    """
    pipeline = serving_pipeline(
        spec,
        input_name,
        device,
        batch_size=max_batch,
        num_threads=threads,
        device_id=None,
        output_dtype=types.FLOAT,
        output_ndim=3,
    )
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(pipeline.serialize())
    temporary.replace(path)
