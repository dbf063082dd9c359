"""What a run leaves: `result.json` for programs, a table for people."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from data_pipeline.files import write_whole
from data_pipeline.overlay import colour_of
from deploy.client.batch import Answer, Failure, Outcome
from deploy.contract import Contract

RESULT_FILE = "result.json"
# More rows than this are no overview any more; result.json has them all.
TABLE_ROWS = 40


def write_result(output: Path, contract: Contract, outcomes: Sequence[Outcome]) -> None:
    """Write `result.json`: the colour of each class, a record of each image, the reason of each failure."""
    result = {
        "colours": {name: _hex(index) for index, name in enumerate(contract.seg_classes) if index},
        "images": [outcome for outcome in outcomes if isinstance(outcome, Answer)],
        "failures": [outcome for outcome in outcomes if isinstance(outcome, Failure)],
    }
    # Not copied by `asdict`: they may be tens of thousands.
    write_whole(output / RESULT_FILE, (json.dumps(result, indent=2, default=vars) + "\n").encode())


def read_answers(output: Path) -> dict[str, Answer]:
    """What an earlier run left, by file: the answers whose overlays are still there.  ValueError for another's file."""
    file = output / RESULT_FILE
    if not file.exists():
        return {}
    try:
        answers = [Answer(**record) for record in json.loads(file.read_text())["images"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{file} is not a result of this command: remove it, or choose another --output") from None
    return {answer.file: answer for answer in answers if (output / answer.overlay).exists()}


def table(contract: Contract, answers: Sequence[Answer]) -> Table:
    """A row an image: the probability of each label and the area of each segmentation class."""
    summary = Table()
    summary.add_column("image", overflow="fold")
    for label in contract.labels:
        summary.add_column(label, justify="right")
    for index, name in enumerate(contract.seg_classes[1:], 1):
        summary.add_column(Text(f"■ {name} area", style=_hex(index)), justify="right")
    summary.add_column("request", justify="right")
    for answer in answers[:TABLE_ROWS]:
        summary.add_row(*_cells(answer))
    if len(answers) > TABLE_ROWS:
        summary.caption = f"the first {TABLE_ROWS} of {len(answers)}; {RESULT_FILE} has all"
    return summary


def _cells(answer: Answer) -> list[str]:
    return [
        answer.file,
        *(f"{probability:.3f}" for probability in answer.classes.values()),
        *(f"{area['percent']:.1f} %" for area in answer.areas.values()),
        f"{answer.timings['request_ms']:.0f} ms",
    ]


def _hex(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(index))
