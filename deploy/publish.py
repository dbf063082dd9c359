"""Builds what a job lacks, then writes all that is made of its engines: the model repositories, report and page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from deploy.builder import Builder
from deploy.engines import engine_runner, pytorch_runner
from deploy.engines.openvino_cpu import EXECUTION_TYPE
from deploy.gallery import gallery
from deploy.job import Job
from deploy.plan import Engine
from deploy.report import EngineRecord, Report, write_report
from deploy.report_page import write_page
from deploy.repository import write_repository
from deploy.repository_gpu import write_gpu_repository
from deploy.verify import load_samples

PLAN_TARGETS = ("tensorrt", "torch-tensorrt")


def build_and_publish(job: Job, missing: Sequence[Engine], current: Sequence[EngineRecord], console: Console) -> Report:
    """The report of the job with nothing missing any more; raises BuildError, nothing published, where that fails."""
    samples = load_samples(job.contract, job.options.data, job.options.samples)
    report = Builder(job, samples, console).build(missing, current)
    write_repositories(job, report)
    served = report.served
    runner = engine_runner(served.target, served.precision, job.output / served.file, job.options.threads)
    assert runner is not None, "a served engine runs on the CPU"
    views = {"PyTorch fp32": pytorch_runner(job.checkpoint.build()), f"{served.target} {served.precision}": runner}
    write_page(job.output, report, job.contract, gallery(samples, views))
    write_report(job.output, report)
    return report


def write_repositories(job: Job, report: Report) -> None:
    """The CPU server's repository; the GPU server's beside it where asked for or where a plan was built for it."""
    execution = EXECUTION_TYPE.get(report.served.precision, "f32")
    write_repository(job.output, job.contract, job.output / report.served.file, precision=execution)
    plans = [job.output / engine.file for engine in report.engines if engine.target in PLAN_TARGETS]
    if plans or job.options.gpu_repository:
        write_gpu_repository(job.output, job.contract, plans[0] if plans else None)
