"""Score a checkpoint on held-out data: `python -m model.evaluate --checkpoint FILE --data SOURCE --output DIR`."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from data_pipeline import SOURCES, DataError, open_usable
from data_pipeline.files import write_whole
from model.checkpoint import CheckpointError, load_checkpoint
from model.evaluation.cases import score_cases
from model.evaluation.presentation import draw_gallery, score_table, write_cases
from model.evaluation.summary import summarise

EXAMPLES = """examples:
  python -m model.evaluate --checkpoint model/weights/skin-tiny.safetensors --data synthetic:skin --output build/skin
  python -m model.evaluate --checkpoint build/mine/best.safetensors --data folder:held_out --output build/mine
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 and one line for a misuse."""
    parser = argparse.ArgumentParser(
        prog="python -m model.evaluate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, help="a .safetensors file, or random:PRESET")
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument("--samples", type=int, help="images of the test split (default: all the source has)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-bad", action="store_true", help="score without the samples that cannot be used")
    parser.add_argument("--output", required=True, type=Path, help="directory for metrics.json, cases.csv, gallery.png")
    options = parser.parse_args(arguments)
    if options.samples is not None and options.samples <= 0:
        parser.error(f"--samples must be positive, got {options.samples}")
    return options


def evaluate(options: argparse.Namespace, console: Console) -> None:
    """Score, print the table and write `metrics.json`, `cases.csv` and, where an image shows a class, `gallery.png`."""
    checkpoint = load_checkpoint(options.checkpoint)
    info = checkpoint.info
    opening = {"skip_bad": options.skip_bad, "seed": options.seed, "report": console.print}
    dataset = open_usable(options.data, "test", samples=options.samples, **opening)
    dataset.check_classes(info.seg_classes, info.labels)
    spec, network = info.preprocessing, checkpoint.build()
    scored = score_cases(network, dataset, spec)
    cases = list(track(scored, "scoring images", total=len(dataset.records), console=console, transient=True))
    scores = summarise(cases, dataset, options.seed)
    console.print(score_table(scores, f"{options.checkpoint} on {len(cases)} images of {options.data}"))
    report = {"checkpoint": options.checkpoint, "data": options.data, "images": len(cases)}
    estimates = {name: estimate._asdict() for name, estimate in scores.items()}
    write_whole(options.output / "metrics.json", json.dumps({**report, "scores": estimates}, indent=2) + "\n")
    write_cases(cases, dataset, options.output / "cases.csv")
    if gallery := draw_gallery(cases, network, dataset, spec):
        temporary = options.output / "gallery.png.tmp"
        gallery.save(temporary, "PNG")
        temporary.replace(options.output / "gallery.png")
    console.print(f"wrote {options.output}/metrics.json, cases.csv" + (" and gallery.png" if gallery else ""))


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 failed with one line, 2 misused."""
    options = parse_arguments(arguments)
    try:
        evaluate(options, Console())
    except (CheckpointError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
