"""INT8 by explicit quantisation (Q/DQ) in the ONNX file, which OpenVINO, ONNX Runtime and TensorRT all read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import nncf
import numpy as np
import onnx
from nncf.common.quantization.structs import QuantizationScheme
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    OverflowFix,
    QuantizationParameters,
)
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from deploy.errors import BuildError

FEWEST_IMAGES = 16
Loss = Callable[[onnx.ModelProto], float]
"""What a model loses on the task against the float32 one, on validation images."""

nncf.set_log_level(logging.ERROR)


def quantize(
    source: onnx.ModelProto, images: NDArray[np.float32], loss: Loss | None, tolerance: float
) -> onnx.ModelProto:
    """The float32 model with 8-bit convolutions and matrix products.

    Weights and activations are symmetric and signed, as TensorRT wants them (developer guide, "Explicit
    Quantization"). Where more than `tolerance` is lost, NNCF's accuracy-driven search takes the layers that
    cost most back to float32, one after the other, until it does not.

    Args:
        images: (N, 3, S, S) float32 of the training split, at least 16: the ranges are taken from them.
        loss: None where nothing can be scored (random weights); then nothing is searched.

    Raises:
        BuildError: fewer images than that, or images that are all alike.
    """
    _check_calibration(images)
    name = source.graph.input[0].name
    calibration = nncf.Dataset([{name: image[None]} for image in images])
    settings = {
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "subset_size": len(images),
        "model_type": nncf.ModelType.TRANSFORMER,
    }
    parameters = AdvancedQuantizationParameters(
        # Sums of two products overflow 16 bits on CPUs without VNNI. Halving the weights' range would cost accuracy
        # everywhere, while int8 is not faster there anyway; the gate judges what this machine computes.
        overflow_fix=OverflowFix.DISABLE,
        activations_quantization_params=QuantizationParameters(mode=QuantizationScheme.SYMMETRIC),
    )
    model = signed(nncf.quantize(source, calibration, advanced_parameters=parameters, **settings))
    if loss is None or loss(model) <= tolerance:
        return model

    def validate(candidate: onnx.ModelProto, _: Iterable[object]) -> tuple[float, None]:
        # NNCF divides by the float32 model's figure, which must therefore not be 0.
        return 1 - loss(signed(candidate)), None

    searched = nncf.quantize_with_accuracy_control(
        source,
        calibration_dataset=calibration,
        validation_dataset=calibration,  # not read: `loss` has its own images
        validation_fn=validate,
        max_drop=tolerance,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_quantization_parameters=parameters,
        **settings,
    )
    return signed(searched)


def signed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose unsigned activations, all at least 0, are signed: the same range over 127 steps in place of 255."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # of the old types; whoever loads the model infers them again
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    quantizers = [node for node in copy.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
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


def _check_calibration(images: NDArray[np.float32]) -> None:
    if len(images) < FEWEST_IMAGES:
        raise BuildError(f"int8 needs at least {FEWEST_IMAGES} training images to take ranges from, got {len(images)}")
    if np.ptp(images, axis=0).max() == 0:
        raise BuildError(
            f"int8 takes its ranges from different images, but all {len(images)} training images are alike"
        )
