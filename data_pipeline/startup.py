"""Start this project's commands: choose the right packages, and end in one line before the command itself runs.

The packages have everyday names. A folder of the user's, or another distribution, may hold some of the same.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType

ROOT = Path(__file__).parents[1]
EVERYTHING = ("kernels", "model", "data_pipeline", "deploy")
BENCHMARKS = "bench"  # not installed: its commands run in a checkout
# What each command needs of this project, by the beginning of its module's name; all others need everything.
NEEDS = {"deploy.client": ("data_pipeline", "deploy"), "data_pipeline": ("data_pipeline",), "model": EVERYTHING[:3]}
SCRIPTS = {
    "resformer-build": "deploy.build_engine",
    "resformer-client": "deploy.client",
    "resformer-evaluate": "model.evaluate",
    "resformer-serve": "deploy.serve",
    "resformer-train": "model.train",
}
# Python's option, which may follow others in one word (-um) and be followed by the module at once.
MODULE = re.compile(r"-[^cWX-]*?m(.*)")
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended: 128 + SIGINT


def command() -> str | None:
    """Return the module of the command that Python is starting, or None in any other program."""
    # Python keeps this first argument while it looks for the module of `python -m` and imports the packages around it.
    if sys.argv[0] == "-m":
        words = sys.orig_argv[1:]
        number, found = next((number, found) for number, word in enumerate(words) if (found := MODULE.fullmatch(word)))
        module = found[1] or words[number + 1]
        return module if module.partition(".")[0] in (*EVERYTHING, BENCHMARKS) else None
    return SCRIPTS.get(Path(sys.argv[0]).name)


def prepare(module: str) -> None:
    """Prepare this process for a command: its packages, Ctrl-C while it imports, and what it lacks."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    sys.excepthook = lambda kind, error, trace: _show(module, kind, error, trace)
    if clash := find_clash(next((NEEDS[name] for name in NEEDS if f"{module}.".startswith(f"{name}.")), EVERYTHING)):
        sys.exit(f"error: {clash}")


def find_clash(packages: Sequence[str]) -> str:
    """Say in one line which of these packages Python would take from elsewhere, or return an empty text."""
    for name in packages:
        # Not imported: its folder tells.
        spec = find_spec(name)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        if spec and folder != ROOT / name:
            place = spec.origin or ", ".join(spec.submodule_search_locations or [])
            return (
                f"Python finds another package {name!r} ({place}) before resformer-deploy's ({ROOT / name}): "
                "rename it, use a resformer-* command or another folder, or give resformer-deploy its own environment"
            )
    return ""


def leave(number: int, frame: FrameType | None) -> None:
    """End the process with one line, as the handler of Ctrl-C where nothing is under way that must be undone."""
    # At once, because an exception in the middle of an import may be swallowed or become another error.
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C an exception inside the block, where it ended the process at once before."""
    if signal.getsignal(signal.SIGINT) is not leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, leave)


def _show(module: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error that nothing has caught: in one line where a library is missing."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing and missing.partition(".")[0] not in EVERYTHING:
        extra = "client" if module == "deploy.client" else "toolkit"
        print(
            f"error: this command needs the Python package {missing}: pip install 'resformer-deploy[{extra}]'",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)
