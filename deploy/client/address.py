"""Read the address of a server as people write it, and say whether a proxy stands before it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

Protocol = Literal["grpc", "http"]

DEFAULT_PORTS: dict[Protocol, int] = {"grpc": 8001, "http": 8000}
# Whether a scheme asks for TLS, by the protocol that it belongs to.
SCHEMES: dict[Protocol, dict[str, bool]] = {
    "grpc": {"grpc": False, "grpcs": True},
    "http": {"http": False, "https": True},
}
# host, [IPv6] or nothing, and the port behind the last colon.
AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]/?#@\s]+)(?::(?P<port>[0-9]*))?")
LARGEST_PORT = 65535
# What gRPC looks for, in its order. Over HTTP no proxy is used.
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True)
class Address:
    """Hold where a server listens.

    host: name or IP address, without brackets.
    port: from 1 to 65535.
    secure: whether the address itself asks for TLS, by its scheme.
    """

    host: str
    port: int
    secure: bool

    @property
    def authority(self) -> str:
        """Return host:port, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Tell whether the address is this machine's own, which no proxy may stand before."""
        if self.host.lower().rstrip(".") == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_address(text: str, protocol: Protocol) -> Address:
    """Read HOST, HOST:PORT, [IPv6]:PORT or any of them behind the scheme of a protocol.

    Args:
        text: the address, as a person gives it.
        protocol: which one is spoken there. It gives the port where the text has none.

    Raises:
        ValueError: it is no such address, or belongs to the other protocol.
    """
    scheme, separator, rest = text.strip().rpartition("://")
    if separator and scheme.lower() not in SCHEMES[protocol]:
        other = next((name for name, schemes in SCHEMES.items() if scheme.lower() in schemes), None)
        advice = f"it belongs to --protocol {other}" if other else f"use {' or '.join(SCHEMES[protocol])}"
        raise ValueError(f"the address {text} begins with {scheme}://, which {protocol} is not spoken over: {advice}")
    found = AUTHORITY.fullmatch(rest.removesuffix("/"))
    if found is None:
        # A bare IPv6 address cannot be told from one with a port.
        bare = rest.count(":") > 1
        raise ValueError(
            f"{text!r} is no address of a server: expected HOST:PORT" + (", or [IPv6]:PORT" if bare else "")
        )
    host = found["host"].strip("[]")
    if found["host"].startswith("[") and not _is_ipv6(host):
        raise ValueError(f"{text!r} is no address of a server: {host!r} is no IPv6 address")
    port = int(found["port"] or DEFAULT_PORTS[protocol])
    if not 0 < port <= LARGEST_PORT:
        raise ValueError(f"the port of {text} must be 1 to {LARGEST_PORT}, got {port}")
    return Address(host, port, SCHEMES[protocol].get(scheme.lower(), False))


def _is_ipv6(host: str) -> bool:
    try:
        # A zone, as in fe80::1%eth0, is no part of the address itself.
        return ip_address(host.partition("%")[0]).version == 6
    except ValueError:
        return False


def proxy_before(address: Address, protocol: Protocol, environment: Mapping[str, str] = os.environ) -> str:
    """Return the proxy that gRPC takes from the environment for an address, or an empty text.

    This machine's own addresses are never reached through one.
    """
    if protocol != "grpc" or address.is_local:
        return ""
    proxy = next((environment[name] for name in PROXY_VARIABLES if environment.get(name)), "")
    excluded = next((environment[name] for name in NO_PROXY_VARIABLES if environment.get(name)), "")
    names = (name.strip() for name in excluded.split(","))
    # As gRPC itself compares: by the end of the host's name.
    return "" if any(name and address.host.endswith(name) for name in names) else _without_password(proxy)


def _without_password(proxy: str) -> str:
    """Return a proxy's address without the name and password that it may carry, which no log is to hold."""
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
