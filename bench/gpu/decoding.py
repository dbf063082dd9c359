"""Time the serving graph's decoding on the GPU next to the CPU, from the bytes of JPEG files to normalised tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.gpu.session import Row, Session
from bench.gpu.timing import Timing
from bench.photographs import photograph_folder
from data_pipeline import Preprocessing
from data_pipeline.graph import Device
from data_pipeline.serving import serving_pipeline
from deploy.verify.turns import Rounds, take_turns, timed

TABLE = "decoding"
INPUT = "encoded"
SPEC = Preprocessing(image_size=224)
# Of normalised values, in the mean: the hardware's inverse cosine transform rounds differently from the CPU's.
TOLERANCE = 0.02
THREADS = 4
DEVICES: tuple[Device, ...] = ("gpu", "cpu")


def decode(session: Session, batches: Sequence[int] = (1, 8, 32), devices: Sequence[Device] = DEVICES) -> None:
    """Measure batches of 1024x768 photographs. The devices take turns."""
    files = [np.fromfile(file, np.uint8) for file in sorted(photograph_folder("1024x768").glob("*.jpg"))]
    for batch in batches:
        encoded = [files[index % len(files)] for index in range(batch)]
        runs = {device: _opened(device, encoded) for device in devices}
        expected = _opened("cpu", encoded)()
        case = f"1024x768 JPEG to {SPEC.image_size} px, batch {batch}"
        right: dict[Device, float] = {}
        for device, run in runs.items():
            difference = float(np.abs(run() - expected).mean())
            if difference > TOLERANCE:
                reason = f"it differs by {difference:.3f} in the mean, and {TOLERANCE} is right"
                session.write(Row(table=TABLE, case=case, contender=_name(device)).without_time("wrong", reason))
            else:
                right[device] = difference
        times = take_turns({device: timed(runs[device]) for device in right}, Rounds(seconds=5), print)
        for device, difference in right.items():
            timing = Timing(microseconds=sorted(1e6 * one for one in times[device]))
            figures = {"images/s": 1e6 * batch / timing.median, "mean difference": difference}
            row = Row(table=TABLE, case=case, contender=_name(device), figures=figures)
            session.write(row.with_time(timing, session.clocks()))


def _name(device: str) -> str:
    return f"DALI on the {device.upper()}" + (f", {THREADS} threads" if device == "cpu" else "")


def _opened(device: Device, encoded: Sequence[NDArray[np.uint8]]) -> Callable[[], NDArray[np.float32]]:
    """Return what decodes a batch to (B, 3, S, S) in the host's memory."""
    pipeline: Any = serving_pipeline(
        SPEC,
        INPUT,
        device,
        batch_size=len(encoded),
        num_threads=THREADS,
        # None keeps DALI from looking for a GPU.
        device_id=torch.cuda.current_device() if device == "gpu" else None,
        prefetch_queue_depth=1,
    )
    pipeline.build()

    def run() -> NDArray[np.float32]:
        (images,) = pipeline.run(**{INPUT: list(encoded)})
        # The copy to the host waits for the GPU. Both sides make one.
        return np.array(images.as_cpu().as_array())

    return run
