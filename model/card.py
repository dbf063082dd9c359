"""Calibrate a checkpoint and write its card: `python -m model.card --checkpoint FILE --output model/weights/NAME`."""

import argparse
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from data_pipeline import SOURCES, DataError, Dataset, Split, open_splits
from data_pipeline.command_line import Output, new_parser, run_command
from data_pipeline.files import require_writable, write_whole
from model.calibration import fit_calibration
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from model.evaluate import tracked
from model.evaluation import ScoredCase, collect_scores, score_cases, score_network
from model.evaluation.card import Card, notes_of
from model.evaluation.gallery import draw_gallery
from model.evaluation.labels import confusion, largest_probability
from model.evaluation.reliability import draw_reliability
from model.evaluation.summary import label_table, summarise, summarise_sizes
from model.origin import is_unseen, split_seed

EXAMPLES = """examples:
  python -m model.card --checkpoint build/train-skin/best.safetensors --output model/weights/skin-tiny
  python -m model.card --checkpoint old.safetensors --data folder:my_data --output build/mine
"""
SPLITS: tuple[Split, ...] = ("validation", "test")
QUALITY = 85  # of the masks' picture as a JPEG
# What each picture shows, by what follows the card's name in the file's.
PICTURES = {
    ".png": "Training loss and validation scores of the epochs",
    "-reliability.png": "Share of images with each label against its predicted probability",
    "-masks.jpg": "Best, median and worst masks: image, target, predicted",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or end the process with exit code 2 and one line for a misuse."""
    parser = new_parser("model.card", __doc__, EXAMPLES)
    parser.add_argument("--checkpoint", required=True, type=Path, help="a .safetensors file, calibrated or not")
    parser.add_argument("--data", help=f"{SOURCES} (default: what the checkpoint was trained on)")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="PREFIX",
        help="writes PREFIX.safetensors, PREFIX.md and the card's pictures, and keeps the notes of an older card",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out the samples that cannot be used")
    options = parser.parse_args(arguments)
    if not options.output.name:
        parser.error(f"--output must end in the card's name, got {options.output}")
    if not options.checkpoint.is_file():
        parser.error(f"--checkpoint must be a .safetensors file, got {options.checkpoint}")
    return options


def make_card(options: argparse.Namespace, console: Console) -> None:
    """Fit temperatures and thresholds on the validation split, score the test split, write checkpoint and card."""
    weights, path = (options.output.with_name(f"{options.output.name}.{end}") for end in ("safetensors", "md"))
    # Before the network runs, whatever could stop the files from being written.
    notes = notes_of(path)
    require_writable(weights.parent)
    checkpoint, device = load_checkpoint(options.checkpoint), "cuda" if torch.cuda.is_available() else "cpu"
    source = options.data or checkpoint.info.data
    opening = {"skip_bad": options.skip_bad, "report": console.print}
    # Divided as for the training, and under the checkpoint's classes.
    splits = open_splits(source, dict.fromkeys(SPLITS), seed=split_seed(checkpoint.info), **opening)
    fitting = (checkpoint.info.seg_classes, checkpoint.info.labels)
    validation, test = (splits[split].fit_classes(*fitting) for split in SPLITS)
    checkpoint = calibrate(checkpoint, validation, device)
    spec, network = checkpoint.info.preprocessing, checkpoint.build().to(device)
    cases = tracked(score_cases(network, test, spec), len(test.records), console)
    own_scores, gallery = score_network(network, test, spec), draw_gallery(cases, network, test, spec)
    # Everything is computed: from here on files are written, so that weights and card belong to each other.
    save_checkpoint(weights, checkpoint)
    probs, target = label_table(cases)
    card = Card(
        name=options.output.name,
        checkpoint=checkpoint,
        megabytes=weights.stat().st_size / 1e6,
        command=f"python -m model.card {shlex.join(sys.argv[1:])}",
        unseen=is_unseen(checkpoint.info, test, "test"),
        images=len(cases),
        scores=summarise(cases, test, calibration=checkpoint.info.calibration),
        own_scores=own_scores,
        sizes=summarise_sizes(cases),
        confusion=confusion(probs, target, test.labels),
        largest=largest_probability(probs, target),
        pictures=draw_pictures(options, checkpoint, cases, gallery),
    )
    write_whole(path, card.to_markdown(notes))
    console.print(f"wrote {weights} and {path}")


def draw_pictures(
    options: argparse.Namespace, checkpoint: Checkpoint, cases: Sequence[ScoredCase], gallery: Image.Image | None
) -> dict[str, str]:
    """Write the card's pictures, and return what each file shows."""
    curves, reliability, masks = (options.output.with_name(f"{options.output.name}{end}") for end in PICTURES)
    # Training leaves them beside its weights. Those of an older card are of these weights where it is made anew.
    drawn, weights = (
        options.checkpoint.with_name("curves.png"),
        options.output.with_name(f"{options.output.name}.safetensors"),
    )
    if drawn.is_file():
        write_whole(curves, drawn.read_bytes())
    known = drawn.is_file() or (curves.is_file() and options.checkpoint.samefile(weights))
    draw_reliability(*label_table(cases), checkpoint.info.labels, checkpoint.info.calibration, reliability)
    if gallery:
        gallery.save(file := io.BytesIO(), "JPEG", quality=QUALITY)
        write_whole(masks, file.getvalue())
    made = {curves: known, reliability: True, masks: gallery is not None}
    return {path.name: shows for path, shows in zip(made, PICTURES.values(), strict=True) if made[path]}


def calibrate(checkpoint: Checkpoint, validation: Dataset, device: str) -> Checkpoint:
    """Return the checkpoint with temperatures and thresholds fitted anew."""
    trained = replace(checkpoint, info=replace(checkpoint.info, calibration=None))
    scores = collect_scores(trained.build().to(device), validation, trained.info.preprocessing)
    calibration = fit_calibration(*scores.labels_collected())
    return replace(trained, info=replace(trained.info, calibration=calibration))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed with one line, 130 interrupted.

    A misuse of the command line ends the process with 2.
    """
    options = parse_arguments(arguments)
    return run_command(lambda: make_card(options, Output()), CheckpointError, DataError, OSError)


if __name__ == "__main__":
    sys.exit(main())
