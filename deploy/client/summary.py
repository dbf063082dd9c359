"""Write what a run leaves: `result.json` for programs, a table for people."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rich.table import Table
from rich.text import Text

from data_pipeline.fields import as_line, is_number, require
from data_pipeline.files import write_whole
from data_pipeline.overlay import colour_of
from data_pipeline.spec import Thresholds
from deploy.client.batch import Outcome
from deploy.client.image import Failure, FileResult, Wanted
from deploy.client.transport import Served
from deploy.client.volume import VolumeResult
from deploy.contract import Contract

Finished = FileResult | VolumeResult
Kind = TypeVar("Kind", FileResult, VolumeResult)
RESULT_FILE = "result.json"
# A table with more rows gives no overview. result.json has them all.
TABLE_ROWS = 40
# Behind a probability in the table.
SIGNS = {"likely": "+", "unlikely": "-", "uncertain": "?"}


def write_result(output: Path, contract: Contract, wanted: Wanted, outcomes: Sequence[Outcome]) -> None:
    """Write `result.json`: what was wanted, colours and thresholds, a record for each file, or why it has none."""
    result = {
        "wanted": wanted.to_fields(),
        "colours": {name: _hex(index) for index, name in enumerate(contract.seg_classes) if index},
        "thresholds": contract.thresholds.to_fields() if contract.thresholds else None,
        "images": [outcome for outcome in outcomes if isinstance(outcome, FileResult)],
        "volumes": [outcome for outcome in outcomes if isinstance(outcome, VolumeResult)],
        "failures": [outcome for outcome in outcomes if isinstance(outcome, Failure)],
    }
    # `vars` rather than `asdict`, which copies: there may be tens of thousands of records, written every few seconds.
    write_whole(output / RESULT_FILE, json.dumps(result, indent=2, default=vars) + "\n")


def read_results(output: Path, wanted: Wanted) -> dict[str, Finished]:
    """Read the results of an earlier run that wanted the same, by file.

    Raises ValueError where `result.json` is not this command's.
    """
    file = output / RESULT_FILE
    if not file.exists():
        return {}
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        # What was wanted goes through JSON as well, which has no tuples.
        if read["wanted"] != json.loads(json.dumps(wanted.to_fields())):
            return {}
        results: list[Finished] = [_read_record(FileResult, record) for record in read["images"]]
        results += [_read_record(VolumeResult, record) for record in read["volumes"]]
    # The parser goes as deep as the brackets do.
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{file} is not a result of this command: remove it, or choose another --output") from None
    # A result whose files were deleted is to be computed again.
    return {one.file: one for one in results if all((output / name).exists() for name in one.files)}


def _read_record(described: type[Kind], record: dict[str, Any]) -> Kind:
    """Return the result that a record describes, or raise TypeError or ValueError where it is none."""
    result: Kind = described(**record)
    for field, kind in get_type_hints(described).items():
        value = getattr(result, field)
        require(conforms(value, kind), field, f"of the type {kind}", value)
    for name in ([result.name] if result.name else []) + [*result.files]:
        # Joined to the output folder, which it must not leave.
        require(Path(name).name == name, "what was written", "names of files", name)
    require(result.stamp.keys() in ({"bytes", "modified"}, set()), "stamp", "bytes and modified", result.stamp)
    require({"request_ms", "total_ms"} <= result.timings.keys(), "timings", "those of this command", result.timings)
    for area in result.areas.values():
        require({"pixels", "percent"} <= area.keys(), "areas", "pixels and percent", area)
    return result


def conforms(value: object, kind: Any) -> bool:
    """Tell whether a value of JSON is of a type, given as an annotation."""
    inner = get_args(kind)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(conforms(one, inner[1]) for one in value.values())
    if get_origin(kind) is list:
        return isinstance(value, list) and all(conforms(one, inner[0]) for one in value)
    if isinstance(kind, UnionType):
        return any(conforms(value, one) for one in inner)
    if kind is Any or value is None:
        return kind in (Any, NoneType)
    # The exact type, because True is an int as well. JSON writes whole floats as ints in some programs.
    return is_number(value, -sys.float_info.max, sys.float_info.max) if kind is float else type(value) is kind


def fits(result: Finished, served: Served) -> bool:
    """Tell whether a result is of the model that the server has now, by its hash, labels and classes."""
    names = tuple(result.classes), tuple(result.areas)
    same = result.sha256 == served.sha256 or not result.sha256 or not served.sha256
    return same and names == (served.contract.labels, served.contract.seg_classes[1:])


def table(contract: Contract, results: Sequence[Finished]) -> Table:
    """Return a table with a row for each image: the labels' probabilities and the segmentation classes' areas.

    Where the contract has thresholds, a sign says whether a label is likely.
    """
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
        summary.add_row(*_cells(result, contract.thresholds))
    captions = [f"the first {TABLE_ROWS} of {len(results)}; {RESULT_FILE} has all"] if len(results) > TABLE_ROWS else []
    if contract.thresholds:
        rate = f"{100 * contract.thresholds.rate:g} %"
        captions.append(f"+ likely and - unlikely at a specificity and sensitivity of {rate} on validation images")
    summary.caption = "; ".join(captions) or None
    return summary


def _cells(result: Finished, thresholds: Thresholds | None) -> list[str | Text]:
    signs = [
        f" {SIGNS[thresholds.verdict(*each)]}" if thresholds else "" for each in enumerate(result.classes.values())
    ]
    return [
        Text(as_line(result.file)),
        *(f"{probability:.3f}{sign}" for probability, sign in zip(result.classes.values(), signs, strict=True)),
        *(_area(area) for area in result.areas.values()),
        f"{result.timings['request_ms']:.0f} ms",
    ]


def _area(area: dict[str, float]) -> str:
    percent = f"{area['percent']:.1f} %"
    sizes = {unit: f"{area[key]:.4g} {unit}" for key, unit in (("mm2", "mm²"), ("mm3", "mm³")) if key in area}
    return "".join([*sizes.values(), f" ({percent})"]) if sizes else percent


def _hex(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(index))
