"""Define the errors that the commands of this package show as one line."""

import errno

# Of an OSError: what this process lacks says nothing about what it asked.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class BuildError(Exception):
    """Report what could not be exported, built or verified, why, and what to do about it, in one line."""


class ServerError(Exception):
    """Say in one line what failed, in the server's own words where it gave any, and what to do."""
