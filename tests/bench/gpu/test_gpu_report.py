"""Check the tables and the page that results become."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.gpu.report import NOT_YET, TITLES, faults, html_table, markdown, page, tables
from bench.gpu.session import Row
from bench.gpu.timing import Timing
from tests.helpers.imports import ROOT

CLOCKS = {"clocks.sm": 1980.0}


def row(
    contender: str, microseconds: float | None, case: str = "stage 1", table: str = "attention", **options: Any
) -> Row:
    """Make a row that is measured, or that fails where there is no time."""
    one = Row(table=table, case=case, contender=contender, error=1e-3, of_eager=0.5, **options)
    if microseconds is None:
        return one.without_time("failed", "No <available> kernel.")
    return one.with_time(Timing(microseconds=[microseconds] * 10), CLOCKS)


def results(*rows: Row, state: str = "done") -> dict[str, Any]:
    """Make the results of a run of one step."""
    step = {"name": "attention", "title": "some title", "state": state, "reason": "", "seconds": 3.2, "limit": 45.0}
    return {
        "started": "2026-11-26T10:00:00+00:00",
        "commit": "0123456789abcdef",
        "machine": {"about": {"GPU": "Some GPU"}, "versions": {"torch": "2.11.0", "triton": "3.6.0"}, "lacks": {}},
        "steps": [{**step, "rows": [one.fields() for one in rows]}],
    }


def test_a_table_has_a_row_a_case_and_a_column_a_contender() -> None:
    run = results(row("ours", 13.25), row("eager", 1234.5), row("flash", None), row("ours", 8.123, "stage 2"))
    text = tables(run)["gpu-attention"]
    first, *_ = text.splitlines()
    assert (
        first == "Some GPU at 1980 to 1980 MHz, torch 2.11.0, triton 3.6.0, 2026-11-26, commit 0123456789ab. Measured."
    )
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| medians in µs | ours | eager | flash |",
        "| --- | ---: | ---: | ---: |",
        "| stage 1 | 13.2 | 1234 | failed |",
        "| stage 2 | 8.12 |  |  |",
    ]


def test_networks_are_in_milliseconds() -> None:
    text = tables(results(row("ours", 1500.0, table="network")))["gpu-network"]
    assert "| stage 1 | 1.50 |" in text


def test_what_was_not_measured_says_so() -> None:
    assert set(tables(results()).values()) == {NOT_YET}
    assert tables(results(row("ours", None)))["gpu-attention"] == NOT_YET
    assert markdown(results()).count(NOT_YET) == len(TITLES)


class Cells(HTMLParser):
    """Collect the cells of a page, and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def test_the_page_shows_every_row_with_its_reason() -> None:
    run = results(row("ours", 13.25, figures={"images/s": 75.0}), row("flash", None), row("a <b>", 2.0))
    shown = Cells(page(run))
    assert not shown.open
    for expected in ("ours", "13.2", "0.50x", "1.0e-03", "1980", "images/s 75.0", "No <available> kernel.", "a <b>"):
        assert expected in shown.cells
    assert "3 of 45 s" in shown.cells


def test_a_table_of_no_rows_is_a_header() -> None:
    assert html_table(["a", "b"], [], words=1).count("<tr>") == 1


def test_what_is_broken_is_named_and_a_peer_that_refuses_is_not() -> None:
    assert faults(results(row("ours", 1.0), row("SDPA, flash", None))) == []
    wrong = row("SDPA, flash", 1.0).without_time("wrong", "its error is 9 times eager's")
    found = faults(results(row("ours, CUDA graph", None), wrong, row("test_x", None, table="tests"), state="timed out"))
    assert [fault.partition(":")[0] for fault in found] == [
        "attention",
        "attention, stage 1",
        "attention, stage 1",
        "tests, stage 1",
    ]


def test_a_peer_that_takes_too_long_is_no_fault_and_ours_is() -> None:
    for contender, faulty in (("torch.compile", False), ("ours, torch.compile", True), ("TensorRT, our plugins", True)):
        last = row(contender, 1.0).without_time("cut off", "the step ended meanwhile")
        assert bool(faults(results(row("ours", 1.0), last, state="timed out"))) == faulty
    # Nobody knows what hung there.
    assert faults(results(row("ours", 1.0), state="timed out"))
    # A test that hangs, and our plugins where they fail.
    assert faults(results(row("test_x", 1.0, table="tests").without_time("cut off", "meanwhile"), state="timed out"))
    assert faults(results(row("TensorRT, our plugins", None)))


def test_readme_has_a_place_for_every_table(tmp_path: Path) -> None:
    copy, file = tmp_path / "README.md", tmp_path / "gpu.json"
    copy.write_text((ROOT / "bench" / "README.md").read_text())
    file.write_text(json.dumps(results(row("ours", 13.25))))
    assert report.main([str(file), "--update", str(copy)]) == 0
    assert "| stage 1 | 13.2 |" in copy.read_text()
    assert copy.read_text().count(NOT_YET) == len(TITLES) - 1


def test_results_of_another_version_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"steps": [{}]}))
    assert report.main([str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "must come from this version" in line
