"""The real `tritonserver` of nvidia-pytriton, started, watched and stopped."""

from deploy.server.api import Server
from deploy.server.errors import ServerError
from deploy.server.options import ServerOptions, Tls
from deploy.server.supervisor import Supervisor

__all__ = ["Server", "ServerError", "ServerOptions", "Supervisor", "Tls"]
