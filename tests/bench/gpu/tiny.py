"""Run every step that needs only torch, triton and NumPy, in a tiny form and on the CPU.

As a command (`python -m tests.bench.gpu.tiny reference`) it refuses all other imports, as a machine would that has
nothing else, and prints each row as a line of JSON. It needs TRITON_INTERPRET=1.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.gpu.session import Row, Session
    from bench.gpu.timing import Timing, Work

OURS = ("kernels", "model", "data_pipeline", "bench", "tests")
# torch and what comes with it: its requirements, and theirs.
TORCH = (
    *("torch", "torchgen", "functorch", "triton", "numpy", "filelock", "fsspec", "jinja2", "markupsafe", "networkx"),
    *("sympy", "mpmath", "setuptools", "typing_extensions"),
)
STEPS = (
    *("attention:launched", "attention:compiled", "attention:autotuned", "attention:trained"),
    *("dilated:launched", "dilated:compiled", "dilated:autotuned"),
    *("networks:launched", "networks:compiled", "networks:autotuned"),
    *("training:launched", "training:compiled"),
)


class Bare(MetaPathFinder):
    """Find what a machine with torch, triton and NumPy alone has, and nothing else."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the finder finds, or None as it does for a package that is not installed."""
        root = name.partition(".")[0]
        # Python's own settings of its build have a name of each platform.
        if root in sys.stdlib_module_names or root in (*OURS, *TORCH) or root.startswith("_sysconfigdata_"):
            found: ModuleSpec | None = self.finder.find_spec(name, path, target)
            return found
        return None


def cases(step: str, *, autocast: bool = False) -> tuple[Any, ...]:
    """Return cases of a few tokens or pixels for one of `STEPS`."""
    import torch

    from bench.gpu.attention import AttentionCase
    from bench.gpu.dilated import DilatedCase
    from bench.gpu.networks import NetworkCase
    from bench.gpu.training import TrainingCase
    from model import ModelConfig

    # Some processors take ten times as long for gradients in bfloat16.
    dtype = torch.bfloat16 if autocast else torch.float32
    config = ModelConfig(
        image_size=64,
        channels=(16, 32, 64, 128),
        head_dim=16,
        resnet_blocks=(1, 1, 1, 1),
        swin_blocks=1,
        dilations=(1, 2, 5),
    )
    return {
        "attention": (
            AttentionCase(name="shifted", batch=2, size=8, heads=2, window=4, head_dim=16),
            # One window, whose 49 tokens are no multiple of the mask's alignment.
            AttentionCase(name="single", batch=1, size=7, heads=1, window=7, head_dim=16),
        ),
        "dilated": (DilatedCase(name="tiny", batch=2, size=6, channels=16, dilations=(1, 2)),),
        "networks": (NetworkCase(name="tiny", config=config, batch=1, dtype=torch.bfloat16),),
        # Two images show that one image stands for the batch. The interpreter needs seconds for each.
        "training": (
            TrainingCase(name="tiny", config=config, batch=2 if step == "training:launched" else 1, dtype=dtype),
        ),
    }[step.partition(":")[0]]


def run_once(work: "Work", *, graph: bool) -> "Timing":
    """Stand for the timer: run the work once, and say that its rounds took 1, 2 and 3 microseconds."""
    from bench.gpu.timing import Timing

    work()
    return Timing(microseconds=(1.0, 2.0, 3.0))


def do_nothing(work: "Work", *, graph: bool) -> "Timing":
    """Stand for the timer without running what has been run to be compared."""
    from bench.gpu.timing import Timing

    return Timing(microseconds=(1.0, 2.0, 3.0))


def as_it_is(function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
    """Stand for torch.compile."""
    return function


def session(write: "Callable[[Row], None]", **options: Any) -> "Session":
    """Make a session on the CPU, whose timer runs the work once."""
    import torch

    from bench.gpu.session import Session

    fakes: dict[str, Any] = {
        "device": torch.device("cpu"),
        "timer": run_once,
        "compile": as_it_is,
        "clocks": lambda: {"clocks.sm": 1000.0},
    }
    return Session(write=write, **fakes | options)


def run(step: str, *, autocast: bool = False, **options: Any) -> "Iterator[Row]":
    """Run one of `STEPS` and yield its rows."""
    from bench.gpu.worker import function_of

    rows: list[Row] = []
    work: Callable[..., None] = function_of(f"bench.gpu.{step}")
    work(session(rows.append, **options), cases(step, autocast=autocast))
    yield from rows


def main() -> None:
    """Run all steps, and the command's own dry run, with nothing else at hand.

    The only argument is the implementation of the kernels in a network. "triton" takes a minute in the interpreter, and
    trains under autocast.
    """
    (implementation,) = sys.argv[1:]
    sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
    from bench.gpu.__main__ import main as command
    from tests.helpers import interpreter

    interpreter.prepare()
    for step in STEPS:
        for row in run(step, autocast=implementation == "triton", timer=do_nothing, ours=implementation):
            print(json.dumps({"step": step, **row.fields()}))
    sys.exit(command(["--dry-run"]))


if __name__ == "__main__":
    main()
