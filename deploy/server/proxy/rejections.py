"""What was turned away, counted by reason, in the text format of Prometheus."""

from collections import Counter

NAME = "resformer_rejected_requests_total"
# The worker's own family: images that reached it, over HTTP or gRPC, and could not be used.
IMAGES_NAME = "resformer_rejected_images_total"


class Rejection(Exception):  # noqa: N818 (an answer, not a fault)
    """A request that is refused: HTTP status, a reason to count it by, and one line for the client."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Rejections:
    """Counts since the front started."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """One more for `reason`, a name of this code's choosing."""
        self._counts[reason] += 1

    def text(self) -> str:
        """The family as Prometheus reads it."""
        head = [f"# HELP {NAME} Requests over HTTP that were refused before inference", f"# TYPE {NAME} counter"]
        lines = [f'{NAME}{{reason="{reason}"}} {count}' for reason, count in sorted(self._counts.items())]
        return "\n".join([*head, *lines, ""])
