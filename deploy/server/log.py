"""Write the log of the server, its workers, its proxy and its supervisor as lines of JSON."""

import json
import logging
import os
import queue
import re
import threading
import traceback
from datetime import datetime, timezone

# 2026-01-31T12:00:00Z I 4711 http_server.cc:362] "Started Metrics Service at 127.0.0.1:8002"
_LINE = re.compile(r'^(?P<time>\S+Z) (?P<level>[IWEF]) \d+ (?P<where>[^\]\s]+)\] "?(?P<message>.*?)"?\s*$')
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error"}
# Tables of settings, and what means nothing: about CUDA, at every start without a GPU, and about sockets in files.
_NOISE = re.compile(r"^\s*$|^[+|]|CudaDriverHelper|CUDA memory pool disabled|pinned system memory|NODELAY NOT SUPP")
# Lines that wait to be written. More are dropped and counted.
WAITING = 10_000
# How long the end of the program waits for the last lines.
FLUSH_SECONDS = 1.0


class Log(logging.Handler):
    """Write lines of JSON to a file descriptor, in a thread, so that no reader of it can hold up who logs.

    A line that cannot be written (the reader is gone or does not read, the disk is full) is dropped. The next one that
    can be is preceded by one that says how many were. As a handler it takes what libraries log.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING)
        # Lines that callers dropped, not exact where two do at once, which is better than a lock that may be held; and
        # how many of them the log tells of, less those that the writer lost, which only the writer changes.
        self._dropped = 0
        self._told = 0
        # What was written last may be the beginning of a line.
        self._cut = False
        self._writer = threading.Thread(target=self._write_all, daemon=True)
        self._writer.start()

    def server_line(self, line: str) -> None:
        """Write one line of the server's output with time, level, where and message."""
        if line.startswith('{"request": '):
            self._request(line)
            return
        if _NOISE.search(line):
            return
        # A line without the form of the server's own log was printed by a worker.
        if parts := _LINE.match(line):
            # The title of a table, which is left out as well, says nothing.
            if parts["message"]:
                self._message(_LEVELS[parts["level"]], parts["where"], parts["message"], parts["time"])
        else:
            self._message("info", "worker", line)

    def event(self, message: str) -> None:
        """Write one of the supervisor's own messages."""
        self._message("warning", "supervisor", message)

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a library logs, with its traceback in the same line."""
        error = record.exc_info[1] if record.exc_info else None
        trace = {"traceback": "".join(traceback.format_exception(error))} if error else {}
        self._message(record.levelname.lower(), record.name, record.getMessage(), **trace)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        try:
            self._lines.put(None, timeout=FLUSH_SECONDS)
        except queue.Full:
            return
        self._writer.join(FLUSH_SECONDS)
        super().close()

    def _request(self, line: str) -> None:
        """Write the line that the proxy or a worker prints for a request, which is JSON already."""
        try:
            fields = json.loads(line)
        except ValueError:
            # Workers share one pipe, and two that print at once may leave their lines in one.
            self._message("info", "worker", line)
        else:
            # "front" is the proxy's name in the log's format. Only its lines have an HTTP status or an error.
            where = "front" if fields.keys() & {"status", "error"} else "worker"
            level = "error" if "error" in fields else "info"
            self._put({"time": _now(), "level": level, "where": where, **fields})

    def _message(self, level: str, where: str, message: str, time: str = "", **more: str) -> None:
        self._put({"time": time or _now(), "level": level, "where": where, "message": message, **more})

    def _put(self, fields: dict[str, object]) -> None:
        try:
            self._lines.put_nowait(json.dumps(fields))
        except queue.Full:
            self._dropped += 1

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            untold = self._dropped - self._told
            if untold and self._write(_dropped(untold)):
                self._told += untold
            if not self._write(line):
                self._told -= 1

    def _write(self, line: str) -> bool:
        """Write a line and return whether all of it was."""
        data = (("\n" if self._cut else "") + line + "\n").encode()
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            return False
        self._cut = written < len(data)
        return not self._cut


def _dropped(count: int) -> str:
    message = f"{count} lines could not be written"
    return json.dumps({"time": _now(), "level": "warning", "where": "log", "message": message})


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
