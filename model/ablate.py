"""Measure what each part of the method is worth: `python -m model.ablate --data synthetic:skin --budget 120`.

All arms train for equally many steps, with the same seeds, and are scored on the test split. They compare one task
with both, the sequential and parallel design with a plain ResNet encoder, the network without DFE and with other
dilations, the levels that the head reads, the size at which the decoder ends, and all of it with a U-Net from MONAI.
Arms that the preset has itself are left out. More arms, which weight the labels in other ways, are trained where --arm
names them. The same command continues a run that was stopped.
"""

import argparse
import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from data_pipeline import Dataset, Split, open_splits
from data_pipeline.command_line import Output, new_parser, positive, run_command
from data_pipeline.files import drop_unfinished, write_whole
from model.ablation import ARMS, Arm, count_parameters
from model.ablation.plan import Size, plan_epochs
from model.ablation.results import Run, Runs, score_run, write_report
from model.checkpoint import CheckpointInfo, load_checkpoint
from model.config import PRESETS
from model.evaluation import collect_scores
from model.origin import training_origin
from model.training import (
    EARLIER,
    FAILURES,
    TrainingError,
    TrainingOptions,
    add_training_options,
    checkpoint_info,
    training_options,
)
from model.training.run_files import alone_in
from model.training.trainer import BEST, LAST, Trainer, differences

EXAMPLES = """examples:
  python -m model.ablate --data synthetic:skin --budget 180 --seeds 1 --classification-weight 2 --output build/ablation
  python -m model.ablate --data folder:my_data --budget 2000 --preset paper-224
  python -m model.ablate --data synthetic:oct --epochs 12 --arm base --arm no-dfe --arm dilations-scaled
  python -m model.ablate --data synthetic:oct --epochs 30 --arm base --arm labels-0.25 --arm labels-learned
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or end the process with exit code 2 and one line for a misuse."""
    parser = new_parser("model.ablate", __doc__, EXAMPLES)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--budget", type=positive(float), metavar="MINUTES", help="for all arms and seeds together")
    length.add_argument("--epochs", type=positive(int), metavar="N", help="of every arm and seed")
    parser.add_argument(
        "--arm",
        action="append",
        choices=[arm.name for arm in ARMS],
        help="train this arm; repeatable (default: all that do not begin with labels-)",
    )
    parser.add_argument("--preset", default="tiny", choices=PRESETS, help="shape of the network (default: tiny)")
    parser.add_argument("--seeds", type=positive(int), default=3, help="runs of each arm (default: 3)")
    parser.add_argument(
        "--output", type=Path, default=Path("build/ablation"), help="folder for the table, the plot and the runs"
    )
    add_training_options(parser, learning_rate=1e-3)
    return parser.parse_args(arguments)


def ablate(options: argparse.Namespace, console: Console) -> None:
    """Run the ablation in a folder that no other command writes to."""
    with alone_in(options.output):
        _ablate(options, console)


def _ablate(options: argparse.Namespace, console: Console) -> None:
    """Plan the runs or read the plan of a stopped command, train what is missing, report after every run."""
    samples: dict[Split, int | None] = {"train": options.samples, "validation": None, "test": None}
    splits = open_splits(options.data, samples, skip_bad=options.skip_bad, report=console.print)
    info = checkpoint_info(options, splits["train"], {})
    setting = _setting(options, info, splits, console)
    # Seeds outside, arms inside: a command that is stopped has then given every arm as many seeds, to within one.
    runs: Runs = {}
    arms = chosen_arms(options)
    for seed in range(options.seeds):
        both_tasks = training_options(options, splits["train"], epochs=setting["epochs"], seed=seed)
        for arm in arms:
            console.print(f"seed {seed}, {arm.title}")
            folder = options.output / f"{arm.name}-seed{seed}"
            result = _run(arm, info, splits, arm.options(both_tasks), folder, console)
            runs.setdefault(arm.name, []).append(result)
            table = write_report(runs, setting, options.output)
    console.print(table)


def chosen_arms(options: argparse.Namespace) -> list[Arm]:
    """Return the arms that the command line asks for, in the order of the table.

    Raises TrainingError for one that is the preset itself, which is left out where no arm is named.
    """
    different = [arm for arm in ARMS if not arm.repeats_base(PRESETS[options.preset])]
    if not options.arm:
        return [arm for arm in different if not arm.extra]
    for name in sorted(set(options.arm) - {arm.name for arm in different}):
        raise TrainingError(f"--arm {name} is what the preset {options.preset} has itself; leave it out")
    return [arm for arm in different if arm.name in options.arm]


def _setting(
    options: argparse.Namespace, info: CheckpointInfo, splits: dict[Split, Dataset], console: Console
) -> dict[str, Any]:
    """Return everything that the figures depend on, with the epochs of the plan.

    Raises TrainingError where a stopped command had other options, or the budget is too small.
    """
    counts = {str(name): len(split.records) for name, split in splits.items()}
    asked = {name: value for name, value in vars(options).items() if name not in ("output", "epochs")} | counts
    asked["arm"] = [arm.name for arm in chosen_arms(options)]
    # By names and labels: results of other data must not stand beside these.
    images = {f"{name} images": split.fingerprint() for name, split in splits.items()}
    asked |= images
    path = options.output / "plan.json"
    # Measured once and kept: a second measurement could give other epochs to the arms that are still missing.
    if path.is_file():
        # Plans from before the images were compared do not tell of them.
        kept: dict[str, Any] = EARLIER | images | json.loads(path.read_text(encoding="utf-8"))
        if changed := differences(kept, {**asked, "epochs": options.epochs or kept["epochs"]}):
            raise TrainingError(
                f"{path} was planned with {changed}; give the same options and data, or another --output"
            )
        write_whole(path, json.dumps(kept, indent=2) + "\n")
        return kept
    epochs = options.epochs or plan_epochs(
        chosen_arms(options),
        info,
        Size(**counts),
        training_options(options, splits["train"], epochs=1, seed=0),
        seeds=options.seeds,
        minutes=options.budget,
        console=console,
    )
    write_whole(path, json.dumps({**asked, "epochs": epochs}, indent=2) + "\n")
    return {**asked, "epochs": epochs}


def _run(
    arm: Arm,
    info: CheckpointInfo,
    splits: dict[Split, Dataset],
    options: TrainingOptions,
    output: Path,
    console: Console,
) -> Run:
    """Score an arm's best validation epoch on the test split, or read the scores where they are already on disk."""
    path = output / "test.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # Scores of before the seeds were resampled too lack some fields: the trained network is scored once more.
    if stored.keys() != {each.name for each in fields(Run)}:
        output.mkdir(parents=True, exist_ok=True)
        drop_unfinished(output)
        record = {**asdict(options), **training_origin(splits["train"])}
        info = replace(info, config=arm.config(info.config), training=record)
        validation = splits["validation"]
        trainer = Trainer(info, options, train=splits["train"], validation=validation, output=output, build=arm.build)
        if (output / LAST).is_file():
            trainer.resume()
        trainer.run(console)
        # The checkpoint cannot build the arm by itself: its configuration does not say which parts were replaced.
        network = trainer.learner.averaged
        network.load_state_dict(load_checkpoint(output / BEST).state)
        scores = collect_scores(network, splits["test"], trainer.loader.spec)
        stored = asdict(score_run(scores, trainer.history, count_parameters(network)))
        write_whole(path, json.dumps(stored, allow_nan=False) + "\n")
    return Run(**stored)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed with one line, 130 interrupted.

    A misuse of the command line ends the process with 2.
    """
    options = parse_arguments(arguments)
    interrupted = "interrupted; the same command goes on"
    return run_command(lambda: ablate(options, Output()), *FAILURES, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
