"""Start, watch and stop the real `tritonserver` of nvidia-pytriton.

The names below load their module on first use. A worker process, whose code lives in this package, uses none of them
and stays free of aiohttp and gRPC.
"""

from typing import TYPE_CHECKING

from data_pipeline import lazy_names

if TYPE_CHECKING:
    from deploy.errors import ServerError as ServerError
    from deploy.server.options import ServerOptions as ServerOptions
    from deploy.server.options import Tls as Tls
    from deploy.server.server import Server as Server
    from deploy.server.supervisor import Supervisor as Supervisor

_MODULES = {
    "Server": "deploy.server.server",
    "ServerError": "deploy.errors",
    "ServerOptions": "deploy.server.options",
    "Supervisor": "deploy.server.supervisor",
    "Tls": "deploy.server.options",
}
__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
