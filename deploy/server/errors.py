"""Define the error of a server that cannot start or cannot go on."""


class ServerError(Exception):
    """Say in one line what failed, in the server's own words where it gave any, and what to do."""
