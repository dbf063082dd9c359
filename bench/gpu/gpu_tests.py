"""Run the tests that need a GPU."""

from collections.abc import Sequence
from typing import Any

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

    # Without the options of pyproject.toml, which name a plugin that such a machine may lack.
    options = ["--override-ini=addopts=", "--import-mode=importlib", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    code = pytest.main([f"--rootdir={ROOT}", *options, *arguments], plugins=[RowPerTest(session)])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise RuntimeError("no test is marked gpu there")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")


class RowPerTest:
    """Write a row for each test as soon as it has ended, as a plugin of pytest."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Name a test before it can end the process."""
        self.session.announce(_row(nodeid))

    def pytest_runtest_setup(self) -> None:
        """Leave a test out for which there is no time."""
        import pytest

        if self.session.is_over:
            pytest.skip("the step's time was used up")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write what became of a test. A set-up or a clean-up that passed says nothing."""
        if report.when == "call" or not report.passed:
            self.session.write(_row(report.nodeid, report))


def _row(nodeid: str, report: Any = None) -> Row:
    file, _, name = nodeid.partition("::")
    row = Row(table=TABLE, case=file.removeprefix("tests/"), contender=name)
    if report is None:
        return row
    row.figures["seconds"] = report.duration
    if report.passed:
        return row
    # Of a skipped test pytest keeps file, line and reason, of an error that is no assertion sometimes only a text.
    told = report.longrepr[2] if report.skipped else getattr(report.longrepr, "reprcrash", report.longrepr)
    text = str(getattr(told, "message", told)).strip().partition("\n")[0].removeprefix("Skipped: ")
    return row.without_time("left out" if report.skipped else "failed", text[:300])
