"""Choose the convolutions of an OpenVINO engine that are faster in Winograd's form, by timing both forms here.

Which form is faster depends on the processor and on the number of threads, and on nothing that is known beforehand.
"""

import json
import math
import random
import time
from pathlib import Path
from statistics import median

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from data_pipeline.cores import processor
from data_pipeline.files import code_version, write_whole
from deploy.engines.base import Progress
from deploy.network import winograd
from deploy.network.openvino_session import compile_model
from deploy.network.winograd import Shape

WORTHWHILE = 0.9  # of the plain convolution's time: a smaller gain does not pay for weights of four times the size
FEWEST, MOST = 7, 31  # rounds


class Choices:
    """Remember in a file for which shapes Winograd's form was faster with this processor, runtime and threads."""

    def __init__(self, file: Path | None, threads: int) -> None:
        """Read what was chosen before. A damaged file costs no more than new timings."""
        self._file = file
        code = code_version(__file__, *map(str, winograd.SOURCES))
        here = f"{processor()}, {winograd.instructions()}, {threads} threads"
        self._key = f"{here}, OpenVINO {openvino.__version__}, code {code}"
        try:
            self._all = json.loads(file.read_text(encoding="utf-8")) if file else {}
            self._own = {str(name): bool(faster) for name, faster in self._all.get(self._key, {}).items()}
        except (OSError, ValueError, AttributeError):
            self._all, self._own = {}, {}

    def get(self, shape: Shape) -> bool | None:
        """Return whether Winograd's form is faster, or None where that is not known."""
        return self._own.get(str(tuple(shape)))

    def set(self, shape: Shape, faster: bool) -> None:
        """Remember a choice. Raises OSError where the file cannot be written."""
        self._own[str(tuple(shape))] = faster
        if self._file:
            write_whole(self._file, json.dumps({**self._all, self._key: self._own}, indent=2) + "\n")


def mark_faster(model: openvino.Model, threads: int, progress: Progress, cache: Path | None = None) -> int:
    """Mark the convolutions that are faster in Winograd's form here, and return their number.

    Args:
        model: in float32.
        threads: that the model will run with. 0 takes every core.
        progress: told which convolution is timed.
        cache: file that keeps the choices for the next build.
    """
    if reason := winograd.reason_against():
        progress(f"Winograd's form is left out: {reason}", 0.0)
        return 0
    candidates, choices = list(winograd.candidates(model)), Choices(cache, threads)
    # The blocks of a stage repeat one shape, which is timed once.
    shapes = list(dict.fromkeys(candidate.shape for candidate in candidates))
    faster = set()
    for index, shape in enumerate(shapes):
        progress(f"timing 3x3 convolutions of {shape.c_in} channels at {shape.side} px", index / len(shapes))
        if (known := choices.get(shape)) is None and (known := winograd_is_faster(shape, threads)) is not None:
            choices.set(shape, known)
        if known:
            faster.add(shape)
    names = [candidate.node.get_friendly_name() for candidate in candidates if candidate.shape in faster]
    winograd.mark(model, names)
    return len(names)


def winograd_is_faster(shape: Shape, threads: int) -> bool | None:
    """Time both forms on random values of one image until one of them is shown to be worth its weights.

    Returns None where the machine is too busy to tell. The plain form is then the one to take.
    """
    image = np.random.default_rng(1).standard_normal((1, shape.c_in, shape.side, shape.side), np.float32)
    forms = [compiled_form(shape, threads, marked=marked) for marked in (False, True)]
    order, ratios = random.Random(0), list[float]()
    for request in forms:
        request.infer([image])  # warms up
    while len(ratios) < MOST:
        plain, transformed = _seconds(forms, image, order)
        ratios.append(transformed / plain)
        if len(ratios) >= FEWEST and decided(ratios):
            return median(ratios) < WORTHWHILE
    return None


def compiled_form(shape: Shape, threads: int, *, marked: bool) -> openvino.InferRequest:
    """Compile one form of a convolution, with a ReLU behind it as most of the network's convolutions have."""
    weight = np.random.default_rng(0).standard_normal((shape.c_out, shape.c_in, 3, 3), np.float32)
    image = ops.parameter([1, shape.c_in, shape.side, shape.side], np.float32)
    around = [shape.dilation, shape.dilation]
    out = ops.convolution(image, ops.constant(weight), [1, 1], around, around, around)
    model = openvino.Model([ops.relu(out)], [image])
    if marked:
        winograd.mark(model, [out.get_friendly_name()])
    return compile_model(model, "f32", threads).create_infer_request()


def decided(ratios: list[float]) -> bool:
    """Tell whether the rounds agree on which side of `WORTHWHILE` the ratio lies."""
    # A coin that is thrown n times shows heads n/2 times, give or take the root of n (two standard deviations). The
    # size of a ratio plays no part: one round beside another process says nothing in any number.
    wins = sum(ratio < WORTHWHILE for ratio in ratios)
    return abs(wins - len(ratios) / 2) > math.sqrt(len(ratios))


def _seconds(
    requests: list[openvino.InferRequest], image: NDArray[np.float32], order: random.Random
) -> tuple[float, ...]:
    """Run every request once, in random order, and return the seconds of each."""
    seconds = [0.0] * len(requests)
    for index in order.sample(range(len(requests)), len(requests)):
        start = time.perf_counter()
        requests[index].infer([image])
        seconds[index] = time.perf_counter() - start
    return tuple(seconds)
