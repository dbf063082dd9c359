"""Keep what TensorRT reports as errors, for the message of an exception."""

from functools import cache
from typing import Any


@cache
def error_log(trt: Any) -> Any:
    """Return the logger of a library in this process, which keeps errors and drops everything else.

    Its `take_errors()` returns what was reported since the last call, as one line.
    """
    # One a process: TensorRT reports everything to the first logger that it is given, whatever it is given later.

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        """Keep errors until they are taken."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Keep an error and drop everything else."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def take_errors(self) -> str:
            """Return the errors kept so far in one line, and forget them."""
            errors, self.errors = self.errors, []
            return "; ".join(errors) or "it gave no reason"

    return ErrorLog()
