"""Write the report's page with names that look like markup, and read it as a browser does."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from rich.console import Console

from data_pipeline import Preprocessing
from data_pipeline.spec import Thresholds
from deploy.contract import Contract
from deploy.report import PAGE, EngineRecord, Report, engine_table
from deploy.report.page import GalleryRow, write_page
from deploy.verify import Change, Parity
from tests.helpers.names import CLASSES, FILE, LABELS, NAMES

PLAIN_CLASSES, PLAIN_LABELS = (tuple(f"name {index}" for index in range(len(names))) for names in (CLASSES, LABELS))


class Reader(HTMLParser):
    """Collect the tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def report_of(contract: Contract, checkpoint: str) -> Report:
    """Describe a build of one engine, and of one that was refused."""
    parity = Parity(classification=0.0, segmentation=0.0, mask=0.0)
    engine = EngineRecord(
        target="onnx", precision="fp32", file="model.onnx", tool="torch", key="", parity=parity, latency_ms=1.0
    )
    return Report(
        checkpoint=checkpoint,
        model_key="",
        contract=contract.to_fields(),
        samples=f"5 images of folder:{checkpoint}",
        reference_scores=None,
        reference_ms=2.0,
        engines=(engine, replace(engine, precision="fp16", refused=f"it loses {contract.seg_classes[1]}")),
        machine={"processor": "p", "cores": "2", "python": "3"},
    )


def read_page(folder: Path, classes: tuple[str, ...], labels: tuple[str, ...], checkpoint: str) -> Reader:
    """Write the page of a build with these names, and read it."""
    contract = Contract(preprocessing=Preprocessing(image_size=64), seg_classes=classes, labels=labels)
    rows = [GalleryRow({"image": "data:,", "target": "data:,"}, [(name, 1, 0.5) for name in labels])]
    write_page(folder, report_of(contract, checkpoint), contract, rows)
    reader = Reader()
    text = (folder / PAGE).read_text()
    # Anything before it would put a browser into its mode for old pages.
    assert text.startswith("<!doctype html>")
    reader.feed(text)
    return reader


def test_names_are_text_in_the_page(tmp_path: Path) -> None:
    odd = read_page(tmp_path, CLASSES, LABELS, FILE)
    plain = read_page(tmp_path, PLAIN_CLASSES, PLAIN_LABELS, "a.safetensors")
    # The same elements: no name has become one.
    assert odd.tags == plain.tags
    # As a class above the tables and in the legend, as a label above the tables and in the gallery.
    for name in NAMES:
        assert odd.text.count(name) >= 4, name
    # A line break is a space in a page, and a byte that is no text stands as its number.
    assert re.search(r"Engines of \[red\] <b> \s\\udcff\.png", odd.text)


def test_a_score_that_an_engine_does_not_define_is_said_to_be_so(tmp_path: Path) -> None:
    """Score images without any lesion, of which the reference alone has a false alarm."""
    contract = Contract(preprocessing=Preprocessing(image_size=64), seg_classes=PLAIN_CLASSES, labels=PLAIN_LABELS)
    scores, change = {"pooled_dice": 0.0, "accuracy": 1.0}, {"accuracy": Change(0.0, 0.0, 0.0)}
    report = report_of(contract, "a.safetensors")
    engine = replace(report.engines[0], scores={"accuracy": 1.0}, changes=change)
    write_page(tmp_path, replace(report, reference_scores=scores, engines=(engine,)), contract, [])
    reader = Reader()
    reader.feed((tmp_path / PAGE).read_text())
    assert reader.text.count("not defined") == 1


def test_the_page_shows_the_thresholds_of_each_label(tmp_path: Path) -> None:
    pairs = Thresholds(sensitive=(0.123, 0.25), specific=(0.75, 0.987), rate=0.9)
    labels = ("fluid", "scar")
    plain = Contract(preprocessing=Preprocessing(image_size=64), seg_classes=("background", "a"), labels=labels)
    pages = []
    for contract in (plain, replace(plain, thresholds=pairs)):
        write_page(tmp_path, report_of(contract, "a.safetensors"), contract, [])
        pages.append(" ".join((tmp_path / PAGE).read_text().split()))
    assert "Thresholds" not in pages[0]
    assert "90 % of the validation images that have a label reach its sensitive threshold" in pages[1]
    for label, low, high in (("fluid", "0.123", "0.750"), ("scar", "0.250", "0.987")):
        assert f"<tr><td><bdi>{label}</bdi></td><td>{low}</td><td>{high}</td></tr>" in pages[1]


def test_a_name_is_text_above_the_table_of_engines() -> None:
    text = io.StringIO()
    contract = Contract(preprocessing=Preprocessing(image_size=64), seg_classes=CLASSES, labels=LABELS)
    Console(file=text, width=200).print(engine_table(report_of(contract, f"[/] :smile: {FILE}")))
    assert r"[/] :smile: [red] <b> \n\udcff.png" in text.getvalue()
