"""Hold OpenVINO's `Core`, one for the whole process."""

from functools import cache

import openvino


@cache
def core() -> openvino.Core:
    """Never a second one.

    OpenVINO 2026.4 gives the thread another signal stack when a `Core` first compiles for a CPU, and puts back the one
    it found when the `Core` goes. Two that overlap leave a stack that was freed: Ctrl-C is then a segmentation fault.
    """
    return openvino.Core()
