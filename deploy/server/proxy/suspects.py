"""Remember the requests that had a worker when it ended, so that none can end one worker after another."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

# Ends of a worker after which a request is not taken again: the first may have had another cause.
STRIKES = 2
REMEMBERED = 64

Content = Sequence[bytes | memoryview]


class Suspects:
    """Count how many workers each request has ended, by its content, since its id may change.

    A worker that has ended fails the request that it had and then all others until it is replaced. Only the first one
    can have been the cause.
    """

    def __init__(self) -> None:
        self._strikes: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._blamed: set[str] = set()

    def refuses(self, model: str, content: Content) -> str:
        """Return why a request is not taken, or an empty text."""
        ended = self._strikes.get(_key(model, content), 0) if self._may_know(content) else 0
        return f"{ended} workers ended while they had this request: it is not taken again" if ended >= STRIKES else ""

    def failed(self, model: str, content: Content) -> None:
        """Take note of a request whose worker has ended."""
        if model in self._blamed:
            return
        self._blamed.add(model)
        key = _key(model, content)
        self._strikes[key] = self._strikes.pop(key, 0) + 1
        if len(self._strikes) > REMEMBERED:
            self._strikes.popitem(last=False)

    def answered(self, model: str, content: Content) -> None:
        """Take note of a request that was answered, and is above suspicion."""
        if self._may_know(content):
            self._strikes.pop(_key(model, content), None)

    def replaced(self, model: str) -> None:
        """Take note of new workers."""
        self._blamed.discard(model)

    def _may_know(self, content: Content) -> bool:
        # Almost always nobody of that size is suspected, and nothing has to be hashed.
        return any(size == _size(content) for size, _ in self._strikes)


def _size(content: Content) -> int:
    return sum(map(len, content))


def _key(model: str, content: Content) -> tuple[int, bytes]:
    digest = hashlib.blake2b(digest_size=16)
    for part in (model.encode(), *content):
        # With its length: parts could else exchange their bytes.
        digest.update(f"{len(part)} ".encode())
        digest.update(part)
    return _size(content), digest.digest()
