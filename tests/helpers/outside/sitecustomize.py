"""Note every look-up of another host, and refuse it: Python imports this file at its start where it is on PYTHONPATH.

It needs the standard library alone, because it runs in every Python process that a test starts.
"""

import os
import sys
from ipaddress import ip_address
from typing import Any

LOG = "TESTS_OUTSIDE_LOG"  # names the file that the look-ups are noted in


def other_host(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the host that an audit event of `socket` asks for or sends to, or None for this machine."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return None
    host = host.decode() if isinstance(host, bytes) else host
    # `.invalid` is nobody's by RFC 2606: tests ask for it to see what a wrong name does.
    return None if host in (None, "", "localhost") or host.endswith(".invalid") or _is_local(host) else host


def _is_local(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse_other_hosts(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and (host := other_host(event, arguments)):
        # A file, because a library may ask in a process of its own, and catch the error.
        with open(os.environ[LOG], "a", encoding="utf-8") as log:  # noqa: PTH123 - pathlib would be imported into every process
            log.write(f"{event} {host}\n")
        raise PermissionError(f"a test asked for another host: {host}")


if LOG in os.environ:
    sys.addaudithook(_refuse_other_hosts)
