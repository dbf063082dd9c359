"""List every instruction that the emulator knows, by its full opcode and the kinds of its operands."""

from importlib import import_module

from tests.emulator.instructions.table import look_up, opcodes

__all__ = ["look_up", "opcodes"]

# Each family fills the table when it is imported.
for _family in ("control", "conversion", "floating", "integer", "matrix", "transfer", "warp", "warpgroup"):
    import_module(f"{__name__}.{_family}")
