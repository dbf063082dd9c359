"""Query a served model: `Client` or `AsyncClient` in a program, `python -m deploy.client` at a terminal.

Needs `pip install resformer-deploy[client]` alone: neither torch nor DALI is imported.
"""

from deploy.client.async_client import AsyncClient
from deploy.client.client import Client, Result
from deploy.client.errors import ClientError, DeadlineExceeded, InvalidImage, ServerFault, ServerUnavailable
from deploy.client.transport import Access

__all__ = [
    "Access",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "InvalidImage",
    "Result",
    "ServerFault",
    "ServerUnavailable",
]
