"""What can go wrong between a client and the server; each message is one line."""

# ruff: noqa: N818 (the names say what happened; that they are errors, the base says)


class ClientError(Exception):
    """The request gave no result; the subclasses say whose fault it is and whether asking again can help."""


class ServerUnavailable(ClientError):
    """No server answers there, or it is not ready for requests (yet, or any more); asking again later may help."""


class DeadlineExceeded(ClientError):
    """The answer did not come within the timeout; the server may still be working on it."""


class InvalidImage(ClientError):
    """The server refused the image (not a JPEG, PNG or TIFF, damaged, too large); asking again cannot help."""


class ServerFault(ClientError):
    """The server failed on this request for a reason of its own, which its log holds."""


_KIND_OF_STATUS: dict[str | None, type[ClientError]] = {
    "StatusCode.UNAVAILABLE": ServerUnavailable,
    "StatusCode.NOT_FOUND": ServerUnavailable,
    "StatusCode.CANCELLED": ServerUnavailable,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
    "StatusCode.INVALID_ARGUMENT": InvalidImage,
    "400": InvalidImage,
    "404": ServerUnavailable,
    "499": DeadlineExceeded,
    "503": ServerUnavailable,
}

# What the server says while a worker is dead, and while its successor is loaded; the status is another each time.
_WORKER_REPLACED = ("is not healthy", "unknown model", "is not ready")


def from_status(status: str | None, message: str, url: str) -> ClientError:
    """The error for a gRPC status ("StatusCode.UNAVAILABLE") or an HTTP one ("503") and the server's own message."""
    line = " ".join(message.split())
    if any(sign in line for sign in _WORKER_REPLACED):
        return ServerUnavailable(f"the server at {url} is replacing its worker: {line}")
    kind = _KIND_OF_STATUS.get(status, ServerFault)
    if kind is InvalidImage:
        return InvalidImage(line)
    if kind is DeadlineExceeded:
        return DeadlineExceeded(f"the server at {url} did not answer in time")
    reason = "is not available" if kind is ServerUnavailable else "failed on the request"
    return kind(f"the server at {url} {reason}: {line}")
