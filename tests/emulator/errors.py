"""Name what stops the emulator: PTX that it does not know, and programs that a GPU would not run as they look."""


class EmulatorError(Exception):
    """Report why a kernel cannot go on, with the line of its PTX."""


class UnknownFormError(EmulatorError):
    """Report PTX that the emulator does not know. It never guesses."""


class AccessError(EmulatorError):
    """Report an access outside of all memory, or at an address that its size does not divide."""


class UndefinedError(EmulatorError):
    """Report what PTX leaves undefined, such as a read of a register that nothing has written."""
