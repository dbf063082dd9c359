"""Score a checkpoint on held-out data: `python -m model.evaluate --checkpoint FILE --data SOURCE --output DIR`."""

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import track

from data_pipeline import SOURCES, DataError, Split, open_usable
from data_pipeline.command_line import Output, new_parser, positive, run_command, seed
from data_pipeline.files import whole_file, write_whole
from model.checkpoint import CheckpointError, load_checkpoint
from model.evaluation import score_cases
from model.evaluation.summary import draw_gallery, score_table, summarise, write_cases

EXAMPLES = """examples:
  python -m model.evaluate --checkpoint model/weights/skin-tiny.safetensors --data synthetic:skin --output build/skin
  python -m model.evaluate --checkpoint build/mine/best.safetensors --data folder:held_out --split all \\
    --output build/mine
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or end the process with exit code 2 and one line for a misuse."""
    parser = new_parser("model.evaluate", __doc__, EXAMPLES)
    parser.add_argument("--checkpoint", required=True, help="a .safetensors file, or random:PRESET")
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument("--samples", type=positive(int), help="number of images (default: all that the split has)")
    parser.add_argument(
        "--split",
        choices=get_args(Split),
        default="test",
        help="which part of the data; all is every image of folder:DIR or retouch:DIR (default: test)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the data and the bootstrap (default: 0)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out the samples that cannot be used")
    parser.add_argument("--output", required=True, type=Path, help="folder for metrics.json, cases.csv, gallery.png")
    return parser.parse_args(arguments)


def evaluate(options: argparse.Namespace, console: Console) -> None:
    """Score, print the table and write `metrics.json`, `cases.csv` and, where an image shows a class, `gallery.png`."""
    checkpoint = load_checkpoint(options.checkpoint)
    info = checkpoint.info
    opening = {"skip_bad": options.skip_bad, "seed": options.seed, "report": console.print}
    what = "all images" if options.split == "all" else f"the {options.split} split"
    chosen = ", chosen by --seed; --split all scores the whole folder" if options.data.startswith("folder:") else ""
    console.print(f"scoring {what} of {options.data}{chosen if options.split != 'all' else ''}")
    dataset = open_usable(options.data, options.split, samples=options.samples, **opening)
    # Before the network runs: masks of other classes would give scores that mean nothing.
    dataset = dataset.fit_classes(info.seg_classes, info.labels)
    spec, network = info.preprocessing, checkpoint.build().to("cuda" if torch.cuda.is_available() else "cpu")
    scored = score_cases(network, dataset, spec)
    shown, total = console.is_terminal, len(dataset.records)
    cases = list(track(scored, "scoring images", total=total, console=console, transient=True, disable=not shown))
    scores = summarise(cases, dataset, options.seed)
    console.print(
        score_table(scores, f"{options.checkpoint} on {len(cases)} images of {options.data} ({options.split})")
    )
    report = {"checkpoint": options.checkpoint, "data": options.data, "split": options.split, "images": len(cases)}
    estimates = {name: estimate._asdict() for name, estimate in scores.items()}
    write_whole(options.output / "metrics.json", json.dumps({**report, "scores": estimates}, indent=2) + "\n")
    write_cases(cases, dataset, options.output / "cases.csv")
    if gallery := draw_gallery(cases, network, dataset, spec):
        with whole_file(options.output / "gallery.png") as temporary:
            # Named, because the temporary file's suffix tells Pillow nothing.
            gallery.save(temporary, "PNG")
    console.print(f"wrote {options.output}/metrics.json, cases.csv" + (" and gallery.png" if gallery else ""))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed with one line, 130 interrupted.

    A misuse of the command line ends the process with 2.
    """
    options = parse_arguments(arguments)
    return run_command(lambda: evaluate(options, Output()), CheckpointError, DataError, OSError)


if __name__ == "__main__":
    sys.exit(main())
