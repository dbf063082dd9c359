"""Define what can go wrong between a client and the server.

Each message is one line.
"""

# ruff: noqa: N818 (the names say what happened, the base class that they are errors)


class ClientError(Exception):
    """Report that a request gave no result.

    The subclasses say why, and whether trying again can help.
    """


class ServerUnavailable(ClientError):
    """Report that no server answers, or that it is not ready for requests.

    Trying again later may help.
    """


class AccessDenied(ClientError):
    """Report that the server asks for a token, or refuses the one sent.

    Trying again cannot help.
    """


class DeadlineExceeded(ClientError):
    """Report that no response came within the timeout.

    The server may still be working on the request.
    """


class InvalidImage(ClientError):
    """Report that the server refused the image.

    It is of another format, damaged or too large. Trying again cannot help.
    """


class ServerFault(ClientError):
    """Report that the server failed on this request for a reason of its own, which its log holds."""


_KIND_OF_STATUS: dict[str | None, type[ClientError]] = {
    "StatusCode.UNAVAILABLE": ServerUnavailable,
    # A client asks for one model, which is missing while the supervisor reloads it.
    "StatusCode.NOT_FOUND": ServerUnavailable,
    "StatusCode.CANCELLED": ServerUnavailable,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
    "StatusCode.INVALID_ARGUMENT": InvalidImage,
    "400": InvalidImage,
    "404": ServerUnavailable,
    "413": InvalidImage,
    "499": DeadlineExceeded,
    "503": ServerUnavailable,
    "504": DeadlineExceeded,
}

# gRPC's own words, of the server's side as of this one.
TOO_LARGE = "message larger than max"
# The server's messages while a worker is dead, and while its successor is loaded. The status differs each time.
_WORKER_REPLACED = ("is not healthy", "unknown model", "is not ready")


_TOKEN_REFUSED = ("StatusCode.UNAUTHENTICATED", "401")


def from_status(status: str | None, message: str, url: str, *, with_token: bool = False) -> ClientError:
    """Return the error for a response's status and the server's own message.

    Args:
        status: of gRPC ("StatusCode.UNAVAILABLE") or HTTP ("503").
        message: the server's, of any number of lines.
        url: of the server.
        with_token: whether the request carried a token.
    """
    if status in _TOKEN_REFUSED:
        what = "refuses this token" if with_token else "asks for a token"
        return AccessDenied(f"the server at {url} {what}")
    line = " ".join(message.split())
    if any(sign in line for sign in _WORKER_REPLACED):
        return ServerUnavailable(f"the server at {url} is replacing its worker: {line}")
    if TOO_LARGE in line:
        return InvalidImage(f"the image is larger than the server takes: {line}")
    kind = _KIND_OF_STATUS.get(status, ServerFault)
    # The server's message about an image is complete, and written for the user who sent it.
    if kind is InvalidImage:
        return InvalidImage(line)
    if kind is DeadlineExceeded:
        return DeadlineExceeded(f"the server at {url} did not answer in time")
    reason = "is not available" if kind is ServerUnavailable else "failed on the request"
    return kind(f"the server at {url} {reason}: {line}")
