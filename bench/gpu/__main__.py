"""Measure on a GPU what needs one: first what tells most, each step in a process of its own with a time limit.

python -m bench.gpu [--budget MINUTES] [--output DIR] [--dry-run]

Writes gpu.json, gpu.html and gpu.md (the tables of bench/README.md) after every step, so that nothing is lost.
"""

import argparse
import sys
import time
from pathlib import Path

from bench import ROOT
from bench.gpu.machine import NEEDS, Machine, look
from bench.gpu.report import PAGE, faults
from bench.gpu.runner import RESULTS, lacking, run_steps
from bench.gpu.steps import BARE, STEPS
from data_pipeline.startup import INTERRUPTED, interruptible

# Fits the ten minutes that a borrowed GPU may be had for, with some room for starting.
BUDGET = 9.0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line, with argparse alone: rich may be missing on such a machine."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--budget", type=float, default=BUDGET, metavar="MINUTES", help="of all steps together (default: %(default)g)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "build" / "gpu",
        metavar="DIR",
        help="folder for the results (default: build/gpu)",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the machine and the steps, and run none")
    options = parser.parse_args(arguments)
    # NaN compares false and is refused as well.
    if not 0 < options.budget < float("inf"):
        parser.error(f"argument --budget: must be a number above 0, got {options.budget:g}")
    return options


def describe(machine: Machine) -> str:
    """Say what the machine has and lacks."""
    has = [*machine.about.items(), *machine.versions.items()]
    lacks = [f"{NEEDS[need]} ({found})" for need, found in machine.lacks.items()]
    return "\n".join(
        [
            "has   " + ", ".join(f"{name} {value}" for name, value in has),
            *(f"lacks {one}" for one in lacks),
        ]
    )


def plan(machine: Machine, budget: float) -> str:
    """List the steps with what each needs, and what would become of it in `budget` seconds."""
    lines, left = [], budget
    for number, step in enumerate(STEPS, 1):
        reason = lacking(step, machine)
        if reason:
            fate = f"cannot run here: this machine lacks {reason}"
        elif left < step.seconds / 2:
            fate = "left out: the budget would be used up"
        else:
            fate, left = "would run", left - step.seconds
        needs = ", ".join(NEEDS[need] for need in step.needs)
        lines.append(f"{number:2}. {step.name}: {step.title}\n    at most {step.seconds} s; needs {needs}\n    {fate}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 where everything that could run is right."""
    options = parse_arguments(arguments)
    try:
        with interruptible():
            return run(options)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was measured until then is kept", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Say what the machine has and do what it can within the budget."""
    begun = time.monotonic()
    machine = look()
    print(describe(machine), flush=True)
    seconds = 60 * options.budget
    if options.dry_run:
        print(plan(machine, seconds))
        return 0
    if missing := [NEEDS[need] for need in BARE if need in machine.lacks]:
        print(f"error: no step can run without {', '.join(missing)}: --dry-run lists the steps", file=sys.stderr)
        return 1
    left = seconds - (time.monotonic() - begun)
    results = run_steps(machine, left, options.output, lambda text: print(text, flush=True), STEPS)
    print(f"{options.output / RESULTS}, {options.output / PAGE}")
    broken = faults(results)
    for fault in broken:
        print(f"fault: {fault}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
