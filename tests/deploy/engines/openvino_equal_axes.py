"""Reproduce a fault of OpenVINO 2026.4 on a CPU: attention without its last transpose.

    python openvino_equal_axes.py

The graph is softmax(Q K^T) V with the heads brought back behind the tokens, as most exporters write it. Where a model
with a static shape has as many heads as tokens, the result is that of the graph without the last transpose. With a
dynamic shape, or with one head more or less, the result is right. The error does not depend on the batch, the number of
channels or the instruction set (AVX2, AVX-512, AMX).
"""

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops


def attention(tokens: int, heads: int, channels: int, *, static: bool) -> openvino.Model:
    """Build attention from (batch, tokens, 3, heads, channels) to (batch, tokens, heads, channels)."""
    source = ops.parameter([1 if static else -1, tokens, 3, heads, channels], np.float32)
    parts = ops.transpose(source, [2, 0, 3, 1, 4])
    query, key, value = (ops.gather(parts, np.int64(index), np.int64(0)) for index in range(3))
    weights = ops.softmax(ops.matmul(query, key, False, True), -1)
    return openvino.Model([ops.transpose(ops.matmul(weights, value, False, False), [0, 2, 1, 3])], [source])


def largest_error(tokens: int, heads: int, *, static: bool, channels: int = 16) -> float:
    """Return the largest difference between OpenVINO's result and NumPy's, in float32."""
    qkv = np.random.default_rng(0).standard_normal((1, tokens, 3, heads, channels), np.float32)
    query, key, value = qkv.transpose(2, 0, 3, 1, 4)
    scores = np.exp(query @ key.swapaxes(-1, -2))
    expected = (scores / scores.sum(axis=-1, keepdims=True) @ value).transpose(0, 2, 1, 3)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(attention(tokens, heads, channels, static=static), "CPU", settings)
    result: NDArray[np.float32] = compiled([qkv])[0]
    return float(np.abs(result - expected).max())


def main() -> None:
    """Print the errors of some shapes."""
    print(f"openvino {openvino.__version__}")
    for tokens, heads in ((4, 4), (9, 9), (16, 16), (4, 3), (9, 4), (16, 8)):
        errors = [
            f"{name} {largest_error(tokens, heads, static=name == 'static'):.0e}" for name in ("static", "dynamic")
        ]
        print(f"{tokens} tokens, {heads} heads: largest error {', '.join(errors)}")


if __name__ == "__main__":
    main()
