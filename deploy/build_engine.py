"""Build and verify the engines of a checkpoint, and the model repository that serves them."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from data_pipeline.command_line import new_parser, positive, run_command
from deploy.building import DEFAULT_CHECKPOINT, build
from deploy.building.plan import AUTO
from deploy.engines import ONNX, PRECISIONS, TARGETS
from deploy.errors import BuildError
from deploy.report.table import engine_table, notes

EXAMPLES = """examples:
  python -m deploy.build_engine
  python -m deploy.build_engine --checkpoint build/mine/best.safetensors --target openvino --output build/mine
  python -m deploy.build_engine --target tensorrt-rtx --precision fp16 --compute-capability 8.6 --compute-capability 8.9
  python -m deploy.build_engine --checkpoint random:paper-224 --target openvino   (random weights, for timing)
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with 2 and one line for a misuse."""
    parser = new_parser("deploy.build_engine", __doc__, EXAMPLES)
    parser.add_argument("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="a .safetensors file or random:PRESET")
    parser.add_argument("--output", type=Path, default=Path("build"))
    parser.add_argument(
        "--target", action="append", choices=[ONNX, *TARGETS], help="repeatable (default: all that this machine builds)"
    )
    parser.add_argument(
        "--precision",
        choices=[*PRECISIONS, AUTO],
        default="fp32",
        help="fp8: of TensorRT, from compute capability 8.9 on; "
        "auto: try all that this machine runs, serve the fastest that keeps the task's scores",
    )
    parser.add_argument(
        "--max-batch", type=positive(int), default=8, help="engines take batches of 1 to this (default 8)"
    )
    parser.add_argument(
        "--compute-capability", action="append", default=[], help="of tensorrt-rtx, such as 8.6; repeatable"
    )
    parser.add_argument(
        "--repository", choices=["cpu", "gpu"], default="cpu", help="gpu: write the GPU server's too, without its plan"
    )
    parser.add_argument(
        "--plugins", action="store_true", help="run this project's own GPU kernels: tensorrt and torch-tensorrt"
    )
    parser.add_argument(
        "--any-gpu", action="store_true", help="one engine for all GPUs from Ampere on: tensorrt and torch-tensorrt"
    )
    parser.add_argument(
        "--optimization-level", type=int, choices=range(6), help="of TensorRT's builder: how long it looks for speed"
    )
    parser.add_argument(
        "--data", help="where validation images come from (default: what the checkpoint was trained on)"
    )
    parser.add_argument(
        "--samples", type=positive(int), default=200, help="validation images to verify on (default 200)"
    )
    parser.add_argument(
        "--threads", type=positive(int), default=os.cpu_count(), help="of CPU engines, when they are timed"
    )
    return parser.parse_args(arguments)


def build_and_show(options: argparse.Namespace) -> None:
    """Build, then print the table of engines and where everything is."""
    console = Console()
    report = build(
        options.checkpoint,
        options.output,
        targets=options.target,
        precision=options.precision,
        max_batch=options.max_batch,
        compute_capabilities=options.compute_capability,
        plugins=options.plugins,
        any_gpu=options.any_gpu,
        optimization_level=options.optimization_level,
        gpu_repository=options.repository == "gpu",
        data=options.data,
        samples=options.samples,
        threads=options.threads,
        console=console,
    )
    console.print(engine_table(report))
    for note in notes(report):
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    console.print(f"the server runs {report.served.name}: the fastest here that keeps the scores")
    console.print(f"report: {options.output / 'report.html'}, repository: {options.output / 'model_repository'}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; exit code 0 done, 1 failed with one line, 2 misused."""
    options = parse_arguments(arguments)
    return run_command(lambda: build_and_show(options), BuildError)


if __name__ == "__main__":
    sys.exit(main())
