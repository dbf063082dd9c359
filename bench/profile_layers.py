"""Show where the time of an OpenVINO engine goes, by kind of layer.

python -m bench.profile_layers build/openvino.fp32.xml
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.table import Table

from data_pipeline.command_line import Output, new_parser, positive, run_command
from deploy.network.openvino_session import compile_model, read_model

RUNS = 5
FORMATS = (".xml", ".onnx")
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


class EngineError(Exception):
    """Say in one line why a file cannot be profiled."""


def show(engine: Path, threads: int) -> None:
    """Print the kinds of layer that take at least a hundredth of the whole, the slowest first.

    Raises EngineError for a file that OpenVINO does not read.
    """
    if engine.suffix not in FORMATS or not engine.is_file():
        raise EngineError(f"{engine} must be a file of {' or '.join(FORMATS)}: run `python -m deploy.build_engine`")
    try:
        times, layers = layer_ms(engine, threads)
    except RuntimeError as error:  # of OpenVINO, which says why at the end of many lines
        reason = [line for line in str(error).splitlines() if line.strip()][-1]
        raise EngineError(f"{engine} cannot be opened by OpenVINO: {reason.strip()}") from error
    total = sum(times.values())
    table = Table("layer", "implementation", "layers", "ms", "share", title=f"{engine.name}, {total:.1f} ms")
    for kind, time in sorted(times.items(), key=lambda item: -item[1]):
        if time >= total / 100:
            table.add_row(*kind, str(layers[kind]), f"{time:.1f}", f"{time / total:.0%}")
    Output().print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = new_parser("bench.profile_layers", __doc__)
    parser.add_argument("engine", type=Path, help="an OpenVINO .xml, or an ONNX file, in fp32 or int8")
    parser.add_argument("--threads", type=positive(int), default=2, help="threads of the engine (default 2)")
    options = parser.parse_args(arguments)
    return run_command(lambda: show(options.engine, options.threads), EngineError)


if __name__ == "__main__":
    sys.exit(main())
