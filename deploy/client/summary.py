"""Write what a run leaves: `result.json` for programs, a table for people."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from data_pipeline.fields import as_line
from data_pipeline.files import write_whole
from data_pipeline.overlay import colour_of
from deploy.client.batch import Failure, FileResult, Outcome
from deploy.contract import Contract

RESULT_FILE = "result.json"
# A table with more rows gives no overview. result.json has them all.
TABLE_ROWS = 40


def write_result(output: Path, contract: Contract, outcomes: Sequence[Outcome]) -> None:
    """Write `result.json`: the colour of each class, a record for each image, the reason of each failure."""
    result = {
        "colours": {name: _hex(index) for index, name in enumerate(contract.seg_classes) if index},
        "images": [outcome for outcome in outcomes if isinstance(outcome, FileResult)],
        "failures": [outcome for outcome in outcomes if isinstance(outcome, Failure)],
    }
    # `vars` rather than `asdict`, which copies: there may be tens of thousands of records, written every few seconds.
    write_whole(output / RESULT_FILE, json.dumps(result, indent=2, default=vars) + "\n")


def read_results(output: Path) -> dict[str, FileResult]:
    """Read the results of an earlier run, by file.

    Raises ValueError where `result.json` is not this command's.
    """
    file = output / RESULT_FILE
    if not file.exists():
        return {}
    try:
        results = [FileResult(**record) for record in json.loads(file.read_text())["images"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{file} is not a result of this command: remove it, or choose another --output") from None
    # A result whose overlay was deleted is to be computed again.
    return {result.file: result for result in results if (output / result.overlay).exists()}


def table(contract: Contract, results: Sequence[FileResult]) -> Table:
    """Return a table with a row for each image: the labels' probabilities and the segmentation classes' areas."""
    summary = Table()
    # Long paths and names are folded rather than cut, so that they can be copied. As Text they may hold brackets and
    # colons, which rich would take for markup in a string.
    summary.add_column("image", overflow="fold")
    for label in contract.labels:
        summary.add_column(Text(label), justify="right", overflow="fold")
    for index, name in enumerate(contract.seg_classes[1:], 1):
        # In the colour of the overlays: the table is their legend.
        summary.add_column(Text(f"■ {name} area", style=_hex(index)), justify="right", overflow="fold")
    summary.add_column("request", justify="right", overflow="fold")
    for result in results[:TABLE_ROWS]:
        summary.add_row(*_cells(result))
    if len(results) > TABLE_ROWS:
        summary.caption = f"the first {TABLE_ROWS} of {len(results)}; {RESULT_FILE} has all"
    return summary


def _cells(result: FileResult) -> list[str | Text]:
    return [
        Text(as_line(result.file)),
        *(f"{probability:.3f}" for probability in result.classes.values()),
        *(f"{area['percent']:.1f} %" for area in result.areas.values()),
        f"{result.timings['request_ms']:.0f} ms",
    ]


def _hex(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(index))
