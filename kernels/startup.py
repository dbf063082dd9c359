"""End a command of this package in one line on Ctrl-C, also while PyTorch and Triton are imported."""

import os
import re
import signal
import sys
from types import FrameType

# Python's option, which may follow others in one word (-um) and be followed by the module at once.
MODULE = re.compile(r"-[^cWX-]*?m(.*)")
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended: 128 + SIGINT


def leave(number: int, frame: FrameType | None) -> None:
    """End the process with one line, as the handler of Ctrl-C where nothing is under way that must be undone."""
    # At once, because an exception in the middle of an import may be swallowed or become another error.
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def is_command() -> bool:
    """Tell whether Python is starting a command of this package, and not another program that uses it."""
    # Python keeps this first argument while it looks for the module of `python -m` and imports the packages around it.
    if sys.argv[0] != "-m":
        return False
    words = sys.orig_argv[1:]
    number, found = next((number, found) for number, word in enumerate(words) if (found := MODULE.fullmatch(word)))
    return (found[1] or words[number + 1]).partition(".")[0] == __name__.partition(".")[0]


# Here, and not in a function that the package calls: its own imports come first and take seconds.
if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
