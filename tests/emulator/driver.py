"""Let Triton compile and launch kernels as on a GPU, and emulate what its launcher hands to the driver.

It needs a process in which Triton does not interpret.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import triton
from torch import Tensor
from triton.backends.nvidia.driver import CudaDriver, CudaLauncher

from tests.emulator.machine import Outcome, Program
from tests.emulator.memory import GlobalMemory
from tests.emulator.parser import parse

LAUNCH_FAILED = 719  # CUDA_ERROR_LAUNCH_FAILED


class LaunchConfig(ctypes.Structure):
    """Mirror the structure of the same name in fake_libcuda.c."""

    _fields_ = (
        *(("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint)),
        *(("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("attribute_count", ctypes.c_uint)),
    )


LAUNCHED = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_uint64, ctypes.POINTER(LaunchConfig), ctypes.POINTER(ctypes.c_void_p)
)


@lru_cache
def program(ptx: str) -> Program:
    """Parse PTX once."""
    return Program(parse(ptx))


class EmulatedGpu:
    """Stand for a GPU of one compute capability whose memory is that of this process.

    edit: changes the PTX of every kernel before it runs.
    withheld: bytes of shared memory that launches get too few.
    outcomes: of the launches, in order.
    sources: the PTX that Triton has loaded, by the number of its function.
    failure: what stopped the last launch, which its caller sees as a CUDA error.
    """

    def __init__(self, library: Path, capability: int) -> None:
        self.edit: Callable[[str], str] = lambda ptx: ptx
        self.withheld = 0
        self.outcomes: list[Outcome] = []
        self.failure: Exception | None = None
        self.sources: dict[int, str] = {}
        self._memory = GlobalMemory()
        # The library's name answers Triton's dlopen of it. Python must keep the callback.
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self._callback = LAUNCHED(self._launched)
        self._library.fake_prepare(self._callback, capability)
        # The parser knows no line information, without which a kernel is the same.
        triton.knobs.compilation.disable_line_info = True
        triton.knobs.nvidia.libcuda_path = str(library.parent)
        triton.knobs.runtime.kernel_load_end_hook.add(self._loaded)
        triton.runtime.driver.set_active(self._driver(capability))

    def _driver(self, capability: int) -> Any:
        """Make Triton's own driver, without what it asks of PyTorch."""
        gpu = self

        class Launcher(CudaLauncher):  # type: ignore[misc]
            def __call__(self, *arguments: Any) -> None:
                gpu._register([one for one in arguments if isinstance(one, Tensor)])
                super().__call__(*arguments)

        driver = CudaDriver()
        driver.launcher_cls = Launcher
        driver.get_current_device = lambda: 0
        driver.set_current_device = lambda device: None
        driver.get_current_stream = lambda device: 0
        driver.get_device_capability = lambda device=0: divmod(capability, 10)
        return driver

    def _register(self, tensors: list[Tensor]) -> None:
        """Let the next launch touch the allocations of its arguments, and no other memory."""
        storages = [one.untyped_storage() for one in tensors]
        self._memory = GlobalMemory()
        for start, size in {(one.data_ptr(), one.nbytes()) for one in storages}:
            self._memory.add(start, size)

    def _loaded(self, module: int, function: int, name: str, files: dict[str, str], key: str) -> None:
        """Read the PTX of a function that Triton has loaded the machine code of."""
        self.sources[function] = Path(files[f"{name}.ptx"]).read_text(encoding="utf-8")

    def _launched(self, function: int, config: Any, parameters: Any) -> int:
        """Execute a launch as the driver gets it."""
        try:
            self.outcomes.append(self._emulate(program(self.edit(self.sources[function])), config.contents, parameters))
        except Exception as error:  # C code calls this: an exception would end here without a trace
            self.failure = error
            return LAUNCH_FAILED
        return 0

    def _emulate(self, program: Program, config: Any, parameters: Any) -> Outcome:
        assert list(config.block) == [program.kernel.threads, 1, 1]
        assert list(config.grid)[1:] == [1, 1]
        arguments = [
            (ctypes.c_uint64 if size == 8 else ctypes.c_uint32).from_address(parameters[place]).value
            for place, (_, size) in enumerate(program.kernel.parameters)
        ]
        return program.launch(config.grid[0], config.shared_bytes - self.withheld, self._memory, arguments)
