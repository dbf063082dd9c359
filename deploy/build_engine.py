"""Build and verify the engines of a checkpoint, and the model repository that serves them."""

import argparse
import sys
from pathlib import Path

from data_pipeline.command_line import MOST_THREADS, Output, new_parser, positive, run_command
from data_pipeline.cores import cores
from data_pipeline.fields import INT32
from deploy.building import DEFAULT_CHECKPOINT, OPTIMIZATION_LEVELS, build
from deploy.building.plan import AUTO
from deploy.engines import ONNX, PRECISIONS, TARGETS
from deploy.errors import BuildError
from deploy.files import DIRECTORY
from deploy.report import PAGE, engine_table, notes

EXAMPLES = """examples:
  python -m deploy.build_engine
  python -m deploy.build_engine --checkpoint build/mine/best.safetensors --target openvino --output build/mine
  python -m deploy.build_engine --target tensorrt-rtx --precision fp16 --compute-capability 8.6 --compute-capability 8.9
  python -m deploy.build_engine --checkpoint random:paper-224 --target openvino   (random weights, for timing)
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    A misuse ends the command with exit code 2 and one line.
    """
    parser = new_parser("deploy.build_engine", __doc__, EXAMPLES)
    parser.add_argument(
        "--checkpoint",
        default=str(DEFAULT_CHECKPOINT),
        metavar="FILE",
        help="a .safetensors file, or random:PRESET (default: the shipped skin-tiny)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build"), metavar="DIR", help="folder for everything (default: build)"
    )
    parser.add_argument(
        "--target",
        action="append",
        choices=[ONNX, *TARGETS],
        help="kind of engine; repeatable (default: all that this machine builds)",
    )
    parser.add_argument(
        "--precision",
        choices=[*PRECISIONS, AUTO],
        default="fp32",
        help="of the engines (default: fp32). fp8: TensorRT and the ONNX file, from compute capability 8.9 on. "
        "auto: try all that this machine runs, serve the fastest that keeps the task's scores",
    )
    parser.add_argument(
        "--max-batch",
        type=positive(int, most=INT32),
        default=8,
        metavar="N",
        help="engines take batches of 1 to this (default: 8)",
    )
    parser.add_argument(
        "--compute-capability",
        action="append",
        default=[],
        metavar="X.Y",
        help="GPUs that tensorrt-rtx builds for, such as 8.6 or 86; repeatable (default: Ampere and later)",
    )
    parser.add_argument(
        "--repository",
        choices=["cpu", "gpu"],
        default="cpu",
        help="gpu: write the GPU server's repository as well, even without a plan for it (default: cpu)",
    )
    parser.add_argument(
        "--plugins",
        action="store_true",
        help="run this project's GPU kernels inside tensorrt engines",
    )
    parser.add_argument(
        "--any-gpu",
        action="store_true",
        help="build one tensorrt or torch-tensorrt engine for all GPUs from Ampere on, at some cost in speed",
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=OPTIMIZATION_LEVELS,
        help="how long TensorRT's builder looks for speed (default: the library's)",
    )
    parser.add_argument(
        "--data", metavar="SOURCE", help="source of the validation images (default: what the checkpoint was trained on)"
    )
    parser.add_argument(
        "--samples", type=positive(int), default=200, metavar="N", help="validation images to verify on (default: 200)"
    )
    parser.add_argument(
        "--threads",
        type=positive(int, most=MOST_THREADS),
        default=cores(),
        metavar="N",
        help="threads of CPU engines when they are timed (default: every core)",
    )
    return parser.parse_args(arguments)


def build_and_show(options: argparse.Namespace) -> None:
    """Build, then print the table of engines and where everything is."""
    console = Output()
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
        console.print(note)
    console.print(f"report: {options.output / PAGE}, repository: {options.output / DIRECTORY}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    The code is 0 where it is done, 1 with one line where it failed, 2 for a misuse, and 130 after Ctrl-C.
    """
    options = parse_arguments(arguments)
    return run_command(lambda: build_and_show(options), BuildError)


if __name__ == "__main__":
    sys.exit(main())
