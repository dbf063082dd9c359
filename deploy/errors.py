"""Define the error that the commands of this package show as one line."""


class BuildError(Exception):
    """Report what could not be exported, built or verified, why, and what to do about it, in one line."""
