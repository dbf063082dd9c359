"""Let Triton interpret its kernels where there is no GPU, and fail every test that asks for another host."""

import os
import signal
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import mkstemp

import pytest
import torch

import deploy  # noqa: F401 - turns off the telemetry of what test modules import before anything of ours

# Here, before any test module imports triton: it reads the variable once, for the whole process.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# cuBLAS reads it when it starts. Without it the deterministic mode of some tests warns of every matrix product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# A job in the background of a shell inherits that Ctrl-C is ignored, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

OUTSIDE = Path(__file__).parent / "helpers" / "outside"
LOG = Path(mkstemp(prefix="other-hosts-")[1])
# For every Python that a test starts, and with the import for this one.
os.environ |= {"TESTS_OUTSIDE_LOG": str(LOG)}
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OUTSIDE), os.environ.get("PYTHONPATH")]))
import_module("tests.helpers.outside.sitecustomize")


@pytest.fixture(autouse=True)
def no_look_up_of_another_host() -> Iterator[None]:
    """Fail the test during which a process of the tests asked for another host."""
    before = LOG.stat().st_size
    yield
    with LOG.open(encoding="utf-8") as log:
        log.seek(before)
        asked = log.read()
    assert not asked, f"asked for other hosts:\n{asked}"


def pytest_unconfigure() -> None:
    """Remove the log."""
    LOG.unlink(missing_ok=True)
