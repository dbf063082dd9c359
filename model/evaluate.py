"""Score a checkpoint on held-out data: `python -m model.evaluate --checkpoint FILE --data SOURCE --output DIR`."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import track

from data_pipeline import SOURCES, DataError, Split, open_usable
from data_pipeline.command_line import Output, new_parser, positive, run_command, seed
from data_pipeline.files import require_writable, whole_file, write_whole
from model.checkpoint import CheckpointError, load_checkpoint
from model.evaluation import ScoredCase, score_cases
from model.evaluation.average import average_of
from model.evaluation.gallery import draw_gallery
from model.evaluation.reliability import draw_reliability
from model.evaluation.summary import label_table, report_fields, score_table, summarise, write_cases
from model.origin import is_of_the_training, is_unseen, split_seed

EXAMPLES = """examples:
  python -m model.evaluate --checkpoint model/weights/skin-tiny.safetensors --data synthetic:skin --output build/skin
  python -m model.evaluate --checkpoint build/mine/best.safetensors --data folder:held_out --split all \\
    --output build/mine
  python -m model.evaluate --checkpoint build/seed0/best.safetensors build/seed1/best.safetensors --mirror \\
    --data folder:held_out --split all --output build/ensemble
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or end the process with exit code 2 and one line for a misuse."""
    parser = new_parser("model.evaluate", __doc__, EXAMPLES)
    parser.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        metavar="FILE",
        help="a .safetensors file or random:PRESET, or several whose probabilities are averaged",
    )
    parser.add_argument("--mirror", action="store_true", help="average over each image and its mirror image")
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument("--samples", type=positive(int), help="number of images (default: all that the split has)")
    parser.add_argument(
        "--split",
        choices=get_args(Split),
        default="test",
        help="which part of the data; all is every image of folder:DIR or retouch:DIR (default: test)",
    )
    parser.add_argument(
        "--seed", type=seed, help="of the data's division and of the bootstrap (default: that of the training, and 0)"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out the samples that cannot be used")
    parser.add_argument("--output", required=True, type=Path, help="folder for metrics.json, cases.csv, the pictures")
    return parser.parse_args(arguments)


def evaluate(options: argparse.Namespace, console: Console) -> None:
    """Score the images, print the table and write `metrics.json`, `cases.csv` and the pictures."""
    # Before the network runs, whatever could stop the files from being written.
    require_writable(options.output)
    checkpoints = [load_checkpoint(each) for each in options.checkpoint]
    info, network = checkpoints[0].info, average_of(checkpoints, mirror=options.mirror)
    # An average has probabilities of its own, to which the temperatures and thresholds of one network do not belong.
    calibration = None if options.mirror or len(checkpoints) > 1 else info.calibration
    division = split_seed(info) if options.seed is None else options.seed
    opening = {"skip_bad": options.skip_bad, "seed": division, "report": console.print}
    what = "all images" if options.split == "all" else f"the {options.split} split"
    of_folder = options.data.startswith("folder:") and options.split != "all"
    chosen = f", chosen by the seed {division}; --split all scores the whole folder" if of_folder else ""
    console.print(f"scoring {what} of {options.data}{chosen}")
    dataset = open_usable(options.data, options.split, samples=options.samples, **opening)
    # Before the network runs: masks of other classes would give scores that mean nothing.
    dataset = dataset.fit_classes(info.seg_classes, info.labels)
    infos = [checkpoint.info for checkpoint in checkpoints]
    if any(is_of_the_training(one, dataset) and not is_unseen(one, dataset, options.split) for one in infos):
        console.print("warning: the checkpoint was trained on images of these, or chosen by them")
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    cases = tracked(score_cases(network, dataset, info.preprocessing), len(dataset.records), console)
    drawn = options.seed or 0
    scores = summarise(cases, dataset, drawn, calibration)
    report = {"checkpoints": options.checkpoint, "mirror": options.mirror, "data": options.data, "split": options.split}
    report |= report_fields(cases, dataset, scores, drawn)
    write_whole(options.output / "metrics.json", json.dumps(report, indent=2) + "\n")
    write_cases(cases, dataset, options.output / "cases.csv")
    draw_reliability(*label_table(cases), dataset.labels, calibration, options.output / "reliability.png")
    gallery = draw_gallery(cases, network, dataset, info.preprocessing)
    if gallery:
        with whole_file(options.output / "gallery.png") as temporary:
            # Named, because the temporary file's suffix tells Pillow nothing.
            gallery.save(temporary, "PNG")
    else:
        # That of other images would stand beside these scores.
        (options.output / "gallery.png").unlink(missing_ok=True)
    names = " and ".join(options.checkpoint) + (" with mirror images" if options.mirror else "")
    # Last, because the reader of a pipe may be gone.
    console.print(score_table(scores, f"{names} on {len(cases)} images of {options.data} ({options.split})"))
    written = ["cases.csv", "reliability.png", *(["gallery.png"] if gallery else [])]
    console.print(f"wrote {options.output}/metrics.json, {', '.join(written)}")


def tracked(scored: Iterator[ScoredCase], total: int, console: Console) -> list[ScoredCase]:
    """Return the scored cases, with a bar in a terminal until all are there."""
    silent = not console.is_terminal
    return list(track(scored, "scoring images", total=total, console=console, transient=True, disable=silent))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed with one line, 130 interrupted.

    A misuse of the command line ends the process with 2.
    """
    options = parse_arguments(arguments)
    return run_command(lambda: evaluate(options, Output()), CheckpointError, DataError, OSError)


if __name__ == "__main__":
    sys.exit(main())
