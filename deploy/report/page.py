"""Write `report.html`: the report as one page that needs no other file."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_pipeline.files import write_whole
from data_pipeline.overlay import colour_of
from deploy.contract import Contract
from deploy.report.gallery import GalleryRow
from deploy.report.plot import trade_off
from deploy.report.records import PAGE, Report


def write_page(output: Path, report: Report, contract: Contract, rows: Sequence[GalleryRow]) -> None:
    """Write `report.html` in one step, with its pictures inside it."""
    environment = Environment(
        # Escaped, because names of checkpoints and classes come from files. Strict, because an undefined name would
        # leave an empty cell that looks like a result.
        loader=PackageLoader("deploy.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
    )
    html = environment.get_template("report.html").render(
        report=report,
        contract=contract,
        scored=[engine for engine in report.engines if engine.scores],
        plot=trade_off(report),
        rows=rows,
        columns=list(rows[0].pictures) if rows else [],
        # The background, index 0, is not drawn.
        legend=[(name, colour_of(index)) for index, name in enumerate(contract.seg_classes) if index],
    )
    write_whole(output / PAGE, html)
