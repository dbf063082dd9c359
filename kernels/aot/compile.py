"""Compile one configuration for one architecture, without a GPU, and make the PTX that TensorRT takes."""

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


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """Hold a compiled kernel.

    entry: name of the kernel in `ptx` and `cubin`.
    arguments: names of its runtime arguments, in order.
    ptx: the kernel in NVIDIA's portable instruction set.
    cubin: the machine code of one architecture.
    shared_bytes: dynamic shared memory of a block.
    threads: threads of a block.
    scratch_bytes: memory that Triton would pass in its two hidden arguments.
    """

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
    """Compile a configuration for one architecture.

    Args:
        configuration: kernel and compile-time arguments.
        capability: compute capability as an integer, such as 80 or 120.
        ptx_version: PTX instruction set as an integer, such as 85 for 8.5. None means Triton's choice. A driver refuses
            PTX that is newer than itself.

    Raises:
        KernelInputError: TRITON_INTERPRET=1 is set, where nothing compiles.
    """
    refuse_interpreter()
    # Line information would carry the paths of this machine into the PTX.
    triton.knobs.compilation.disable_line_info = True
    names: list[str] = configuration.function.arg_names
    # The same signature as at a launch: whatever has no runtime type is a compile-time constant.
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
        entry=metadata.name,
        arguments=tuple(configuration.types),
        ptx=kernel.asm["ptx"],
        cubin=kernel.asm["cubin"],
        shared_bytes=metadata.shared,
        threads=metadata.num_warps * 32,
        scratch_bytes=metadata.global_scratch_size + metadata.profile_scratch_size,
    )


def compile_payload(configuration: Configuration, capability: int, ptx_version: int | None = None) -> Compiled:
    """Compile a kernel for a TensorRT plugin: PTX without scratch parameters, less than 48 KB of shared memory.

    Takes the arguments of `compile_kernel`.

    Raises:
        KernelInputError: the kernel needs more shared memory even with one load stage, it uses scratch memory, or
            TRITON_INTERPRET=1 is set.
    """
    # Hopper and data-centre Blackwell buffer one more tile per load stage, so there it may have to take a stage less.
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
    """Return the PTX with only the kernel's own parameters.

    Triton appends two pointers to scratch memory, which TensorRT does not pass.

    Raises:
        KernelInputError: the kernel uses scratch memory.
    """
    count = len(compiled.arguments)
    hidden = [f"{compiled.entry}_param_{index}" for index in (count, count + 1)]
    # The parameter list ends where the body opens.
    entry = compiled.ptx.index(".entry " + compiled.entry)
    opening = compiled.ptx.index("\n{", entry)
    head, body = compiled.ptx[:opening], compiled.ptx[opening:]
    require(
        compiled.scratch_bytes == 0 and not any(re.search(rf"\b{name}\b", body) for name in hidden),
        f"a TensorRT payload must not use scratch memory, got {compiled.scratch_bytes} bytes in {compiled.entry}",
    )
    for name in hidden:
        head, found = re.subn(rf",\s*\.param [^,()]*\b{name}\b", "", head)
        # Another version of Triton may print parameters otherwise: then fail instead of handing out wrong PTX.
        require(found == 1, f"PTX of {compiled.entry} must name the scratch parameter {name} once, found {found}")
    return head + body
