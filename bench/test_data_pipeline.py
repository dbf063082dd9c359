"""Compare our training pipeline with PyTorch DataLoaders over OpenCV and PIL, and time the serving path.

Every figure comes from a fresh process with the same two threads or workers. The loaders alternate within a round, so
that a change of the machine's load meets all of them. `extra_info` holds the medians.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.loader_worker import photographs
from data_pipeline import Preprocessing, Preprocessor
from data_pipeline.prepare import prepare
from data_pipeline.sources.synthetic import skin

CACHE = Path("build/bench")
SIZES = {"1024x768": (768, 1024, 24), "3000x2000": (2000, 3000, 8)}  # height, width, files
SAMPLES = {"1024x768": 128, "3000x2000": 32}  # an epoch, in which the files repeat
LOADERS = ("dali", "opencv", "opencv-reduced", "pil")
PREPARED = 512
ROUNDS = 3


def photograph_folder(name: str) -> Path:
    """Make JPEG files and PNG masks of this size, once, and return their folder."""
    height, width, count = SIZES[name]
    folder = CACHE / name
    # The last file made stands for all of them.
    if not (folder / f"{count - 1}.png").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            rng = np.random.default_rng((index, height))
            image, mask, _ = skin.generate(rng)
            large = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), np.int16)
            # Smooth images have few coefficients. Noise makes them as hard to decode as photographs.
            noisy = np.clip(large + rng.integers(-6, 7, large.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{index}.jpg", quality=90)
            Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST).save(folder / f"{index}.png")
    return folder


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


def medians(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the median over the rounds of every loader's figures."""
    return {
        kind: {name: statistics.median(one[kind][name] for one in rounds) for name in rounds[0][kind]}
        for kind in rounds[0]
    }


@pytest.mark.slow
@pytest.mark.parametrize("source", ["1024x768", "3000x2000"])
def test_loaders(benchmark: Any, source: str) -> None:
    """Compare our loader on JPEG files, on the same files prepared, and the peers on the files."""
    files = photograph_folder(source)
    prepared = CACHE / f"{source}-prepared"
    prepare(photographs(files, PREPARED), 224, prepared / "train")
    jobs = [*((kind, files) for kind in LOADERS), ("dali-prepared", prepared)]
    rounds: list[dict[str, dict[str, float]]] = []

    def alternate() -> None:
        rounds.append({kind: measure(kind, folder, samples=SAMPLES[source]) for kind, folder in jobs})

    benchmark.pedantic(alternate, rounds=ROUNDS, iterations=1)
    benchmark.extra_info |= medians(rounds)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "workers"), [(4, 1), (16, 1), (16, 2), (64, 2)])
def test_scaling(benchmark: Any, batch_size: int, workers: int) -> None:
    """Run our pipeline over batch sizes and threads, on 1024x768 JPEGs."""
    folder = photograph_folder("1024x768")
    options = {"batch_size": batch_size, "workers": workers}
    figures = benchmark.pedantic(measure, ("dali", folder), options, rounds=1, iterations=1)
    benchmark.extra_info |= figures | options


@pytest.mark.parametrize("source", SIZES)
def test_serving_preprocessing(benchmark: Any, source: str) -> None:
    """Turn one JPEG's bytes into the network's input, in process, with one thread."""
    data = (photograph_folder(source) / "0.jpg").read_bytes()
    preprocess = Preprocessor(Preprocessing(image_size=224, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
    assert benchmark(preprocess, data).shape == (3, 224, 224)
