"""Print the cost model as a table and write it as JSON.

    python -m bench.kernels [--kernels build/kernels] [--batch 1] [--output build/kernels_model.json]

Nothing here is measured on a GPU: all of it is modelled. The issued instructions come from the `kernels.json` of
`python -m kernels.aot`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench.kernels.gpus import GPUS, Gpu
from bench.kernels.stages import Call, calls
from data_pipeline.command_line import new_parser, positive, run_command
from data_pipeline.files import write_whole

COLUMNS = ("kernel", "preset", "stage", "compulsory MB", "kernel MB", "unfused MB", "FLOP/byte", "executed/exact")


def load_machine_code(folder: Path) -> dict[str, dict[str, Any]]:
    """Load the rows of `kernels.json`, by file name.

    Raises FileNotFoundError where it does not exist.
    """
    path = folder / "kernels.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist, run `python -m kernels.aot --output {folder}` first")
    return {row["file"]: row for row in json.loads(path.read_text())["kernels"]}


def modelled_time(call: Call, gpu: Gpu, machine_code: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Model the time of a call on a GPU and name what limits it.

    The limits are the compulsory bytes, the executed FLOPs and the warp instructions that the main loops issue.
    """
    row = machine_code[f"{call.configuration.name}-sm{gpu.capability}"]
    instructions = call.loop_iterations * row["loop_instructions"] * row["warps"]
    problem = call.problem
    # Compulsory and not moved bytes: the model assumes that caches answer whatever is read again.
    seconds, limit = gpu.seconds(problem.compulsory_bytes, problem.executed_flops, instructions)
    return {"microseconds_modelled": round(seconds * 1e6, 2), "limit": limit}


def describe(call: Call, machine_code: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Make the JSON row of a call."""
    problem = call.problem
    return {
        "kernel": call.configuration.kernel,
        "preset": call.preset,
        "stage": call.stage,
        "compulsory_bytes": problem.compulsory_bytes,
        "kernel_bytes": problem.moved_bytes,
        "unfused_bytes": call.unfused_bytes,
        "flops": problem.flops,
        "executed_flops": problem.executed_flops,
        "flops_per_compulsory_byte": round(problem.flops / problem.compulsory_bytes, 1),
        "modelled": {gpu.name: modelled_time(call, gpu, machine_code) for gpu in GPUS},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as a Markdown table."""
    head = [*COLUMNS, *(f"{gpu.name}, us" for gpu in GPUS)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        megabytes = (f"{row[key] / 1e6:.2f}" for key in ("compulsory_bytes", "kernel_bytes", "unfused_bytes"))
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
        lines.append("| " + " | ".join([*cells, *times]) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the command and return its exit code."""
    parser = new_parser("bench.kernels", "modelled cost of the two kernels")
    parser.add_argument("--kernels", type=Path, default=Path("build/kernels"), help="output of kernels.aot")
    parser.add_argument("--batch", type=positive(int), default=1, help="images of a call")
    parser.add_argument("--output", type=Path, default=Path("build/kernels_model.json"), help="JSON file to write")
    options = parser.parse_args()

    def model() -> None:
        machine_code = load_machine_code(options.kernels)
        rows = [describe(call, machine_code) for call in calls(options.batch)]
        print(f"Modelled, fp16, batch {options.batch}: no GPU ran. Kernel MB include what caches answer.\n")
        print(table(rows))
        write_whole(options.output, json.dumps({"batch": options.batch, "modelled": rows}, indent=1))

    return run_command(model, OSError)


if __name__ == "__main__":
    sys.exit(main())
