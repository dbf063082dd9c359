"""Measure what each part of the method is worth: `python -m model.ablate --data synthetic:skin --budget 120`.

Nine arms (one task or both; sequential, parallel or plain ResNet encoder; with and without DFE; the levels that the
head reads; a U-Net from MONAI) train for equally many steps, with the same seeds, and are scored on the test split. A
run that was stopped goes on where it was when the same command is given again.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from data_pipeline import SOURCES, DataError, Dataset, open_usable
from data_pipeline.files import write_whole
from data_pipeline.records import Split
from model.ablation.arms import ARMS, Arm
from model.ablation.plan import Size, plan_epochs
from model.ablation.results import Run, Runs, write_report
from model.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint
from model.config import PRESETS
from model.evaluation import collect_scores
from model.train import checkpoint_info
from model.training.options import TrainingError, TrainingOptions, add_levels
from model.training.trainer import Trainer

EXAMPLES = """examples:
  python -m model.ablate --data synthetic:skin --budget 180 --seeds 1 --classification-weight 2 --output build/ablation
  python -m model.ablate --data folder:my_data --budget 2000 --preset paper-224
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 and one line for a misuse."""
    parser = argparse.ArgumentParser(
        prog="python -m model.ablate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument(
        "--budget", required=True, type=float, metavar="MINUTES", help="for all arms and seeds together"
    )
    parser.add_argument("--preset", default="tiny", choices=PRESETS)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--samples", type=int, help="training images (default: all the source has)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--classification-weight", type=float, default=0.25)
    add_levels(parser)
    parser.add_argument("--skip-bad", action="store_true", help="leave out the samples that cannot be used")
    parser.add_argument("--output", type=Path, default=Path("build/ablation"))
    options = parser.parse_args(arguments)
    for name in ("budget", "seeds", "samples", "batch_size", "learning_rate", "classification_weight"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive, got {value}")
    return options


def ablate(options: argparse.Namespace, console: Console) -> None:
    """Plan, or read the plan of a stopped run; train what is missing; report after every run."""
    names: tuple[Split, ...] = ("train", "validation", "test")
    samples = {"train": options.samples}
    opening = {"skip_bad": options.skip_bad, "report": console.print}
    splits = {name: open_usable(options.data, name, samples=samples.get(name), **opening) for name in names}
    info = checkpoint_info(options, splits["train"], seed=0)
    setting = _setting(options, info, {str(name): len(split.records) for name, split in splits.items()})
    both = TrainingOptions(
        setting["epochs"],
        options.batch_size,
        options.learning_rate,
        seed=0,
        classification_weight=options.classification_weight,
    )
    runs: Runs = {}
    for seed in range(options.seeds):  # a budget that runs out has then given every arm as many seeds
        for arm in ARMS:
            console.print(f"seed {seed}, {arm.title}")
            folder = options.output / f"{arm.name}-seed{seed}"
            result = _run(arm, info, splits, replace(arm.options(both), seed=seed), folder, console)
            runs.setdefault(arm.name, []).append(result)
            table = write_report(runs, setting, options.output)
    console.print(table)


def _setting(options: argparse.Namespace, info: CheckpointInfo, counts: dict[str, int]) -> dict[str, Any]:
    """Everything the figures depend on; the epochs are measured once and kept, so that a stopped run goes on alike."""
    asked = {name: value for name, value in vars(options).items() if name != "output"} | counts
    path = options.output / "plan.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text())
        if {**asked, "epochs": kept["epochs"]} != kept:
            raise TrainingError(f"{path} was planned with {kept}; give the same options, or another --output")
        return kept
    both = TrainingOptions(1, options.batch_size, options.learning_rate, 0)
    epochs = plan_epochs(info, Size(**counts), both, options.seeds, options.budget)
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
    """Test scores of the arm's best epoch on the validation split, from disk where they are already there."""
    path = output / "test.json"
    if not path.is_file():
        output.mkdir(parents=True, exist_ok=True)
        info = replace(info, config=arm.config(info.config), training=asdict(options))
        trainer = Trainer(info, splits["train"], splits["validation"], options, output, arm.build)
        if (output / "last.safetensors").is_file():
            trainer.resume()
        trainer.run(console)
        network = trainer.learner.averaged
        network.load_state_dict(load_checkpoint(output / "best.safetensors").state)
        found = collect_scores(network, splits["test"], trainer.loader.spec)
        write_whole(path, json.dumps({"scores": found.compute(), "bounds": found.bounds()}, indent=2) + "\n")
    return Run(**json.loads(path.read_text()))


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 failed with one line, 2 misused, 130 interrupted."""
    options = parse_arguments(arguments)
    try:
        ablate(options, Console())
    except (CheckpointError, DataError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
