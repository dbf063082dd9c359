"""The real `tritonserver` of nvidia-pytriton, started, watched and stopped."""

from deploy.server.api import Server, ServerOptions
from deploy.server.errors import ServerError
from deploy.server.supervisor import Supervisor

__all__ = ["Server", "ServerError", "ServerOptions", "Supervisor"]
