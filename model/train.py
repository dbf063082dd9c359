"""Train the multi-task network: `python -m model.train --data synthetic:skin --preset tiny --output build/skin`."""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from data_pipeline import SOURCES, DataError, Dataset, Preprocessing, open_usable
from model.checkpoint import CheckpointError, CheckpointInfo
from model.config import PRESETS
from model.training.options import TrainingError, TrainingOptions, add_levels
from model.training.pretrained import load_pretrained
from model.training.processes import Processes
from model.training.trainer import Trainer

EXAMPLES = """examples:
  python -m model.train --data synthetic:skin --preset tiny --output build/skin
  python -m model.train --data folder:my_data --preset paper-224 --epochs 150 --learning-rate 7e-5 --output build/mine
  python -m model.train --data synthetic:skin --preset tiny --output build/skin --resume
  torchrun --nproc-per-node 2 -m model.train --data folder:my_data --preset paper-224 --output build/mine
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 and one line for a misuse."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument("--preset", required=True, choices=PRESETS)
    parser.add_argument("--output", required=True, type=Path, help="directory for best.safetensors, history.csv, ...")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="first rate; decays to 0 (power 0.9)")
    parser.add_argument("--classification-weight", type=float, default=0.25, help="of the label loss beside the mask's")
    parser.add_argument("--pretrained", metavar="FILE_OR_URL", help="first weights: ImageNet ResNet34, or a checkpoint")
    parser.add_argument("--samples", type=int, help="training images (default: all the source has)")
    add_levels(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on where the run in --output was saved last")
    parser.add_argument("--skip-bad", action="store_true", help="train without the samples that cannot be used")
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "learning_rate", "classification_weight", "samples"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive, got {value}")
    return options


def checkpoint_info(options: argparse.Namespace, dataset: Dataset, seed: int) -> CheckpointInfo:
    """The preset, fitted to the data set's classes; `options` has preset, data and levels."""
    channels = 1 if len(dataset.seg_classes) == 2 else len(dataset.seg_classes)
    config = replace(PRESETS[options.preset], seg_channels=channels, labels=len(dataset.labels))
    training = {"command": f"python -m model.train {shlex.join(sys.argv[1:])}", "seed": seed, "preset": options.preset}
    return CheckpointInfo(
        config=config,
        seg_classes=dataset.seg_classes,
        labels=dataset.labels,
        data=options.data,
        preprocessing=Preprocessing(config.image_size, white_level=options.levels),
        training=training,
    )


def train(options: argparse.Namespace, console: Console) -> None:
    """Open the data, train, report the best epoch."""
    processes = Processes.join()
    console.quiet = processes.rank > 0
    opening = {"skip_bad": options.skip_bad, "seed": options.seed, "report": console.print}
    with processes.in_turn():
        data = open_usable(options.data, "train", samples=options.samples, **opening)
        validation = open_usable(options.data, "validation", **opening)
    options.output.mkdir(parents=True, exist_ok=True)
    info = checkpoint_info(options, data, options.seed)
    settings = TrainingOptions(
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.seed,
        classification_weight=options.classification_weight,
    )
    trainer = Trainer(info, data, validation, settings, options.output)
    if options.resume:
        trainer.resume()
    elif options.pretrained:
        console.print(load_pretrained(trainer.learner.network, options.pretrained))
    best = trainer.run(console)
    console.print(f"best: {', '.join(f'{name} {value:.4f}' for name, value in best.items() if '/' not in name)}")
    console.print(f"wrote {options.output / 'best.safetensors'}")


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 failed with one line, 2 misused."""
    options = parse_arguments(arguments)
    try:
        train(options, Console())
    except (CheckpointError, DataError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
