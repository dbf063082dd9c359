"""Publish a finished build: the engines, the model repositories that serve them, the page and the report."""

from pathlib import Path

from deploy.building.builder import PYTORCH, BuildResult
from deploy.engines.openvino_cpu import EXECUTION_TYPE
from deploy.files import network_files
from deploy.report.gallery import gallery
from deploy.report.page import write_page
from deploy.report.records import Report, read_report, write_report
from deploy.repository.cpu import write_repository
from deploy.repository.gpu import write_gpu_repository

PLAN_TARGETS = ("tensorrt", "torch-tensorrt")


def publish(result: BuildResult) -> Report:
    """Put everything into the job's output folder; the report comes last, because it vouches for the rest."""
    output, report = result.job.output, result.report
    _move_engines(result)
    _drop_outdated(output, report)
    _write_repositories(result)
    views = {"PyTorch fp32": result.runners[PYTORCH], report.served.name: result.runners[report.served.file]}
    write_page(output, report, result.job.contract, gallery(result.samples, views))
    write_report(output, report)
    return report


def _move_engines(result: BuildResult) -> None:
    """Move the new files into place, companions first: the named file completes an engine."""
    for record in result.made:
        if not record.refused:
            for file in reversed(network_files(result.scratch / record.file)):
                file.replace(result.job.output / file.name)


def _drop_outdated(output: Path, report: Report) -> None:
    """Delete the engines of the last build that are not in the new report."""
    previous = read_report(output)
    outdated = {record.file for record in previous.engines} if previous else set()
    for name in outdated - {record.file for record in report.engines if not record.refused}:
        for file in network_files(output / name):
            file.unlink(missing_ok=True)


def _write_repositories(result: BuildResult) -> None:
    """Write the CPU server's repository, and the GPU server's where asked for or where a plan was built for it."""
    output, contract, report = result.job.output, result.job.contract, result.report
    execution = EXECUTION_TYPE.get(report.served.precision, "f32")
    write_repository(output, contract, output / report.served.file, precision=execution)
    plans = [output / engine.file for engine in report.engines if engine.target in PLAN_TARGETS]
    if plans or result.job.options.gpu_repository:
        write_gpu_repository(output, contract, plans[0] if plans else None)
