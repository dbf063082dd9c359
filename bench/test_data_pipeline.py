"""Compare our training pipeline with PyTorch DataLoaders over OpenCV and PIL, and time the serving path.

Every epoch runs in a fresh process with the same two threads or workers. Its time is that of one image, and
`extra_info` holds the medians of the other figures.
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from bench import OUTPUT
from bench.loader_worker import photographs
from bench.photographs import SIZES, photograph_folder
from bench.turns import Turn
from data_pipeline import Preprocessing, Preprocessor
from data_pipeline.prepare import prepare
from deploy.verify.turns import Operation, Rounds, timed

SAMPLES = {"1024x768": 128, "3000x2000": 32}  # an epoch, in which the files repeat
# By the names of `bench.loader_worker`. A peer is a PyTorch DataLoader.
LOADERS = {
    "ours-prepared": "dali-prepared",
    "ours-jpeg": "dali",
    "torch-opencv": "opencv",
    "torch-opencv-reduced": "opencv-reduced",
    "torch-pil": "pil",
}
SCALES = {f"batch-{size}-threads-{threads}": (size, threads) for size, threads in ((4, 1), (16, 1), (16, 2), (64, 2))}
PREPARED = 512
# An epoch takes seconds, and warms up by itself.
FEW_EPOCHS = Rounds(fewest=3, seconds=0, warm_up=0)


def measure(kind: str, folder: Path, **options: int) -> dict[str, float]:
    """Return the figures of one loader, taken in a fresh process."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "bench.loader_worker", "--kind", kind, "--folder", str(folder), *flags]
    # NumPy's and PIL's operations shall not use more cores than the workers are.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    # Libraries may print while they are loaded. The figures come last.
    figures: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return figures


@dataclass
class Epoch:
    """Time an epoch of one loader, in a fresh process each time.

    runs: the figures of every epoch.
    """

    kind: str
    folder: Path
    options: dict[str, int]
    runs: list[dict[str, float]] = field(default_factory=list)

    def __call__(self) -> float:
        """Return the seconds that one image took."""
        self.runs.append(measure(self.kind, self.folder, **self.options))
        return 1 / self.runs[-1]["images_per_second"]

    def medians(self) -> dict[str, float]:
        """Return the median of every figure."""
        return {name: statistics.median(run[name] for run in self.runs) for name in self.runs[0]}


def prepared_folder(source: str) -> Path:
    """Prepare samples of the photographs and return their folder."""
    folder = OUTPUT / f"{source}-prepared"
    prepare(photographs(photograph_folder(source), PREPARED), 224, folder / "train")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("contender", LOADERS)
@pytest.mark.parametrize("source", SIZES)
def test_loaders(turn: Turn, source: str, contender: str) -> None:
    """Compare our loader on JPEG files, on the same files prepared, and the peers on the files."""

    def opened(name: str) -> Epoch:
        folder = prepared_folder(source) if name == "ours-prepared" else photograph_folder(source)
        return Epoch(LOADERS[name], folder, {"samples": SAMPLES[source]})

    openers = {name: partial(opened, name) for name in LOADERS}
    epoch = turn.measure(f"loading, an image of {source}", openers, FEW_EPOCHS)
    turn.benchmark.extra_info.update(epoch.medians())


@pytest.mark.slow
@pytest.mark.parametrize("contender", SCALES)
def test_scaling(turn: Turn, contender: str) -> None:
    """Run our pipeline over batch sizes and threads, on 1024x768 JPEGs."""

    def opened(name: str) -> Epoch:
        batch_size, workers = SCALES[name]
        return Epoch("dali", photograph_folder("1024x768"), {"batch_size": batch_size, "workers": workers})

    epoch = turn.measure("loading, batches and threads", {name: partial(opened, name) for name in SCALES}, FEW_EPOCHS)
    turn.benchmark.extra_info.update(epoch.medians())


@pytest.mark.parametrize("contender", SIZES)
def test_serving_preprocessing(turn: Turn, contender: str) -> None:
    """Turn one JPEG's bytes into the network's input, in process, with one thread."""

    def opened(source: str) -> Operation:
        data = (photograph_folder(source) / "0.jpg").read_bytes()
        preprocess = Preprocessor(Preprocessing(image_size=224, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
        assert preprocess(data).shape == (3, 224, 224)
        return timed(lambda: preprocess(data))

    turn.measure("preprocessing, one thread", {source: partial(opened, source) for source in SIZES})
