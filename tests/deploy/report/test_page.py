"""Write the report's page with names that look like markup, and read it as a browser does."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from data_pipeline import Preprocessing
from deploy.contract import Contract
from deploy.report import PAGE, EngineRecord, Report
from deploy.report.page import GalleryRow, write_page
from deploy.verify import Parity
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


def read_page(folder: Path, classes: tuple[str, ...], labels: tuple[str, ...], checkpoint: str) -> Reader:
    """Write the page of a build with these names, and read it."""
    contract = Contract(preprocessing=Preprocessing(image_size=64), seg_classes=classes, labels=labels)
    parity = Parity(classification=0.0, segmentation=0.0, mask=0.0)
    engine = EngineRecord(
        target="onnx", precision="fp32", file="model.onnx", tool="torch", key="", parity=parity, latency_ms=1.0
    )
    report = Report(
        checkpoint=checkpoint,
        model_key="",
        contract=contract.to_fields(),
        samples=f"5 images of folder:{checkpoint}",
        reference_scores=None,
        reference_ms=2.0,
        engines=(engine, replace(engine, precision="fp16", refused=f"it loses {classes[1]}")),
        machine={"processor": "p", "cores": "2", "python": "3"},
    )
    rows = [GalleryRow({"image": "data:,", "target": "data:,"}, [(name, 1, 0.5) for name in labels])]
    write_page(folder, report, contract, rows)
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
