"""Treat Ctrl-C as a request: the running step is finished and the state is saved."""

import signal
from types import FrameType, TracebackType


class Interrupt:
    """Set `requested` on the first Ctrl-C (SIGINT) or SIGTERM within `with`, and leave the second to its old handler.

    requested: whether the signal has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # A step may hang or take long: the second signal ends the process as if this class were not there.
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        # Restored once only: `__exit__` after `_request` must not undo a handler that was set in between.
        self._before.clear()
