"""Hold OpenVINO's `Core`, one for the whole process."""

from functools import cache

import openvino


@cache
def core() -> openvino.Core:
    """Return the process's only `Core`."""
    # OpenVINO 2026.4 gives the thread another signal stack when a `Core` first compiles for a CPU, and restores the
    # previous one when that `Core` is destroyed. Two whose lives overlap leave a stack that was freed, and Ctrl-C is
    # then a segmentation fault.
    return openvino.Core()
