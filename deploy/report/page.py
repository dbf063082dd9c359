"""`report.html`: the report as one self-contained page."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_pipeline.files import write_whole
from data_pipeline.overlay import colour_of
from deploy.contract import Contract
from deploy.report.gallery import Case
from deploy.report.plot import trade_off
from deploy.report.records import Report

PAGE = "report.html"


def write_page(output: Path, report: Report, contract: Contract, cases: Sequence[Case]) -> None:
    """Write `report.html` in one step; pictures are inside it."""
    environment = Environment(
        loader=PackageLoader("deploy.report", package_path=""), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template(PAGE).render(
        report=report,
        contract=contract,
        scored=[engine for engine in report.engines if engine.scores],
        plot=trade_off(report),
        cases=cases,
        columns=list(cases[0].pictures) if cases else [],
        legend=[(name, colour_of(index)) for index, name in enumerate(contract.seg_classes) if index],
    )
    write_whole(output / PAGE, html.encode())
