"""Compiling one configuration for one architecture, without a GPU, and the PTX that TensorRT takes."""

import re
from dataclasses import dataclass, replace
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.aot.configurations import Configuration
from kernels.errors import KernelInputError, require

PAYLOAD_SHARED_BYTES = 48 * 1024  # whether TensorRT asks the driver for more is not documented
ALIGNED = [["tt.divisibility", 16]]  # torch and TensorRT align tensors to more than the 16 bytes of a wide load


@dataclass(frozen=True)
class Compiled:
    """entry: name of the kernel in both. arguments: names of its runtime arguments in order. shared_bytes: dynamic
    shared memory. threads: of a block. scratch_bytes: what Triton would want in its two hidden arguments."""

    entry: str
    arguments: tuple[str, ...]
    ptx: str
    cubin: bytes
    shared_bytes: int
    threads: int
    scratch_bytes: int


def refuse_interpreter() -> None:
    """Raise KernelInputError where Triton interprets instead of compiling."""
    require(not triton.knobs.runtime.interpret, "kernels do not compile under TRITON_INTERPRET=1: unset it")


def compile_kernel(configuration: Configuration, capability: int, ptx_version: int | None = None) -> Compiled:
    """capability as 80 or 120; ptx_version as 85 lowers the PTX instruction set for an older driver.

    Raises KernelInputError under TRITON_INTERPRET, where nothing compiles.
    """
    refuse_interpreter()
    triton.knobs.compilation.disable_line_info = True  # it would carry this machine's paths
    names: list[str] = configuration.function.arg_names
    source = ASTSource(
        fn=configuration.function,
        signature={name: configuration.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in configuration.constants.items()},
        attrs={(names.index(name),): ALIGNED for name, kind in configuration.types.items() if kind.startswith("*")},
    )
    options: dict[str, Any] = {**configuration.options, "ptx_version": ptx_version}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    metadata = kernel.metadata
    return Compiled(
        metadata.name,
        tuple(configuration.types),
        kernel.asm["ptx"],
        kernel.asm["cubin"],
        metadata.shared,
        metadata.num_warps * 32,
        metadata.global_scratch_size + metadata.profile_scratch_size,
    )


def compile_payload(configuration: Configuration, capability: int, ptx_version: int | None = None) -> Compiled:
    """As `compile_kernel`, for a TensorRT plugin: PTX without scratch parameters, less than 48 KB of shared memory.

    Hopper and data-centre Blackwell buffer one more tile a load stage, so there it may take a stage less. Raises
    KernelInputError if not even one stage fits, or if the kernel uses scratch memory.
    """
    for stages in range(configuration.options["num_stages"], 0, -1):
        staged = replace(configuration, options={**configuration.options, "num_stages": stages})
        compiled = compile_kernel(staged, capability, ptx_version)
        if compiled.shared_bytes < PAYLOAD_SHARED_BYTES:
            return replace(compiled, ptx=without_scratch(compiled))
    raise KernelInputError(
        f"a TensorRT payload must take less than {PAYLOAD_SHARED_BYTES} bytes of shared memory, "
        f"got {compiled.shared_bytes} for {configuration.name} on sm_{capability}"
    )


def without_scratch(compiled: Compiled) -> str:
    """The PTX with only the kernel's own parameters: TensorRT does not pass Triton's two scratch pointers.

    Raises KernelInputError if the kernel uses them.
    """
    count = len(compiled.arguments)
    hidden = [f"{compiled.entry}_param_{index}" for index in (count, count + 1)]
    entry = compiled.ptx.index(".entry " + compiled.entry)
    opening = compiled.ptx.index("\n{", entry)
    head, body = compiled.ptx[:opening], compiled.ptx[opening:]
    require(
        compiled.scratch_bytes == 0 and not any(re.search(rf"\b{name}\b", body) for name in hidden),
        f"a TensorRT payload must not use scratch memory, got {compiled.scratch_bytes} bytes in {compiled.entry}",
    )
    for name in hidden:
        head, found = re.subn(rf",\s*\.param [^,()]*\b{name}\b", "", head)
        require(found == 1, f"PTX of {compiled.entry} must name the scratch parameter {name} once, found {found}")
    return head + body
