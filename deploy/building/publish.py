"""Publish a finished build: the engines, the model repositories that serve them, the page and the report."""

from pathlib import Path

from deploy.building.builder import PYTORCH, BuildResult
from deploy.engines.openvino_cpu import EXECUTION_TYPE, OpenVinoTarget
from deploy.files import network_files
from deploy.report import Report, read_report, write_report
from deploy.report.page import gallery, write_page
from deploy.repository import write_repository
from deploy.repository.gpu import write_gpu_repository

PLAN_TARGETS = ("tensorrt", "torch-tensorrt")  # what NVIDIA's server can load as a plan


def publish(result: BuildResult) -> Report:
    """Put everything into the job's output folder and return its report."""
    output, report = result.job.output, result.report
    _move_engines(result)
    _drop_outdated(output, report)
    _write_repositories(result)
    views = {"PyTorch fp32": result.runners[PYTORCH], report.served.name: result.runners[report.served.file]}
    write_page(output, report, result.job.contract, gallery(result.samples, views))
    # Last, because the next build trusts it: after a crash before this line, files and the older report do not match.
    write_report(output, report)
    return report


def _move_engines(result: BuildResult) -> None:
    """Move the new files into place."""
    for record in result.made:
        if not record.refused:
            # Companions first: the named file completes an engine.
            for file in reversed(network_files(result.scratch / record.file)):
                file.replace(result.job.output / file.name)


def _drop_outdated(output: Path, report: Report) -> None:
    """Delete the engines of the last build that are not in the new report."""
    # Only what a report names: the folder may hold files of the user's.
    previous = read_report(output)
    outdated = {record.file for record in previous.engines} if previous else set()
    for name in outdated - {record.file for record in report.engines if not record.refused}:
        for file in network_files(output / name):
            file.unlink(missing_ok=True)


def _write_repositories(result: BuildResult) -> None:
    """Write the CPU server's repository, and the GPU server's where it was asked for or a plan was built for it."""
    output, contract, report = result.job.output, result.job.contract, result.report
    served = report.served
    # The type that it was verified in: ONNX files of any precision are computed in float32.
    execution = EXECUTION_TYPE[served.precision] if served.target == OpenVinoTarget.name else "f32"
    write_repository(output, contract, output / served.file, precision=execution)
    good = [engine for engine in report.engines if not engine.refused]
    plans = [output / engine.file for engine in good if engine.target in PLAN_TARGETS]
    if plans or result.job.options.gpu_repository:
        write_gpu_repository(output, contract, plans[0] if plans else None)
