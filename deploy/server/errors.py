"""What keeps a server from starting or from going on."""


class ServerError(Exception):
    """One line: what failed, in the server's own words where it said any, and what to do."""
