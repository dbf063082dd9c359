"""Train the multi-task network: `python -m model.train --data synthetic:skin --preset tiny --output build/skin`."""

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from data_pipeline import Split, open_splits
from data_pipeline.command_line import Output, new_parser, positive, run_command, seed
from model.config import PRESETS
from model.origin import training_origin
from model.training import FAILURES, TrainingError, add_training_options, checkpoint_info, training_options
from model.training.pretrained import load_pretrained
from model.training.processes import Processes
from model.training.run_files import all_alone_in
from model.training.trainer import BEST, LAST, Trainer

# As many training images as the generated data have. Fewer are a trial, which validates on a share of them only.
FULL_RUN = 1000
EXAMPLES = """examples:
  python -m model.train --data synthetic:skin --preset tiny --output build/skin
  python -m model.train --data synthetic:skin --preset tiny --samples 64 --epochs 2 --output build/trial
  python -m model.train --data folder:my_data --preset paper-224 --epochs 150 --learning-rate 7e-5 --output build/mine
  python -m model.train --data synthetic:skin --preset tiny --output build/skin --resume
  torchrun --nproc-per-node 2 -m model.train --data folder:my_data --preset paper-224 --output build/shared
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or end the process with exit code 2 and one line for a misuse."""
    parser = new_parser("model.train", __doc__, EXAMPLES)
    parser.add_argument("--preset", required=True, choices=PRESETS, help="shape of the network")
    parser.add_argument("--output", required=True, type=Path, help="folder for best.safetensors, history.csv, ...")
    parser.add_argument("--epochs", type=positive(int), default=150, help="passes over the data (default: 150)")
    parser.add_argument("--pretrained", metavar="FILE_OR_URL", help="first weights: ImageNet ResNet34, or a checkpoint")
    parser.add_argument("--seed", type=seed, default=0, help="of the data, first weights and augmentation (default: 0)")
    parser.add_argument("--resume", action="store_true", help="continue where the run in --output was saved last")
    add_training_options(parser, learning_rate=1e-4)
    return parser.parse_args(arguments)


def validation_samples(samples: int | None) -> int | None:
    """Return how many validation images a run on `samples` training images uses, or None for all there are."""
    # Scoring all 200 of the generated data would take far longer than a short epoch.
    return max(samples // 5, 8) if samples and samples < FULL_RUN else None


def train(options: argparse.Namespace, command: list[str], console: Console) -> None:
    """Train in a folder that no other run writes to.

    Args:
        options: the command line.
        command: its words, which checkpoints keep.
        console: where to report.
    """
    # Under torchrun one process speaks and writes for all.
    processes = Processes.join()
    console.quiet = processes.rank > 0
    with all_alone_in(options.output, processes):
        _train(options, command, processes, console)


def _train(options: argparse.Namespace, command: list[str], processes: Processes, console: Console) -> None:
    """Open the data, train, and report the best epoch."""
    if not options.resume and (earlier := [name for name in (LAST, BEST) if (options.output / name).exists()]):
        found = options.output / earlier[0]
        raise TrainingError(f"{found} is of a run before: add --resume to go on with it, or give another --output")
    few = validation_samples(options.samples)
    samples: dict[Split, int | None] = {"train": options.samples, "validation": few}
    opening = {"skip_bad": options.skip_bad, "seed": options.seed, "report": console.print}
    # The first process writes the caches that the others then read.
    with processes.in_turn():
        splits = open_splits(options.data, samples, **opening)
    data, validation = splits["train"], splits["validation"]
    settings = training_options(options, data, epochs=options.epochs, seed=options.seed)
    # Every checkpoint tells how to make it again, in one run. argparse takes --res and the like as well.
    whole_run = [word for word in command if len(word) <= len("--") or not "--resume".startswith(word)]
    made_by = f"python -m model.train {shlex.join(whole_run)}"
    record = {"command": made_by, "preset": options.preset, **asdict(settings), **training_origin(data)}
    info = checkpoint_info(options, data, record)
    trainer = Trainer(info, settings, train=data, validation=validation, output=options.output)
    # A resumed run has weights of its own, so that --pretrained may stay in the repeated command.
    if options.resume:
        trainer.resume()
    elif options.pretrained:
        console.print(load_pretrained(trainer.learner.network, options.pretrained))
    best = trainer.run(console)
    console.print(f"best: {', '.join(f'{name} {value:.4f}' for name, value in best.items() if '/' not in name)}")
    console.print(f"wrote {options.output / BEST}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed with one line, 130 interrupted.

    A misuse of the command line ends the process with 2.
    """
    command = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(command)

    def interrupted() -> str:
        saved = (options.output / LAST).is_file()
        return "interrupted; go on with --resume" if saved else "interrupted before anything was trained"

    return run_command(lambda: train(options, command, Output()), *FAILURES, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
