"""Query a served model: `Client` or `AsyncClient` in a program, `python -m deploy.client` at a terminal.

Needs `pip install resformer-deploy[client]` alone: neither torch nor DALI is imported.
"""

from deploy.client.client import AsyncClient, Client, Result
from deploy.client.errors import (
    AccessDenied,
    ClientError,
    DeadlineExceeded,
    InvalidImage,
    ServerFault,
    ServerUnavailable,
)
from deploy.client.transport import Access

__all__ = [
    "Access",
    "AccessDenied",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "InvalidImage",
    "Result",
    "ServerFault",
    "ServerUnavailable",
]
