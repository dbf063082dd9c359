"""Compile the Winograd operator of OpenVINO's engines for this machine: `python -m deploy.network.winograd`.

It takes some seconds and needs g++. Without it the engines work as well, and take longer. `make` does it with the rest
of the installation. Repeat it after an update of OpenVINO or of this toolkit.
"""

import sys

from data_pipeline.command_line import Output, new_parser, run_command
from deploy.network.winograd.library import CompileError, compile_operator, reason_against

EXAMPLE = "example:\n  python -m deploy.network.winograd\n"


def main(arguments: list[str] | None = None) -> int:
    """Compile the operator and return the exit code: 0, or 1 with one line that says why it cannot be compiled."""
    new_parser("deploy.network.winograd", __doc__, EXAMPLE).parse_args(arguments)
    return run_command(build, CompileError, OSError)


def build() -> None:
    """Compile the operator and say where it is."""
    file, reason = compile_operator(), reason_against()
    Output().print(f"{file.name} is compiled" + (f", but cannot be used: {reason}" if reason else ""))


if __name__ == "__main__":
    sys.exit(main())
