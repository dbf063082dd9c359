"""Run the tests that need a GPU."""

import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import ROOT
from bench.gpu.session import Row, Session

TABLE = "tests"
KERNELS = ("tests/kernels/test_attention_accuracy.py", "tests/kernels/test_dilated_accuracy.py")


def of_kernels(session: Session) -> None:
    """Hold the kernels to float64 at the stages of the paper, forward and backward."""
    _run(session, KERNELS)


def of_the_rest(session: Session) -> None:
    """Run every other test that is marked `gpu`."""
    _run(session, ("tests", "--ignore=tests/kernels"))


def _run(session: Session, arguments: Sequence[str]) -> None:
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        # Without the options of pyproject.toml, which name a plugin that such a machine may lack.
        options = ["--override-ini=addopts=", "--import-mode=importlib", "-q", "-m", "gpu", f"--junitxml={results}"]
        code = pytest.main([f"--rootdir={ROOT}", *options, "-p", "no:cacheprovider", *arguments])
        for row in rows(results):
            session.write(row)
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise RuntimeError("no test is marked gpu there")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")


def rows(results: Path) -> Iterator[Row]:
    """Read what pytest wrote with --junitxml, one row for each test."""
    for case in ET.parse(results).getroot().iter("testcase"):
        # The outcome is the child element: a test that passed has none of these.
        found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        yield Row(
            table=TABLE,
            case=case.get("classname", "").removeprefix("tests."),
            contender=case.get("name", ""),
            state="measured" if found is None else "left out" if found.tag == "skipped" else "failed",
            reason="" if found is None else found.get("message", "").strip().partition("\n")[0][:300],
            figures={"seconds": float(case.get("time", 0))},
        )
