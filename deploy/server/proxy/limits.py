"""Say how many connections the proxy keeps, and for how long."""

import resource

# For the first bytes of a connection to become a request, for the whole of a request's body, and between requests.
HEAD_SECONDS, BODY_SECONDS, IDLE_SECONDS = 10.0, 30.0, 75.0
MOST = 2048


def open_files() -> int:
    """Return how many files this process may open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 2**20


def connections() -> int:
    """Return how many connections each protocol may have.

    A quarter of this process' files each: the rest is for the connections to tritonserver, and for what the supervisor
    reads.
    """
    return min(open_files() // 4, MOST)
