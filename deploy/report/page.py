"""Write `report.html`: the report as one self-contained page, with a plot of the engines and a gallery of masks."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data_pipeline import Dataset
from data_pipeline.dicom import picture_file
from data_pipeline.enlarge import enlarge
from data_pipeline.files import write_whole
from data_pipeline.overlay import colour_of, draw, fit_mask, open_upright, png
from deploy.contract import Contract
from deploy.engines import Runner
from deploy.report import PAGE, EngineRecord, Report
from deploy.verify.task_gate import TASK_TOLERANCE, Samples

ROWS = 4
WIDTH = 320  # of a picture, in pixels
PANELS = {"dice": "Dice", "accuracy": "accuracy"}


@dataclass(frozen=True)
class GalleryRow:
    """Hold what the gallery shows of one image.

    pictures: PNG pictures as data URLs, by the name above their column.
    labels: each label's name, target and probability.
    """

    pictures: dict[str, str]
    labels: list[tuple[str, int, float]]


def gallery(samples: Samples, runners: dict[str, Runner]) -> Sequence[GalleryRow]:
    """Draw the first images of the samples with the mask of every runner, or nothing for noise.

    runners: by the name above their column. The probabilities shown are the last one's.
    """
    if samples.dataset is None or samples.targets is None:
        return ()
    return [
        _row(samples.dataset, samples.targets.masks, samples.images, index, runners)
        for index in range(min(ROWS, len(samples.images)))
    ]


def _row(
    dataset: Dataset, masks: Tensor, images: NDArray[np.float32], index: int, runners: dict[str, Runner]
) -> GalleryRow:
    record = dataset.records[index]
    # One image a call, because an engine may take no more.
    outputs = {name: runner(images[index : index + 1]) for name, runner in runners.items()}
    probabilities = list(outputs.values())[-1].class_probs[0].tolist()
    predicted = {name: output.seg_probs[0] for name, output in outputs.items()}
    return GalleryRow(
        pictures=_pictures(picture_file(record.image.read_bytes()), masks[index].numpy().astype(np.uint8), predicted),
        labels=list(zip(dataset.labels, record.labels, probabilities, strict=True)),
    )


def _pictures(data: bytes, target: NDArray[np.uint8], predicted: dict[str, NDArray[np.float32]]) -> dict[str, str]:
    """Return the image, and the image under its target mask and under each predicted one, by name."""
    # Drawn over the file in its own proportions: the network saw it as a square.
    image = open_upright(data)
    image = image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)
    masks = {"target": fit_mask(target, image.size)}
    masks |= {name: enlarge(probabilities, image.size) for name, probabilities in predicted.items()}
    overlays = {name: draw(image, mask) for name, mask in masks.items()}
    return {name: _data_url(picture) for name, picture in {"image": image, **overlays}.items()}


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def trade_off(report: Report) -> str | None:
    """Plot the time of one image against the change of each score, as a PNG in a data URL.

    Return None where nothing was scored.
    """
    # Neither what was not verified nor what was timed on another machine's GPU has a place on it.
    engines = [engine for engine in report.engines if engine.changes and engine.latency_ms is not None]
    if not engines:
        return None
    # Without pyplot, which would choose a display and keep every figure.
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (score, label) in zip(figure.subplots(1, len(PANELS), sharex=True), PANELS.items(), strict=True):
        axes.plot(report.reference_ms, 0, "k*", markersize=10, label="PyTorch fp32")
        for engine in engines:
            if score in engine.changes:
                _point(axes, engine, score)
        axes.axhline(-TASK_TOLERANCE[score], color="tab:red", linestyle="--", linewidth=1, label="refused below")
        axes.set(xlabel="one image, ms (median)", ylabel=f"{label}, change to PyTorch", xlim=(0, None))
        axes.grid(alpha=0.3)
    # Both panels have the same legend, so one below them is enough.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _point(axes: Axes, engine: EngineRecord, score: str) -> None:
    change = engine.changes[score]
    assert engine.latency_ms is not None
    # errorbar takes lengths, not ends.
    span = [[change.value - change.low], [change.high - change.value]]
    axes.errorbar(engine.latency_ms, change.value, yerr=span, fmt="o", capsize=3, label=engine.name)


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
    # The name of a checkpoint's file may hold bytes that are no text.
    write_whole(output / PAGE, html.encode(errors="backslashreplace"))
