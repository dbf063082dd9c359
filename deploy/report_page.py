"""`report.html`: the report as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from deploy.client.overlay import colour_of
from deploy.contract import Contract
from deploy.files import write_atomically
from deploy.gallery import Case
from deploy.report import Report
from deploy.trade_off import trade_off

PAGE = "report.html"


def write_page(output: Path, report: Report, contract: Contract, cases: Sequence[Case]) -> None:
    """Write `report.html` in one step; pictures are inside it."""
    environment = Environment(loader=PackageLoader("deploy"), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template(PAGE).render(
        report=report,
        contract=contract,
        scored=[engine for engine in report.engines if engine.scores],
        plot=trade_off(report),
        cases=cases,
        columns=list(cases[0].pictures) if cases else [],
        legend=[(name, colour_of(index)) for index, name in enumerate(contract.seg_classes) if index],
    )
    write_atomically(output / PAGE, html.encode())
