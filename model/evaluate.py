"""Score a checkpoint on held-out data: `python -m model.evaluate --checkpoint FILE --data SOURCE --output DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_pipeline import SOURCES, DataError, Dataset, Preprocessing, open_usable
from model.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint
from model.evaluation import score_network

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
    parser.add_argument("--output", required=True, type=Path, help="directory for metrics.json")
    options = parser.parse_args(arguments)
    if options.samples is not None and options.samples <= 0:
        parser.error(f"--samples must be positive, got {options.samples}")
    return options


def check_classes(info: CheckpointInfo, dataset: Dataset) -> None:
    """Raises DataError unless the data set's classes are those of the checkpoint."""
    for what, has, needs in (
        ("mask classes", dataset.seg_classes, info.seg_classes),
        ("labels", dataset.labels, info.labels),
    ):
        if has != needs:
            raise DataError(f"the data's {what} must be the checkpoint's {', '.join(needs)}; got {', '.join(has)}")


def evaluate(options: argparse.Namespace, console: Console) -> None:
    """Score, print the table and write `metrics.json`."""
    checkpoint = load_checkpoint(options.checkpoint)
    info = checkpoint.info
    opening = {"skip_bad": options.skip_bad, "seed": options.seed, "report": console.print}
    dataset = open_usable(options.data, "test", samples=options.samples, **opening)
    check_classes(info, dataset)
    spec = Preprocessing(info.config.image_size, info.mean, info.std)
    with console.status(f"scoring {len(dataset.records)} images"):
        scores = score_network(checkpoint.build(), dataset, spec)
    console.print(score_table(scores, f"{options.checkpoint} on {len(dataset.records)} images of {options.data}"))
    options.output.mkdir(parents=True, exist_ok=True)
    report = {"checkpoint": options.checkpoint, "data": options.data, "images": len(dataset.records), "scores": scores}
    path = options.output / "metrics.json"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(path)
    console.print(f"wrote {path}")


def score_table(scores: dict[str, float], title: str) -> Table:
    """The scores as a table for the terminal."""
    table = Table("score", "value", title=title)
    for name, value in scores.items():
        table.add_row(name, f"{value:.4f}")
    return table


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
