"""Quantise a float32 model to INT8 or FP8 by explicit Q/DQ nodes in the ONNX file, placed and calibrated by NNCF."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import nncf
import numpy as np
import onnx
from nncf.common.quantization.structs import QuantizationScheme
from nncf.parameters import QuantizationMode
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    OverflowFix,
    QuantizationParameters,
)
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from deploy.engines.base import Progress
from deploy.errors import BuildError
from deploy.precision.layer_errors import INSPECTED, layer_errors

FEWEST_IMAGES = 16
STEPS = (4, 16, 64)  # numbers of layers that stay in float32, tried in turn
PRODUCTS = ("MatMul", "Gemm")  # what "mixed" leaves as it is
FP8_OPSET = 21  # of Q/DQ with float8 in NNCF
FP8_FEWEST_CHANNELS, FP8_LARGEST_KERNEL = 16, 32  # of a convolution in FP8 (kernel in taps)
INT8 = AdvancedQuantizationParameters(
    # Processors without VNNI add two products of 8 bits in 16 bits, which overflows and saturates. Weights of half the
    # range never overflow, so one file is right on every machine.
    overflow_fix=OverflowFix.ENABLE,
    activations_quantization_params=QuantizationParameters(mode=QuantizationScheme.SYMMETRIC),
)
Loss = Callable[[onnx.ModelProto], float]
"""Measure what a model loses on the task, in units of what it may lose: above 1 it is refused."""


def quantize(
    source: onnx.ModelProto, precision: str, images: NDArray[np.float32], loss: Loss, progress: Progress
) -> onnx.ModelProto:
    """Quantise a float32 model: all convolutions and matrix products to "int8" or "fp8" (E4M3), or as "mixed".

    Activations have one scale and weights one for each output channel, all symmetric, as TensorRT wants them (developer
    guide, "Working with Quantized Types"). Where the model loses too much, the layers that add most error stay in
    float32: a few, then more.

    Args:
        source: the float32 model, which is not changed.
        precision: "int8", "fp8", or "mixed" for convolutions in int8 and the rest as it is.
        images: (N, 3, S, S) float32 of the training split, at least 16. The ranges are taken from them.
        loss: what a candidate loses on the task.
        progress: told how many layers stay in float32.

    Returns:
        The first candidate with a loss of at most 1, or else the last one.

    Raises:
        BuildError: there are fewer images than that, or they are all alike.
    """
    _check_calibration(precision, images)
    model = _quantized(source, precision, images, ())
    if loss(model) <= 1:
        return model
    hurting = [layer.node for layer in layer_errors(source, model, images[:INSPECTED])]
    for index, count in enumerate(STEPS, 1):
        progress(f"{count} layers stay in fp32", index / (len(STEPS) + 1))
        model = _quantized(source, precision, images, hurting[:count])
        if loss(model) <= 1:
            break
    # A last candidate that still loses too much goes on to the gate, which refuses it with the layers and the figures.
    return model


def _quantized(
    source: onnx.ModelProto, precision: str, images: NDArray[np.float32], kept: Sequence[str]
) -> onnx.ModelProto:
    """Quantise everything that can be, except for the nodes named in `kept`."""
    name = source.graph.input[0].name
    settings: dict[str, Any] = {
        "calibration_dataset": nncf.Dataset([{name: image[None]} for image in images]),
        "subset_size": len(images),
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "model_type": nncf.ModelType.TRANSFORMER,
    }
    if precision == "fp8":
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        copy.opset_import[0].version = max(copy.opset_import[0].version, FP8_OPSET)
        settings |= {"mode": QuantizationMode.FP8_E4M3}
        source, kept = copy, [*kept, *_unfit_for_fp8(source)]
    else:
        settings |= {"advanced_parameters": INT8}
    unquantized = nncf.IgnoredScope(names=list(kept), types=list(PRODUCTS) if precision == "mixed" else [])
    nncf.set_log_level(logging.ERROR)  # it reports every step of every candidate
    model: onnx.ModelProto = nncf.quantize(source, ignored_scope=unquantized, **settings)
    return model if precision == "fp8" else signed(model)


def signed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose unsigned activations are signed: the same range in 127 steps instead of 255."""
    # NNCF takes unsigned bytes where no activation is below 0. TensorRT has signed ones only.
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # of the old types, which the model's readers infer again
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    quantizers = [node for node in copy.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    # By name: the two nodes of a pair share their zero point and their scale, which must be changed once.
    points = {
        node.input[2]: node.input[1] for node in quantizers if tensors[node.input[2]].data_type == TensorProto.UINT8
    }
    for point, scale in points.items():
        zero = numpy_helper.to_array(tensors[point])
        assert not zero.any(), "symmetric quantisation has its zero at 0"
        steps = numpy_helper.to_array(tensors[scale]) * np.float32(255 / 127)
        tensors[point].CopyFrom(numpy_helper.from_array(zero.astype(np.int8), point))
        tensors[scale].CopyFrom(numpy_helper.from_array(steps, scale))
    return copy


def _unfit_for_fp8(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the convolutions that TensorRT would run in float32 between needless casts.

    These are all transposed ones, and those with few channels or a large kernel (release notes, "Limitations").
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ConvTranspose":
            yield node.name
        elif node.op_type == "Conv":
            c_out, c_in, *kernel = shapes[node.input[1]]
            if min(c_out, c_in) < FP8_FEWEST_CHANNELS or math.prod(kernel) > FP8_LARGEST_KERNEL:
                yield node.name


def _check_calibration(precision: str, images: NDArray[np.float32]) -> None:
    """Raise BuildError where the images show no range."""
    if len(images) < FEWEST_IMAGES:
        raise BuildError(
            f"{precision} needs at least {FEWEST_IMAGES} training images to take ranges from, got {len(images)}"
        )
    if np.ptp(images, axis=0).max() == 0:
        raise BuildError(
            f"{precision} takes its ranges from different images, but all {len(images)} training images are alike"
        )
