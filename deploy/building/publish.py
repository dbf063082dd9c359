"""Publish a finished build: the engines, the model repositories that serve them, the page and the report."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deploy.building.builder import PYTORCH, BuildResult
from deploy.building.commit import commit
from deploy.content import fingerprint, network_files
from deploy.engines import execution
from deploy.files import DIRECTORY, TUNING
from deploy.report import Report, write_report
from deploy.report.page import gallery, write_page
from deploy.repository import write_repository
from deploy.repository.gpu import write_gpu_repository
from deploy.verify.golden import make_golden


def publish(result: BuildResult) -> Report:
    """Put everything into the job's output folder and return its report."""
    output, report = result.state.job.output, result.report
    staged = result.scratch / "staged"
    staged.mkdir()
    for record in result.made:
        if not record.refused:
            for file in network_files(result.scratch / record.file):
                file.rename(staged / file.name)
    _write_repositories(result, staged)
    views = {"PyTorch fp32": result.runners[PYTORCH], report.served.name: result.runners[report.served.file]}
    write_page(staged, report, result.state.job.contract, gallery(result.samples, views))
    report = replace(report, files=result.state.files | dict(_fingerprints(staged)))
    write_report(staged, report)
    commit(staged, output)
    return report


def _write_repositories(result: BuildResult, staged: Path) -> None:
    """Write the CPU server's repository, and the GPU server's where it was asked for or a plan was built for it."""
    job, report = result.state.job, result.report

    def find(file: str) -> Path:
        return staged / file if (staged / file).exists() else job.output / file

    served = report.served
    computed = execution(served.target, served.precision)
    assert computed is not None, "the server of a CPU is given engines of a CPU"
    golden = make_golden(job.contract, result.runners[PYTORCH], result.runners[served.file], served.precision)
    write_repository(
        staged, job.contract, find(served.file), golden, execution=computed, previous=job.output / DIRECTORY
    )
    if report.plan or result.state.gpu_repository:
        write_gpu_repository(staged, job.contract, find(report.plan.file) if report.plan else None)


def _fingerprints(staged: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and hash of every staged file, except for that which `deploy.tune` writes anew."""
    for file in sorted(path for path in staged.rglob("*") if path.is_file() and path.name != TUNING):
        yield file.relative_to(staged).as_posix(), fingerprint(file)
