"""A serialised engine's header: which library wrote it and for what, read before the library is handed the rest."""

from __future__ import annotations

from typing import Any

from deploy.errors import BuildError

REASONS = {
    "VERSION_MISMATCH": "it was built by another version of TensorRT",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "this GPU's driver is too old for it",
    "OLD_CUDA_RUNTIME": "this machine's CUDA is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "this GPU's memory is too small for it",
    "MALFORMED_ENGINE": "it is no engine of this library, or was changed",
}


def check_plan(trt: Any, runtime: Any, plan: bytes | memoryview, name: str) -> None:
    """Raises BuildError with every reason that the library finds against `plan` (`IRuntime.get_engine_validity`).

    Without a GPU the library looks at no more than the format. Libraries older than the call are asked nothing: loading
    the engine gives their reason.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return
    _, diagnostics = runtime.get_engine_validity(plan)
    flags = trt.EngineInvalidityDiagnostics.__members__
    reasons = [reason for flag, reason in REASONS.items() if int(flags[flag]) & int(diagnostics)]
    if reasons:
        raise BuildError(f"{name} cannot be used: {'; '.join(reasons)}; build it again")
