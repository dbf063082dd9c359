"""Define the one exception of this package and the helper that raises it."""


class KernelInputError(ValueError):
    """Report an argument that breaks a rule of the operation.

    The message states the rule and the values found.
    """


def require(holds: bool, rule: str) -> None:
    """Raise `KernelInputError(rule)` unless `holds`."""
    if not holds:
        raise KernelInputError(rule)
