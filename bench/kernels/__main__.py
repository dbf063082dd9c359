"""Print the cost model as a table and write it as JSON.

    python -m bench.kernels [--kernels build/kernels] [--batch 1] [--output build/kernels_model.json]

Nothing here is measured on a GPU: all of it is modelled. The issued instructions come from the `kernels.json` of
`python -m kernels.aot`.
"""

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bench.kernels.gpus import GPUS, Gpu, Work
from bench.kernels.stages import Call, calls
from bench.tables import markdown_table
from data_pipeline.command_line import new_parser, positive, run_command
from data_pipeline.files import write_whole

COLUMNS = ("kernel", "preset", "stage", "compulsory MB", "L2 MB", "unfused MB", "FLOP/byte", "executed/exact")


class MachineCodeError(Exception):
    """Say in one line which compiled kernels are missing and how to get them."""


def load_machine_code(folder: Path, needed: Collection[str]) -> dict[str, dict[str, Any]]:
    """Load the rows of `kernels.json`, by file name.

    Raises MachineCodeError where it does not exist, is not whole, or lacks a kernel that is needed.
    """
    path, command = folder / "kernels.json", f"run `python -m kernels.aot --output {folder}`"
    if not path.is_file():
        raise MachineCodeError(f"{path} must exist, {command} first")
    try:
        rows = {row["file"]: row for row in json.loads(path.read_text(encoding="utf-8"))["kernels"]}
    except (ValueError, KeyError, TypeError) as error:
        raise MachineCodeError(f"{path} must be a table of kernels.aot, it cannot be read: {command} again") from error
    if missing := sorted(set(needed) - rows.keys()):
        raise MachineCodeError(
            f"{path} must hold every kernel for every modelled GPU, {len(missing)} of {len(needed)} are missing "
            f"({missing[0]}{', ...' if missing[1:] else ''}): {command} without --kernel and --compute-capability"
        )
    return rows


def file_of(call: Call, gpu: Gpu) -> str:
    """Name the compiled kernel of a call on a GPU."""
    return f"{call.configuration.name}-sm{gpu.capability}"


def modelled_time(call: Call, gpu: Gpu, machine_code: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Model the time of a call on a GPU and name what limits it.

    The limits are the compulsory bytes of the memory, all bytes of the L2 cache, the executed FLOPs and the warp
    instructions that the main loops issue.
    """
    row, problem = machine_code[file_of(call, gpu)], call.problem
    work = Work(
        programs=problem.programs,
        # Compulsory bytes: the model assumes that the L2 cache answers whatever is read again.
        dram_bytes=problem.compulsory_bytes,
        l2_bytes=problem.l2_bytes,
        flops=problem.executed_flops,
        instructions=call.loop_iterations * row["loop_instructions"] * row["warps"],
    )
    seconds, limit = gpu.seconds(work)
    return {"microseconds_modelled": round(seconds * 1e6, 2), "limit": limit}


def describe(call: Call, machine_code: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Make the JSON row of a call."""
    problem = call.problem
    return {
        "kernel": call.configuration.kernel,
        "preset": call.preset,
        "stage": call.stage,
        "compulsory_bytes": problem.compulsory_bytes,
        "l2_bytes": problem.l2_bytes,
        "unfused_bytes": call.unfused_bytes,
        "flops": problem.flops,
        "executed_flops": problem.executed_flops,
        "flops_per_compulsory_byte": round(problem.flops / problem.compulsory_bytes, 1),
        "modelled": {gpu.name: modelled_time(call, gpu, machine_code) for gpu in GPUS},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as a Markdown table."""
    head = [*COLUMNS, *(f"{gpu.name}, us" for gpu in GPUS)]
    lines = []
    for row in rows:
        megabytes = (f"{row[key] / 1e6:.2f}" for key in ("compulsory_bytes", "l2_bytes", "unfused_bytes"))
        times = (f"{one['microseconds_modelled']:.1f} ({one['limit']})" for one in row["modelled"].values())
        ratio = f"{row['executed_flops'] / row['flops']:.2f}"
        cells = [
            row["kernel"],
            row["preset"],
            str(row["stage"]),
            *megabytes,
            str(row["flops_per_compulsory_byte"]),
            ratio,
        ]
        lines.append([*cells, *times])
    return markdown_table(head, lines, text=2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = new_parser("bench.kernels", "modelled cost of the two kernels")
    parser.add_argument(
        "--kernels", type=Path, default=Path("build/kernels"), help="output of kernels.aot (default build/kernels)"
    )
    parser.add_argument("--batch", type=positive(int), default=1, help="images of a call (default 1)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/kernels_model.json"),
        help="JSON to write (default build/kernels_model.json)",
    )
    options = parser.parse_args(arguments)

    def model() -> None:
        wanted = calls(options.batch)
        machine_code = load_machine_code(options.kernels, {file_of(call, gpu) for call in wanted for gpu in GPUS})
        rows = [describe(call, machine_code) for call in wanted]
        print(f"Modelled, fp16, batch {options.batch}: no GPU ran. L2 MB include what the L2 cache answers.\n")
        print(table(rows))
        write_whole(options.output, json.dumps({"batch": options.batch, "modelled": rows}, indent=1))

    return run_command(model, MachineCodeError, OSError)


if __name__ == "__main__":
    sys.exit(main())
