"""Damage correct kernels in one place at a time and write which breaks the emulator notices, as JSON.

    python -m tests.emulator.mutants LIBRARY OUTPUT

The kernels are those of sm_80, whose loads to shared memory are asynchronous.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from tests.emulator.cases import Case, attention, fusion, outcome
from tests.emulator.driver import EmulatedGpu
from tests.emulator.worker import prepare

CASES = (
    Case(attention(1, 14, 14, 14, 7, 1, 32), torch.float16),
    Case(fusion(1, 9, 13, 64, 64), torch.float16),
    # A product without tensor cores, which exchanges values within warps.
    Case(attention(1, 5, 5, 5, 1, 1, 16), torch.float32),
)
# What is taken out of a line, each wherever it stands.
TAKEN = ("bar.sync \t0;", "bar.warp.sync \t-1;", "cp.async.wait_group", ".trans")


def without(taken: str, place: int, ptx: str) -> str:
    """Take something out of the line where it stands for the place-th time, and the whole line if it begins there."""
    lines = ptx.splitlines()
    found = [number for number, line in enumerate(lines) if taken in line][place]
    lines[found] = "" if lines[found].strip().startswith(taken) else lines[found].replace(taken, "")
    return "\n".join(lines) + "\n"


def only(damaged: str, edit: Callable[[str], str], ptx: str) -> str:
    """Change one kernel and leave the others as they are."""
    return edit(ptx) if ptx == damaged else ptx


def mutations(ptx: str) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Name each mutation of a kernel and yield what makes it."""
    for taken in TAKEN:
        for place in range(ptx.count(taken)):
            yield f"{taken.split()[0]} {place + 1}", partial(without, taken, place)


def verdict(case: Case, gpu: EmulatedGpu) -> str:
    """Return how a case is seen to be wrong, or an empty text."""
    found = outcome(case, gpu)
    if "failure" in found:
        return str(found["failure"])
    if any(not error <= bound for error, bound in found["errors"].values()):
        return f"wrong results and {found['races']} races"
    return f"{found['races']} races" if found["races"] else ""


def main() -> None:
    """Damage each kernel in every place."""
    library, output = sys.argv[1:]
    gpu = prepare(Path(library), 80)
    verdicts = {}
    for case in CASES:
        known = len(gpu.sources)
        verdicts[f"{case.name} whole"] = verdict(case, gpu)
        # The kernel with the products, where another one adds up what it has split.
        ptx = max(list(gpu.sources.values())[known:], key=len)
        for name, edit in mutations(ptx):
            gpu.edit = partial(only, ptx, edit)
            verdicts[f"{case.name} without {name}"] = verdict(case, gpu)
        gpu.edit, gpu.withheld = str, 1024
        verdicts[f"{case.name} without 1 KB"] = verdict(case, gpu)
        gpu.withheld = 0
    Path(output).write_text(json.dumps(verdicts), encoding="utf-8")


if __name__ == "__main__":
    main()
