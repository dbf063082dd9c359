"""The errors that the commands of this package show as one line."""


class BuildError(Exception):
    """Something could not be exported, built or verified; the message says what, why and what to do."""
