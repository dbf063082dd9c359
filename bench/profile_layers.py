"""Show where the time of an OpenVINO engine goes, by kind of layer.

python -m bench.profile_layers build/openvino.fp32.xml
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipeline.command_line import new_parser, positive
from deploy.network.openvino_session import compile_model, read_model

RUNS = 5
Kind = tuple[str, str]  # the layer's type, the implementation that ran


def layer_ms(path: Path, threads: int) -> tuple[Mapping[Kind, float], Mapping[Kind, int]]:
    """Return the milliseconds of one call, the mean of a few, and the number of layers, both by kind of layer."""
    compiled = compile_model(read_model(path), "f32", threads, profiled=True)
    shape = [1, *(length.get_length() for length in list(compiled.input().partial_shape)[1:])]
    images, request = np.random.default_rng(0).standard_normal(shape, np.float32), compiled.create_infer_request()
    request.infer([images])
    times: defaultdict[Kind, float] = defaultdict(float)
    for _ in range(RUNS):
        request.infer([images])
        # Layers that were fused into others or folded away are listed as well, with a time of zero.
        ran = [layer for layer in request.profiling_info if layer.real_time]
        for layer in ran:
            times[layer.node_type, layer.exec_type] += 1000 * layer.real_time.total_seconds() / RUNS
    return times, Counter((layer.node_type, layer.exec_type) for layer in ran)


def main() -> None:
    """Print the kinds of layer that take at least a hundredth of the whole, the slowest first."""
    parser = new_parser("bench.profile_layers", __doc__)
    parser.add_argument("engine", type=Path, help="an OpenVINO .xml, or an ONNX file, in fp32 or int8")
    parser.add_argument("--threads", type=positive(int), default=2, help="threads of the engine (default 2)")
    options = parser.parse_args()
    if not options.engine.is_file():
        parser.error(f"{options.engine} must be a file: build it with `python -m deploy.build_engine`")
    times, layers = layer_ms(options.engine, options.threads)
    total = sum(times.values())
    table = Table("layer", "implementation", "layers", "ms", "share", title=f"{options.engine.name}, {total:.1f} ms")
    for kind, time in sorted(times.items(), key=lambda item: -item[1]):
        if time >= total / 100:
            table.add_row(*kind, str(layers[kind]), f"{time:.1f}", f"{time / total:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
