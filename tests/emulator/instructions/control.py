"""List the instructions that choose the next one and that order the threads."""

from tests.emulator.errors import UnknownFormError
from tests.emulator.instructions.table import define
from tests.emulator.machine import Machine, Mask
from tests.emulator.parser import Operand


def for_all(mask: Mask | None) -> None:
    """Refuse an instruction under a guard, where all threads have to execute it."""
    if mask is not None:
        raise UnknownFormError("a guard of what all threads of a warp execute together")


def branch(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Go on at a label. Blocks may part there, the threads of a block may not."""
    target, behind = machine.labels[operands[0].name], machine.position
    chosen = machine.active(mask)
    if (chosen != chosen[:, :1]).any():
        raise UnknownFormError("a branch at which the threads of a block part")
    taken = chosen[:, 0]
    if taken.all():
        machine.position = target
    elif taken.any():
        machine.forks = [machine.select(~taken, behind), machine.select(taken, target)]
        machine.position = None


def end(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """End the blocks."""
    for_all(mask)
    machine.position = None


def meet(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Order all threads of a block."""
    for_all(mask)
    if operands[0].value != 0:
        raise UnknownFormError(f"barrier {operands[0].value}")
    machine.shared.races.barrier()


def meet_in_warps(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Order the threads of each warp."""
    for_all(mask)
    if operands[0].value not in (-1, 2**32 - 1):
        raise UnknownFormError(f"a barrier of the lanes {operands[0].value:#x}")
    machine.shared.races.warp_barrier()


define("bra", "label", branch)
define("bra.uni", "label", branch)
define("ret", "", end)
define("bar.sync", "n", meet)
define("bar.warp.sync", "n", meet_in_warps)
