"""Write the log of the server, its workers, its proxy and its supervisor as lines of JSON."""

import json
import re
import sys
from datetime import datetime, timezone

# 2026-01-31T12:00:00Z I 4711 http_server.cc:362] "Started Metrics Service at 127.0.0.1:8002"
_LINE = re.compile(r'^(?P<time>\S+Z) (?P<level>[IWEF]) \d+ (?P<where>[^\]\s]+)\] "?(?P<message>.*?)"?\s*$')
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error"}
# Tables of settings, and messages about CUDA that every start without a GPU prints and that mean nothing.
_NOISE = re.compile(r"^\s*$|^[+|]|CudaDriverHelper|CUDA memory pool disabled|pinned system memory")


def log_server_line(line: str) -> None:
    """Write one line of the server's output to stderr as JSON with time, level, where and message."""
    if line.startswith('{"request": '):
        _write_request(line)
        return
    if _NOISE.search(line):
        return
    # A line without the form of the server's own log was printed by a worker.
    if parts := _LINE.match(line):
        # The title of a table, which is left out as well, says nothing.
        if not parts["message"]:
            return
        _write(parts["time"], _LEVELS[parts["level"]], parts["where"], parts["message"])
    else:
        _write(_now(), "info", "worker", line)


def _write_request(line: str) -> None:
    """Write the line that the proxy or a worker prints for a request, which is JSON already."""
    try:
        fields = json.loads(line)
    except ValueError:
        # Workers share one pipe, and two that print at once may leave their lines in one.
        _write(_now(), "info", "worker", line)
    else:
        # "front" is the proxy's name in the log's format. Only its lines have an HTTP status.
        _print({"time": _now(), "level": "info", "where": "front" if "status" in fields else "worker", **fields})


def log_event(message: str) -> None:
    """Write one of the supervisor's own messages in the same form."""
    _write(_now(), "warning", "supervisor", message)


def _write(time: str, level: str, where: str, message: str) -> None:
    _print({"time": time, "level": level, "where": where, "message": message})


def _print(fields: dict[str, object]) -> None:
    print(json.dumps(fields), file=sys.stderr, flush=True)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
