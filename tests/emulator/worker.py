"""Run a list of cases on an emulated GPU and write what came of each as JSON.

    python -m tests.emulator.worker LIBRARY CAPABILITY LIST OUTPUT [CASE...]

It runs in a process of its own: Triton must compile here, where the other tests let it interpret.
"""

import json
import sys
import time
from pathlib import Path

import torch

import kernels.attention.api
import kernels.dilated.api
from tests.emulator.cases import LISTS, outcome
from tests.emulator.driver import EmulatedGpu


def prepare(library: Path, capability: int) -> EmulatedGpu:
    """Make this process run the kernels on an emulated GPU."""
    torch.set_num_threads(1)
    # Fills new tensors with NaN, so that what a kernel forgets to write is seen.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # The tensors are on the CPU, which is this GPU.
    for module in (kernels.attention.api, kernels.dilated.api):
        vars(module)["device_refusal"] = lambda tensor: None
    return EmulatedGpu(library, capability)


def main() -> None:
    """Run the cases of the command line, or the whole list where none is named."""
    library, capability, cases, output, *names = sys.argv[1:]
    gpu = prepare(Path(library), int(capability))
    results = {}
    for case in [one for one in LISTS[cases] if not names or one.name in names]:
        start = time.perf_counter()
        results[case.name] = {**outcome(case, gpu), "seconds": round(time.perf_counter() - start, 1)}
        print(case.name, results[case.name], flush=True)
    Path(output).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
