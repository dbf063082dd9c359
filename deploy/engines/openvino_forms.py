"""Choose a form for each 3x3 convolution of an OpenVINO graph by timing both here, and remember what was chosen.

Which form is faster depends on the processor and on the number of threads, and on nothing that is known beforehand.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from data_pipeline.cores import processor
from data_pipeline.files import code_version, write_whole
from deploy.engines import openvino_winograd
from deploy.engines.base import Progress
from deploy.engines.openvino_winograd import convolution

LARGEST_SIDE = 64  # beyond it the dense transforms cost more than the products save
WORTHWHILE = 0.9  # of the plain convolution's time: a smaller gain does not pay for weights of four times the size
FEWEST, MOST = 7, 31  # rounds
CPU_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class Shape(NamedTuple):
    """Describe a 3x3 convolution with stride 1 and padding 1.

    c_out: output channels.
    c_in: input channels.
    side: of its square maps, in pixels.
    """

    c_out: int
    c_in: int
    side: int


class Choices:
    """Remember in a file for which shapes Winograd's form was faster with this processor, runtime and threads."""

    def __init__(self, file: Path | None, threads: int) -> None:
        """Read what was chosen before. A damaged file costs no more than new timings."""
        self._file = file
        code = code_version(__file__, openvino_winograd.__file__)
        self._key = f"{processor()}, {threads} threads, OpenVINO {openvino.__version__}, code {code}"
        try:
            self._all = json.loads(file.read_text()) if file else {}
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


def use_winograd(
    core: openvino.Core, model: openvino.Model, threads: int, progress: Progress, cache: Path | None = None
) -> int:
    """Rewrite, in place, the convolutions that are faster in Winograd's form here, and return their number.

    Args:
        core: what compiles both forms.
        model: in float32.
        threads: that the model will run with.
        progress: told which convolution is timed.
        cache: file that keeps the choices for the next build.
    """
    candidates, choices = list(_candidates(model)), Choices(cache, threads)
    # The blocks of a stage repeat one shape, which is timed once.
    shapes = list(dict.fromkeys(shape for _, shape in candidates))
    faster = set()
    for index, shape in enumerate(shapes):
        progress(f"timing 3x3 convolutions of {shape.c_in} channels at {shape.side} px", index / len(shapes))
        if (known := choices.get(shape)) is None and (known := winograd_is_faster(core, shape, threads)) is not None:
            choices.set(shape, known)
        if known:
            faster.add(shape)
    chosen = [(node, shape) for node, shape in candidates if shape in faster]
    for node, shape in chosen:
        rewritten = convolution(node.input_value(0), _weight(node), shape.side)
        node.output(0).replace(rewritten)
    return len(chosen)


def _candidates(model: openvino.Model) -> Iterator[tuple[openvino.Node, Shape]]:
    """Yield the convolutions that have a Winograd form here, in the order of the graph."""
    plain = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1]}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        attributes = node.get_attributes()
        c_out, c_in, *kernel = node.input_value(1).get_shape()
        # The batch is dynamic, so only a partial shape is known.
        side = node.input_value(0).get_partial_shape()[2].get_length()
        if kernel == [3, 3] and side <= LARGEST_SIDE and all(list(attributes[k]) == v for k, v in plain.items()):
            yield node, Shape(c_out, c_in, side)


def _weight(node: openvino.Node) -> NDArray[np.float32]:
    return np.asarray(node.input_value(1).get_node().data)


def winograd_is_faster(core: openvino.Core, shape: Shape, threads: int) -> bool | None:
    """Time both forms on random values of one image until one of them is shown to be worth its weights.

    Returns None where the machine is too busy to tell. The plain form is then the one to take.
    """
    weight = np.random.default_rng(0).standard_normal((shape.c_out, shape.c_in, 3, 3), np.float32)
    image = np.random.default_rng(1).standard_normal((1, shape.c_in, shape.side, shape.side), np.float32)
    forms = [_compiled(core, shape, weight, threads, winograd=winograd) for winograd in (False, True)]
    order, ratios = random.Random(0), list[float]()
    for request in forms:
        request.infer([image])  # warms up
    while len(ratios) < MOST:
        plain, transformed = _seconds(forms, image, order)
        ratios.append(transformed / plain)
        if len(ratios) >= FEWEST and decided(ratios):
            return median(ratios) < WORTHWHILE
    return None


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


def _compiled(
    core: openvino.Core, shape: Shape, weight: NDArray[np.float32], threads: int, *, winograd: bool
) -> openvino.InferRequest:
    """Compile one form of a convolution, with a ReLU behind it as most of the network's convolutions have."""
    image = ops.parameter([1, shape.c_in, shape.side, shape.side], np.float32)
    if winograd:
        out = convolution(image.output(0), weight, shape.side)
    else:
        out = ops.convolution(image, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1]).output(0)
    model = openvino.Model([ops.relu(out)], [image])
    settings = {**CPU_SETTINGS, "INFERENCE_NUM_THREADS": threads}
    return core.compile_model(model, "CPU", settings).create_infer_request()
