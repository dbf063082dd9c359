"""Build and verify the engines of a checkpoint, and the model repository that serves them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from data_pipeline import DataError
from deploy.contract import Contract
from deploy.engines import ONNX, PRECISIONS, TARGETS, GpuOptions
from deploy.errors import BuildError
from deploy.export import EXPORT_DTYPES
from deploy.job import Job
from deploy.plan import AUTO, BuildOptions
from deploy.report import Report
from deploy.report_table import engine_table, notes
from model.checkpoint import RANDOM_PREFIX, CheckpointError, CheckpointInfo, load_checkpoint

DEFAULT_CHECKPOINT = Path(__file__).parent.parent / "model" / "weights" / "skin-tiny.safetensors"
EXAMPLES = """examples:
  python -m deploy.build_engine
  python -m deploy.build_engine --checkpoint build/mine/best.safetensors --target openvino --output build/mine
  python -m deploy.build_engine --target tensorrt-rtx --precision fp16 --compute-capability 8.6 --compute-capability 8.9
  python -m deploy.build_engine --checkpoint random:paper-224 --target openvino   (random weights, for timing)
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 and one line for a misuse."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.build_engine",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    parser.add_argument("--max-batch", type=int, default=8, help="engines take batches of 1 to this (default 8)")
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
    parser.add_argument("--samples", type=int, default=200, help="validation images to verify on (default 200)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of CPU engines, when they are timed")
    options = parser.parse_args(arguments)
    for name in ("max_batch", "samples", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    return options


def choose_targets(named: list[str] | None, precision: str, gpu: GpuOptions) -> list[str]:
    """The targets named, or all that this machine builds at this precision; BuildError where a named one cannot be."""
    reasons = {ONNX: "onnx files have no tf32: it is a GPU's way to multiply fp32" if precision == "tf32" else None}
    for name, target in TARGETS.items():
        reasons[name] = target.unavailable() or (None if precision == AUTO else target.refuses(precision))
    if named is None:
        named = [name for name, reason in reasons.items() if reason is None]
    refused = [reason for name in named if (reason := reasons[name])]
    able = [TARGETS[name] for name in named if name != ONNX and not reasons[name]]
    refused += [reason for target in able if (reason := target.refuses_gpu(gpu, precision))]
    if refused or not named:
        raise BuildError(
            "; ".join(refused) or f"this machine builds no engine in {precision}; choose another --precision"
        )
    return list(dict.fromkeys(named))


def check_plugins(named: list[str] | None, precision: str, max_batch: int) -> None:
    """BuildError unless `--plugins` comes with targets and a precision that take plugins, and with static shapes."""
    engines = [TARGETS[name] for name in named or () if name != ONNX]
    refused = [reason for target in engines if (reason := target.refuses_plugins())]
    if not engines:
        refused.append("--plugins needs --target tensorrt or --target torch-tensorrt")
    if precision not in EXPORT_DTYPES:
        refused.append(f"--plugins builds {', '.join(EXPORT_DTYPES)}, not {precision}")
    if max_batch > 1:
        refused.append(f"--plugins builds static shapes: give --max-batch 1, got {max_batch}")
    if refused:
        raise BuildError("; ".join(refused))


def contract_of(info: CheckpointInfo, max_batch: int) -> Contract:
    """What a checkpoint will take and give once it is served."""
    return Contract(info.config.image_size, info.seg_classes, info.labels, info.mean, info.std, info.levels, max_batch)


def build(options: argparse.Namespace, console: Console) -> Report:
    """Everything of one call: what is missing is built, verified and published, then the repository and the report."""
    if options.plugins:
        check_plugins(options.target, options.precision, options.max_batch)
    gpu = GpuOptions(tuple(options.compute_capability), options.plugins, options.any_gpu, options.optimization_level)
    targets = choose_targets(options.target, options.precision, gpu)
    checkpoint = load_checkpoint(options.checkpoint)
    contract = contract_of(checkpoint.info, options.max_batch)
    options.output.mkdir(parents=True, exist_ok=True)
    source = options.data or (None if options.checkpoint.startswith(RANDOM_PREFIX) else checkpoint.info.data)
    settings = BuildOptions(
        targets, options.precision, options.threads, source, options.samples, gpu, options.repository == "gpu"
    )
    job = Job(Path(options.checkpoint).name, checkpoint, contract, settings, options.output)
    current = job.current()
    missing = job.missing(current)
    if report := job.finished(missing):
        console.print(f"nothing has changed: {len(job.wanted)} engines in {options.output} are current")
        return report
    from deploy.publish import build_and_publish  # MONAI and NNCF take seconds to import; a repeat needs neither

    return build_and_publish(job, missing, current, console)


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 failed with one line, 2 misused."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        report = build(options, console)
    except (BuildError, CheckpointError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(engine_table(report))
    for note in notes(report):
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    console.print(f"the server runs {report.served.name}: the fastest here that keeps the scores")
    console.print(f"report: {options.output / 'report.html'}, repository: {options.output / 'model_repository'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
