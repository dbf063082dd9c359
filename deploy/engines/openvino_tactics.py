"""Chooses for each 3x3 convolution of an OpenVINO model the faster of two forms, by timing both on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from deploy.engines.base import Progress
from deploy.engines.openvino_core import core
from deploy.engines.winograd import convolution

LARGEST_SIDE = 64  # beyond it the dense transforms cost more than the products save
WORTHWHILE = 0.9  # of the plain convolution's time: less gain does not pay for weights four times the size
ROUNDS = 7
CPU_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class Shape(NamedTuple):
    """Of a 3x3 convolution with stride 1 and padding 1 on square maps."""

    c_out: int
    c_in: int
    side: int


def use_winograd(model: openvino.Model, threads: int, progress: Progress) -> int:
    """Rewrite, in place, the convolutions that are faster in Winograd's form; returns how many."""
    candidates = list(_candidates(model))
    shapes = list(dict.fromkeys(shape for _, shape in candidates))
    faster = set()
    for index, shape in enumerate(shapes):
        progress(f"timing 3x3 convolutions of {shape.c_in} channels at {shape.side} px", index / len(shapes))
        if winograd_is_faster(shape, threads):
            faster.add(shape)
    chosen = [(node, shape) for node, shape in candidates if shape in faster]
    for node, shape in chosen:
        rewritten = convolution(node.input_value(0), _weight(node), shape.side)
        node.output(0).replace(rewritten)
    return len(chosen)


def winograd_is_faster(shape: Shape, threads: int) -> bool:
    """Medians of alternating rounds on random values."""
    weight = np.random.default_rng(0).standard_normal((shape.c_out, shape.c_in, 3, 3), np.float32)
    image = np.random.default_rng(1).standard_normal((1, shape.c_in, shape.side, shape.side), np.float32)
    forms = [_compiled(shape, weight, threads, winograd=winograd) for winograd in (False, True)]
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS + 1):
        for request, measured in zip(forms, times, strict=True):
            start = time.perf_counter()
            request.infer([image])
            measured.append(time.perf_counter() - start)
    plain, transformed = (median(measured[1:]) for measured in times)
    return transformed < WORTHWHILE * plain


def _compiled(shape: Shape, weight: NDArray[np.float32], threads: int, *, winograd: bool) -> openvino.InferRequest:
    image = ops.parameter([1, shape.c_in, shape.side, shape.side], np.float32)
    if winograd:
        out = convolution(image.output(0), weight, shape.side)
    else:
        out = ops.convolution(image, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1]).output(0)
    model = openvino.Model([ops.relu(out)], [image])
    settings = {**CPU_SETTINGS, "INFERENCE_NUM_THREADS": threads}
    return core().compile_model(model, "CPU", settings).create_infer_request()


def _candidates(model: openvino.Model) -> Iterator[tuple[openvino.Node, Shape]]:
    plain = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1]}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        attributes = node.get_attributes()
        c_out, c_in, *kernel = node.input_value(1).get_shape()
        side = node.input_value(0).get_partial_shape()[2].get_length()
        if kernel == [3, 3] and side <= LARGEST_SIDE and all(list(attributes[k]) == v for k, v in plain.items()):
            yield node, Shape(c_out, c_in, side)


def _weight(node: openvino.Node) -> NDArray[np.float32]:
    return np.asarray(node.input_value(1).get_node().data)
