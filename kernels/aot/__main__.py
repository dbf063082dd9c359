"""Compile every shipped kernel for every architecture, without a GPU, and describe the results.

    python -m kernels.aot --output DIR [--compute-capability 80 ...]

writes one `.cubin` and one `.ptx` for each, and `kernels.json`. The PTX has the kernel's own parameters only, as
TensorRT passes them. The cubin keeps Triton's two unused scratch pointers after them, as Triton's launcher passes them.
"""

import argparse
import signal
import sys
from pathlib import Path

from kernels.aot import CAPABILITIES, build_all
from kernels.aot.configurations import shipped
from kernels.dispatch import KernelInputError
from kernels.startup import INTERRUPTED, leave

EXAMPLES = """examples:
  python -m kernels.aot --output build/kernels
  python -m kernels.aot --output build/kernels --compute-capability 8.6 --kernel dilated_fusion
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    names = sorted({one.kernel for one in shipped()})
    parser = argparse.ArgumentParser(
        prog="python -m kernels.aot",
        description="compile all kernels, without a GPU",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for cubins, PTX and kernels.json")
    parser.add_argument(
        "--compute-capability",
        type=capability,
        action="append",
        metavar="CC",
        help=f"one of {', '.join(map(str, CAPABILITIES))}, or as 8.6 (repeatable, default: all)",
    )
    parser.add_argument("--kernel", action="append", choices=names, help="only this kernel (repeatable, default: all)")
    options = parser.parse_args(arguments)
    # From here on an exception, so that the processes that compile are ended.
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        rows = build_all(options.output, options.compute_capability or list(CAPABILITIES), options.kernel or names)
    except (KernelInputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    spilled = [row["file"] for row in rows if row["spill_bytes"]]
    print(
        f"{len(rows)} kernels in {options.output}, {len(spilled)} of them with spills: {', '.join(spilled) or 'none'}"
    )
    return 0


def capability(text: str) -> int:
    """Parse a compute capability, 86 or 8.6 alike."""
    digits = text.replace(".", "", 1)
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a compute capability such as 8.6, got {text}")
    return int(digits)


if __name__ == "__main__":
    sys.exit(main())
