"""TensorRT's progress monitor, passed on as one share between 0 and 1."""

from __future__ import annotations

from typing import Any

from deploy.engines.base import Progress


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """A monitor (TensorRT developer guide, "Monitoring the build") that reports the outermost phase under way."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            """Reports, and lets the build go on."""
            if phase in self.steps:
                progress(phase, (step + 1) / max(self.steps[phase], 1))
            return True

        def phase_finish(self, phase: str) -> None:
            if self.steps.pop(phase, None):
                progress(phase, 1.0)

    return Monitor()
