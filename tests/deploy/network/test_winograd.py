"""Compare Winograd's form of a 3x3 convolution with PyTorch's own in float64, alone and in a graph."""

import logging
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openvino import opset13 as ops

from deploy.network import winograd
from deploy.network.openvino_session import compile_model, core, read_model
from deploy.network.winograd import Shape, library
from deploy.network.winograd.__main__ import main
from deploy.network.winograd.library import factory
from deploy.network.winograd.weights import frequencies, kernel_matrix

pytestmark = pytest.mark.skipif(bool(winograd.reason_against()), reason=winograd.reason_against())

ROUNDING = 5e-6  # of the largest output
Floats = NDArray[np.float32]


def normal(*shape: int, seed: int = 0) -> Floats:
    """Draw values of the normal distribution."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def operator(
    image: tuple[int, ...], weight: Floats, bias: Floats, *, dilation: int, relu: bool, added: bool
) -> openvino.Model:
    """Make a graph of the operator alone, for an image (B, H, W, C_in) and what is added, (B, H, W, C_out)."""
    sources = [ops.parameter(image, np.float32)]
    if added:
        sources.append(ops.parameter([*image[:3], len(bias)], np.float32))
    inputs = [sources[0], ops.constant(frequencies(weight)), ops.constant(bias), *sources[1:]]
    return openvino.Model(
        [factory().create("WinogradConvolution", inputs, {"dilation": dilation, "relu": relu})], sources
    )


def compiled(model: openvino.Model, threads: int) -> openvino.CompiledModel:
    """Compile a graph for float32: by itself OpenVINO takes bf16 where the processor has it."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return core().compile_model(model, "CPU", settings)


def reference(image: Floats, weight: Floats, bias: Floats, residual: Floats, *, dilation: int, relu: bool) -> Floats:
    """Convolve (B, H, W, C) in float64."""
    x, w, b = (torch.from_numpy(array).double() for array in (image, weight, bias))
    out = torch.conv2d(x.permute(0, 3, 1, 2), w, b, padding=dilation, dilation=dilation).permute(0, 2, 3, 1)
    out = out + torch.from_numpy(residual)
    result: Floats = (out.relu() if relu else out).float().numpy()
    return result


def test_the_matrices_are_a_convolution() -> None:
    """Multiply the kernel's frequencies at each point: a polynomial's value there is that of its coefficients."""
    kernel = np.array([3.0, -2.0, 5.0])
    points = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])
    distances = [np.prod([point - other for other in points if other != point]) for point in points]
    expected = [np.polyval(kernel[::-1], point) / distance for point, distance in zip(points, distances, strict=True)]
    np.testing.assert_allclose(kernel_matrix() @ kernel, [*expected, kernel[-1]], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 21),
    width=st.integers(1, 21),
    c_in=st.sampled_from([16, 48]),
    c_out=st.sampled_from([32, 96]),
    dilation=st.integers(1, 6),
    relu=st.booleans(),
    added=st.booleans(),
    threads=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_any_size(
    batch: int,
    height: int,
    width: int,
    c_in: int,
    c_out: int,
    dilation: int,
    relu: bool,
    added: bool,
    threads: int,
    seed: int,
) -> None:
    image, weight = normal(batch, height, width, c_in, seed=seed), normal(c_out, c_in, 3, 3, seed=seed + 1)
    bias, residual = normal(c_out, seed=seed + 2), normal(batch, height, width, c_out, seed=seed + 3)
    model = operator(image.shape, weight, bias, dilation=dilation, relu=relu, added=added)
    out = compiled(model, threads)([image, residual][: 1 + added])[0]
    expected = reference(image, weight, bias, residual * added, dilation=dilation, relu=relu)
    np.testing.assert_allclose(out, expected, atol=ROUNDING * max(1.0, np.abs(expected).max()), rtol=0)


def test_any_size_on_a_processor_with_avx2_alone() -> None:
    """Repeat it where OpenVINO and the operator are told to use no more."""
    again = [sys.executable, "-m", "pytest", "-q", f"{__file__}::{test_any_size.__name__}"]
    ran = subprocess.run(again, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_requests_at_the_same_time_do_not_disturb_each_other() -> None:
    images = [normal(1, 40, 40, 32, seed=seed) for seed in range(8)]
    model = operator((1, 40, 40, 32), normal(32, 32, 3, 3), normal(32), dilation=1, relu=True, added=False)
    shared = compiled(model, 3)
    expected = [np.array(shared.create_infer_request().infer([image])[0]) for image in images]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(10):
            outs = callers.map(lambda image: np.array(shared.create_infer_request().infer([image])[0]), images)
            for out, alone in zip(outs, expected, strict=True):
                np.testing.assert_array_equal(out, alone)


def test_nan_is_not_hidden_by_the_relu() -> None:
    image = normal(1, 8, 8, 16)
    image[0, 0, 0, 0] = np.nan
    model = operator(image.shape, normal(32, 16, 3, 3), normal(32), dilation=1, relu=True, added=False)
    assert np.isnan(compiled(model, 1)([image])[0]).any()


@pytest.mark.parametrize(
    ("image", "weight", "bias", "wrong"),
    [
        ((1, 8, 8, 16), (36, 2, 16, 16), (48,), "blocks of 16 and 32"),
        ((1, 8, 8, 24), (36, 2, 24, 16), (32,), "blocks of 16 and 32"),
        ((1, 8, 8, 32), (36, 2, 16, 16), (32,), "does not fit"),
        ((8, 8, 16), (36, 2, 16, 16), (32,), "an image is"),
    ],
)
def test_wrong_shapes_are_refused(
    image: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...], wrong: str
) -> None:
    inputs = [ops.parameter(image, np.float32), ops.constant(normal(*weight)), ops.constant(normal(*bias))]
    with pytest.raises(RuntimeError, match=wrong):
        factory().create("WinogradConvolution", inputs, {"dilation": 1, "relu": False})


def block(channels: int, side: int, *, dilation: int = 1) -> openvino.Model:
    """Make two convolutions with a bias, an addition and ReLUs, as a residual block has them, for any batch."""
    image = ops.parameter([-1, channels, side, side], np.float32)
    source = image
    around = [dilation, dilation]
    for index in range(2):
        weight = ops.constant(normal(channels, channels, 3, 3, seed=index) / channels)
        convolution = ops.convolution(source, weight, [1, 1], around, around, around)
        convolution.set_friendly_name(f"convolution {index}")
        source = ops.add(convolution, ops.constant(normal(1, channels, 1, 1, seed=index)))
        source = ops.relu(ops.add(source, image) if index else source)
    return openvino.Model([source], [image])


def types(model: openvino.Model) -> list[str]:
    """List the types of a graph's nodes without those that compute nothing."""
    names = [node.get_type_name() for node in model.get_ordered_ops()]
    return [name for name in names if name not in ("Parameter", "Constant", "Result")]


def answer(model: openvino.Model, image: Floats) -> Floats:
    """Compile a graph and run it on one image."""
    return np.asarray(compile_model(model, "f32", 2)([image])[0])


@pytest.mark.parametrize("dilation", [1, 3])
def test_a_marked_convolution_is_replaced_with_what_follows_it(dilation: int, tmp_path: Path) -> None:
    image = normal(1, 32, 13, 13)
    expected = answer(block(32, 13, dilation=dilation), image)
    model = block(32, 13, dilation=dilation)
    assert {shape for _, shape in winograd.candidates(model)} == {Shape(32, 32, 13, dilation)}
    names = ["convolution 0", "convolution 1"]
    winograd.mark(model, names)
    # The file is a plain graph, which any OpenVINO can open.
    openvino.save_model(model, tmp_path / "marked.xml", compress_to_fp16=False)
    model = read_model(tmp_path / "marked.xml")
    assert winograd.marked(model) == names
    assert types(model).count("Convolution") == 2
    np.testing.assert_allclose(answer(model, image), expected, atol=ROUNDING * np.abs(expected).max(), rtol=0)
    # Channels come last between the two, and bias, addition and ReLU are a part of them.
    # The image is transposed for each of them, which OpenVINO then does once.
    assert Counter(types(model)) == {"Transpose": 3, "WinogradConvolution": 2}


def test_what_else_reads_a_convolution_gets_it_unchanged() -> None:
    image = normal(1, 32, 8, 8)
    source = ops.parameter([1, 32, 8, 8], np.float32)
    convolution = ops.convolution(source, ops.constant(normal(32, 32, 3, 3) / 32), *[[1, 1]] * 4)
    model = openvino.Model([ops.relu(convolution), ops.sigmoid(convolution)], [source])
    expected = [np.array(out) for out in compile_model(model, "f32", 1)([image]).values()]
    winograd.mark(model, [convolution.get_friendly_name()])
    outs = compile_model(model, "f32", 1)([image]).values()
    assert "WinogradConvolution" in types(model)
    for out, plain in zip(outs, expected, strict=True):
        np.testing.assert_allclose(out, plain, atol=ROUNDING * np.abs(plain).max(), rtol=0)


@pytest.mark.parametrize(
    ("c_in", "c_out", "kernel", "strides", "pads", "dilations"),
    [
        (32, 32, 3, [2, 2], [1, 1], [1, 1]),
        (32, 32, 3, [1, 1], [0, 0], [1, 1]),
        (32, 32, 3, [1, 1], [2, 1], [2, 1]),
        (32, 32, 5, [1, 1], [2, 2], [1, 1]),
        (32, 32, 1, [1, 1], [0, 0], [1, 1]),
        (24, 32, 3, [1, 1], [1, 1], [1, 1]),
        (32, 48, 3, [1, 1], [1, 1], [1, 1]),
    ],
)
def test_other_convolutions_stay(
    c_in: int, c_out: int, kernel: int, strides: list[int], pads: list[int], dilations: list[int]
) -> None:
    image = ops.parameter([1, c_in, 12, 12], np.float32)
    weight = ops.constant(normal(c_out, c_in, kernel, kernel))
    model = openvino.Model([ops.convolution(image, weight, strides, pads, pads, dilations)], [image])
    assert not list(winograd.candidates(model))


def test_without_the_operator_openvino_computes_it_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image, model = normal(1, 32, 8, 8), block(32, 8)
    expected = answer(block(32, 8), image)
    winograd.mark(model, ["convolution 0"])
    monkeypatch.setattr(winograd, "reason_against", lambda: "no compiler")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(answer(model, image), expected)
    assert "1 convolutions that were faster in Winograd's form run in OpenVINO's own: no compiler" in caplog.text


def test_without_a_compiler_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main([]) == 1
    assert capsys.readouterr().err == "error: g++ is not installed: `apt-get install g++`, or your system's like\n"


def test_what_the_compiler_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.cpp").write_text("int main() { return nothing; }\n")
    monkeypatch.setattr(library, "SOURCES", (tmp_path / "broken.cpp",))
    assert main([]) == 1
    assert capsys.readouterr().err.startswith("error: g++ refuses broken.cpp: ")


def test_an_operator_of_another_openvino_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "version", lambda package: "1.0")
    assert winograd.reason_against() == (
        "the operator is not compiled for this OpenVINO and code: run `python -m deploy.network.winograd`"
    )


def test_a_damaged_operator_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "operator.so").write_bytes(b"damaged")
    monkeypatch.setattr(library, "_file", lambda: tmp_path / "operator.so")
    assert winograd.reason_against() == "the compiled operator cannot be loaded, or the processor has no AVX2"
