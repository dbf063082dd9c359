"""Run a network's file on this CPU, in the one form that is verified, timed, benchmarked and served.

Two runtimes that read the same file can compute differently, and so can one runtime at two shapes: OpenVINO 2026.4 has
fusions of its own for static shapes. Build and server therefore open a file with this class, and a repository carries
the name of the execution that its network was verified in.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Outputs = dict[str, NDArray[Any]]

# A runtime and what it may compute in. OpenVINO's "f32" and "bf16" are its precision hints, and "onnxruntime literal"
# computes node by node what the file says. FP8 needs it: the runtime's fusions take its Q/DQ for INT8's.
EXECUTIONS = ("openvino f32", "openvino bf16", "onnxruntime", "onnxruntime literal")


class InputError(ValueError):
    """Report a normalised image that no network can be run on, in one line.

    reason: short name of the fault, by which a server counts refused images.
    """

    reason = "not_finite"


class Session(Protocol):
    """Run one image at a time in one runtime."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the outputs' shapes without the batch axis by name, in the order of the file."""

    def infer(self, image: NDArray[np.float32], names: Collection[str]) -> Mapping[str, NDArray[np.generic]]:
        """Map (1, 3, S, S) to at least the named outputs, (1, ...) each, which the next call may overwrite."""


class Network:
    """Infer with a network's file, one image at a time.

    outputs: names of what it can return, in the order of the file.
    """

    def __init__(self, file: Path | bytes, execution: str, threads: int = 0, *, weights: bytes = b"") -> None:
        """Compile the network for this CPU.

        Args:
            file: an `.onnx` file or OpenVINO's `.xml`, or the bytes of either.
            execution: one of `EXECUTIONS`.
            threads: 0 takes every core.
            weights: content of the `.bin` of an `.xml` that is given as bytes.
        """
        self._session = _open(file, execution, threads, weights)
        self.outputs = tuple(self._session.shapes)

    def __call__(
        self, images: Iterable[NDArray[np.float32]], rows: int, wanted: Collection[str] | None = None
    ) -> Outputs:
        """Infer a batch, taking its images one by one, so that no row can affect another.

        Args:
            images: `rows` images, each (3, S, S) FP32.
            rows: size of the batch.
            wanted: names of the outputs to return, None for all.

        Returns:
            Each wanted output, (rows, ...).

        Raises:
            InputError: an image holds NaN or infinity.
        """
        names = [name for name in self.outputs if wanted is None or name in wanted]
        stacked: Outputs = {}
        for row, image in enumerate(images):
            check_finite(image[None], row)
            # A batch gains nothing on a CPU, and with a fixed shape the runtime plans its memory ahead.
            results = self._session.infer(image[None], names)
            for name in names:
                if row == 0:
                    stacked[name] = np.empty((rows, *self._session.shapes[name]), results[name].dtype)
                # Copied at once: a result may be a view of memory that the next inference overwrites.
                stacked[name][row] = results[name][0]
        return stacked


def check_finite(images: NDArray[np.float32], first: int = 0) -> None:
    """Raise InputError where normalised images hold NaN or infinity, which would spread to every answer.

    Args:
        images: (B, 3, S, S).
        first: number of the first of them in its batch.
    """
    finite = np.isfinite(images)
    if not finite.all():
        bad = np.count_nonzero(~finite, axis=(1, 2, 3))
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"images must be finite; number {first + row} of the batch holds {bad[row]} NaN or infinities")


def _open(file: Path | bytes, execution: str, threads: int, weights: bytes) -> Session:
    if execution not in EXECUTIONS:
        raise ValueError(f"execution must be one of {', '.join(EXECUTIONS)}, got {execution!r}")
    runtime, _, computed = execution.partition(" ")
    # Each runtime is imported where it is wanted: a worker loads one of them, and each takes 40 MB.
    if runtime == "openvino":
        from deploy.network.openvino_session import OpenVinoSession

        return OpenVinoSession(file, computed, threads, weights)
    from deploy.network.onnx_session import OnnxSession

    return OnnxSession(file, threads, literal=computed == "literal")
