"""Run a kernel: registers, control flow and asynchronous copies of several blocks whose threads go in lockstep."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.emulator.errors import EmulatorError, UndefinedError, UnknownFormError
from tests.emulator.memory import GlobalMemory, SharedMemory
from tests.emulator.parser import Kernel, Operand

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Handler = Callable[["Machine", tuple[Operand, ...], Mask | None], None]
# What a register holds, by its kind. Views of the same width read it as another type.
STORED: dict[str, Any] = {"p": np.bool_, "rs": np.uint16, "r": np.uint32, "rd": np.uint64}
POISON = 0x7FC0DEAD7FC0DEAD  # a NaN as two float32, and far outside of every buffer as an address
LOCKSTEP = 2**15  # threads at a time, so that arrays stay in a core's cache


@dataclass(frozen=True)
class Copy:
    """Hold asynchronous copies on their way to shared memory: addresses, bytes and mask, a row for each block."""

    addresses: Array
    data: Array
    mask: Mask


@dataclass(kw_only=True)
class Machine:
    """Hold the state of blocks that are at one instruction.

    Values are `(blocks, threads)` arrays, with 1 for an axis along which they are equal: addresses of a block or
    numbers of a thread are then computed once.

    labels: positions of the kernel's labels.
    threads: of a block.
    position: of the next instruction, or None at the end.
    registers: the values of those that have been written.
    parameters: of the kernel.
    shared: memory of the blocks.
    memory: of all blocks.
    groups: asynchronous copies, each list one group, of which the last is open.
    reads: addresses of products of warp groups, in groups alike.
    forks: the machines that go on where blocks part at a branch.
    """

    labels: dict[str, int]
    threads: int
    position: int | None
    registers: dict[str, Array]
    parameters: dict[str, Array]
    shared: SharedMemory
    memory: GlobalMemory
    groups: list[list[Copy]] = field(default_factory=lambda: [[]])
    reads: list[list[Array]] = field(default_factory=lambda: [[]])
    forks: "list[Machine]" = field(default_factory=list)

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return len(self.shared.content)

    def full(self, value: Array) -> Array:
        """Return a value for every thread."""
        return np.broadcast_to(value, (self.blocks, self.threads))

    def active(self, mask: Mask | None) -> Mask:
        """Return which threads execute."""
        return self.full(np.ones((1, 1), np.bool_) if mask is None else mask)

    def read(self, operand: Operand, dtype: Any) -> Array:
        """Return the bits of a register, of a special register or of a number as a type of the same width."""
        if operand.kind in ("n", "f"):
            return number(operand.kind, operand.value, np.dtype(dtype))
        if operand.name not in self.registers:
            raise UndefinedError(f"a read of {operand.name}, which nothing has written")
        return self.registers[operand.name].view(dtype)

    def piece(self, operand: Operand) -> Array:
        """Return a register that is put beside another, with poison where nothing has written it.

        LLVM leaves the half of a pair undefined of which nothing reads the result.
        """
        stored = STORED[operand.kind]
        return self.registers[operand.name] if operand.name in self.registers else poison(stored)

    def write(self, operand: Operand, value: Array, mask: Mask | None) -> None:
        """Write a value of a register's width to it, for the threads that execute."""
        if operand.kind == "_":
            return
        stored = STORED[operand.kind]
        bits = value.view(stored)
        if mask is not None:
            bits = np.where(mask, bits, self.piece(operand))
        self.registers[operand.name] = bits

    def address(self, operand: Operand) -> Array:
        """Return the address that an operand stands for, for every thread."""
        dtype = np.uint64 if operand.kind == "[rd]" else np.uint32
        base = self.read(Operand(operand.kind[1:-1], operand.name), dtype)
        return self.full(base + number("n", operand.value, np.dtype(dtype)))

    def select(self, chosen: Mask, position: int | None) -> "Machine":
        """Return a machine of some of the blocks, at another instruction."""

        def rows(value: Array) -> Array:
            return value[chosen] if len(value) == self.blocks else value

        return Machine(
            labels=self.labels,
            threads=self.threads,
            position=position,
            registers={name: rows(value) for name, value in self.registers.items()},
            parameters=self.parameters,
            shared=self.shared.select(chosen),
            memory=self.memory,
            groups=[
                [Copy(one.addresses[chosen], one.data[chosen], one.mask[chosen]) for one in group]
                for group in self.groups
            ],
            reads=[[addresses[chosen] for addresses in group] for group in self.reads],
        )


def poison(dtype: Any) -> Array:
    """Return a value that spoils what is computed from it."""
    return np.array([[POISON]], np.uint64).astype(dtype)


@lru_cache(maxsize=4096)
def number(kind: str, value: int, dtype: "np.dtype[Any]") -> Array:
    """Return a number of an instruction as a value of a type."""
    if dtype == np.bool_:
        return np.array([[value != 0]])
    bits = 8 * dtype.itemsize
    if not -(2 ** (bits - 1)) <= value < 2**bits:
        raise UnknownFormError(f"{value} does not fit into {bits} bits")
    if kind == "n" and dtype.kind == "f":
        raise UnknownFormError(f"the integer {value} as a float")
    return np.array([[value % 2**bits]], np.dtype(f"u{dtype.itemsize}")).view(dtype)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Hold what a launch did: instructions of threads, and words that threads raced for."""

    executed: int
    races: int


class Program:
    """Hold a kernel whose every instruction is known."""

    def __init__(self, kernel: Kernel) -> None:
        # Here, because the families of instructions import this module.
        from tests.emulator.instructions import look_up

        self.kernel = kernel
        # Most kernels touch whole words only, for which the detector of races then does half of the work.
        halves = any(re.match(r"(ld|st)\.shared\S*\.b16$", one.opcode) for one in kernel.code)
        self.grain = 2 if halves else 4
        self.handlers = [look_up(one) for one in kernel.code]

    def launch(self, grid: int, shared_bytes: int, memory: GlobalMemory, arguments: Sequence[int]) -> Outcome:
        """Run `grid` blocks on the arguments, each given by its bits."""
        if len(arguments) != len(self.kernel.parameters):
            raise UndefinedError(f"{len(arguments)} arguments for {len(self.kernel.parameters)} parameters")
        parameters = {
            name: number("n", value, np.dtype(f"u{size}"))
            for (name, size), value in zip(self.kernel.parameters, arguments, strict=True)
        }
        before, executed, races = memory.races, 0, 0
        step = max(1, LOCKSTEP // self.kernel.threads)
        for first in range(0, grid, step):
            blocks = np.arange(first, min(first + step, grid), dtype=np.uint32)
            one = self._run(blocks, shared_bytes, memory, parameters)
            executed, races = executed + one.executed, races + one.races
        return Outcome(executed=executed, races=races + memory.races - before)

    def _run(self, blocks: Array, shared_bytes: int, memory: GlobalMemory, parameters: dict[str, Array]) -> Outcome:
        zero = np.zeros((1, 1), np.uint32)
        special = {f"{name}.{axis}": zero for name in ("%tid", "%ctaid") for axis in "yz"}
        special |= {"%ctaid.x": blocks[:, None], "%tid.x": np.arange(self.kernel.threads, dtype=np.uint32)[None]}
        work = [
            Machine(
                labels=self.kernel.labels,
                threads=self.kernel.threads,
                position=0,
                registers=special,
                parameters=parameters,
                shared=SharedMemory(len(blocks), shared_bytes, self.grain),
                memory=memory,
            )
        ]
        executed = races = 0
        while work:
            machine = work.pop()
            executed += self._advance(machine)
            races += machine.shared.races.found
            work += machine.forks
        return Outcome(executed=executed, races=races)

    def _advance(self, machine: Machine) -> int:
        """Run a machine to its end, or to a branch at which its blocks part, and count what its threads executed."""
        executed = 0
        while machine.position is not None:
            instruction, handler = self.kernel.code[machine.position], self.handlers[machine.position]
            machine.position += 1
            executed += machine.blocks * machine.threads
            try:
                mask = None
                if instruction.guard:
                    mask = machine.read(Operand("p", instruction.guard), np.bool_) ^ instruction.negated
                # Overflows and NaN are values here, not mistakes.
                with np.errstate(all="ignore"):
                    handler(machine, instruction.operands, mask)
            except EmulatorError as error:
                raise type(error)(f"{error}, in {self.kernel.name}, {instruction.line}") from None
        return executed
