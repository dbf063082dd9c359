"""Count refused requests by reason, in the text format of Prometheus."""

from collections import Counter

NAME = "resformer_rejected_requests_total"


class Rejection(Exception):  # noqa: N818 (a response, not a fault)
    """Refuse a request.

    status: of the HTTP response.
    reason: what to count it by.
    message: one line for the client.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Rejections:
    """Count rejections since the proxy started."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one more for `reason`."""
        # Every reason is a literal of this code: text from a client would let it add metrics without limit.
        self._counts[reason] += 1

    def text(self) -> str:
        """Return the family of counters as Prometheus reads it."""
        head = [f"# HELP {NAME} Requests over HTTP that were refused before inference", f"# TYPE {NAME} counter"]
        lines = [f'{NAME}{{reason="{reason}"}} {count}' for reason, count in sorted(self._counts.items())]
        return "\n".join([*head, *lines, ""])
