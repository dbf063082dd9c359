"""Compile the kernels ahead of time, without a GPU, and tell what the compiler made of them."""

import json
import os
import re
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.aot import machine_code
from kernels.aot.configurations import TRITON_TYPES, Configuration, shipped
from kernels.aot.machine_code import MULTIPROCESSORS, occupancy
from kernels.dispatch import KernelInputError, require

CAPABILITIES = tuple(MULTIPROCESSORS)
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


def describe(configuration: Configuration, capability: int, compiled: Compiled) -> dict[str, Any]:
    """Make one row of the table."""
    code, needs = machine_code.instructions(compiled.cubin), machine_code.resources(compiled.cubin)
    loop = machine_code.main_loop(code)
    products = sum(one.is_tensor for one in loop)
    return {
        "kernel": configuration.kernel,
        "configuration": configuration.variant,
        "dtype": TRITON_TYPES[configuration.dtype],
        "architecture": f"sm_{capability}",
        "serves": configuration.serves,
        "entry": compiled.entry,
        "arguments": list(compiled.arguments),
        "registers": needs.registers,
        "spill_bytes": machine_code.spill_bytes(code),
        "stack_bytes": needs.stack_bytes,
        # From Triton and not from the cubin, which states static shared memory only.
        "shared_bytes": compiled.shared_bytes,
        "warps": compiled.threads // 32,
        # The one number here that is modelled. The others are read from the compiled kernel.
        "occupancy_modelled": round(
            occupancy(capability, needs.registers, compiled.shared_bytes, compiled.threads // 32), 3
        ),
        "instructions": len(code),
        "tensor_instructions": sum(one.is_tensor for one in code),
        "memory_instructions": machine_code.memory_counts(code),
        "loop_instructions": len(loop),
        "loop_tensor_instructions": products,
        "loop_instructions_per_tensor_instruction": round(len(loop) / products, 2) if products else None,
    }


def build(index: int, capability: int, output: Path) -> dict[str, Any]:
    """Compile configuration `index` of `shipped()`, write its two files and return its row."""
    # It runs in another process, so it takes an index: the functions in a configuration do not pickle.
    configuration = shipped()[index]
    compiled = compile_kernel(configuration, capability)
    stem = f"{configuration.name}-sm{capability}"
    (output / f"{stem}.cubin").write_bytes(compiled.cubin)
    (output / f"{stem}.ptx").write_text(without_scratch(compiled), encoding="utf-8")
    return {**describe(configuration, capability, compiled), "file": stem}


def _end_with_parent() -> None:
    """Let this process end with the one that started it, even where that was killed."""
    parent = parent_process()
    assert parent is not None, "only a process of the pool has this to do"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def build_all(output: Path, capabilities: list[int], kernels: list[str]) -> list[dict[str, Any]]:
    """Compile all shipped configurations of the kernels, write `kernels.json` and return its rows."""
    refuse_interpreter()
    unknown = [one for one in capabilities if one not in CAPABILITIES]
    require(not unknown, f"compute capability must be one of {CAPABILITIES}, got {unknown}")
    output.mkdir(parents=True, exist_ok=True)
    # Of a run before: it would tell of files that this one writes anew.
    (output / "kernels.json").unlink(missing_ok=True)
    indices = [index for index, one in enumerate(shipped()) if one.kernel in kernels]
    jobs = [(index, capability) for index in indices for capability in capabilities]
    # Spawned: the imported libraries have started threads by now, whose locks a forked process would inherit.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn"), _end_with_parent) as pool:
        # Ctrl-C at a terminal reaches every process. The workers, which start here, inherit that they ignore it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        futures = [pool.submit(build, index, capability, output) for index, capability in jobs]
        signal.signal(signal.SIGINT, before)
        try:
            rows = [future.result() for future in futures]
        except KeyboardInterrupt:
            # Not cancelled: Python 3.11's pool can then wait for ever for its workers.
            for worker in active_children():
                worker.terminate()
            raise
    table = {"triton": triton.__version__, "kernels": rows}
    # The last file to be written, so its presence means that all others are there. It needs no temporary file: a JSON
    # object that was cut off does not parse, so no reader takes it for a whole one.
    (output / "kernels.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    return rows
