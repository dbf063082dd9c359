"""Take the wish for another version by SIGHUP, and tell the one who sent it what became of it."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import gettempdir

from data_pipeline.files import write_whole
from deploy.errors import ServerError
from deploy.server.process.leftovers import folders

_FILE = "reload.json"  # in the folder of a server that listens to SIGHUP
_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Hold what became of a server's last reload.

    repository: the folder that it serves.
    begun: reloads so far, with one that is under way.
    count: of those that have ended.
    succeeded: whether the last one did.
    message: about it, in one line.
    """

    repository: str
    begun: int = 0
    count: int = 0
    succeeded: bool = True
    message: str = ""


class Reloads:
    """Remember that SIGHUP asked for a reload, and publish the outcome of each.

    wanted: whether one was asked for since the last one began.
    """

    def __init__(self) -> None:
        """Listen to SIGHUP, which would end the process."""
        self.wanted = False
        self._outcome: Outcome | None = None
        signal.signal(signal.SIGHUP, self._want)

    def announce(self, folder: Path, repository: Path) -> None:
        """Let `request_reload` find the server, each time that its folder was made."""
        self._outcome = self._outcome or Outcome(repository=str(repository.resolve()))
        self._write(folder)

    def run(self, folder: Path, work: Callable[[], str]) -> str:
        """Do the reload that was asked for, and return what became of it in one line.

        Args:
            folder: the server's own.
            work: reloads, and returns what is served now, or raises ServerError or OSError.
        """
        assert self._outcome is not None
        self.wanted, succeeded = False, True
        begun = self._outcome = replace(self._outcome, begun=self._outcome.begun + 1)
        self._write(folder)
        try:
            message = work()
        # Whatever is wrong with what the repository holds by now, it must not end what is served.
        except Exception as error:
            reason = str(error) if isinstance(error, (ServerError, OSError)) else f"{type(error).__name__}: {error}"
            succeeded, message = False, f"the reload failed, and what was served still is: {reason}"
        self._outcome = replace(begun, count=begun.begun, succeeded=succeeded, message=message)
        self._write(folder)
        return message

    def _want(self, *_signal: object) -> None:
        self.wanted = True

    def _write(self, folder: Path) -> None:
        # Nobody may be waiting for it, and the log has the same.
        with suppress(OSError):
            write_whole(folder / _FILE, json.dumps(asdict(self._outcome)))  # type: ignore[arg-type]


def request_reload(repository: Path) -> list[Outcome]:
    """Ask every server of this user that serves a repository to reload it, wait, and return what became of it.

    Raises ServerError where there is none, and where one ends meanwhile.
    """
    found = [(folder, before) for folder, before in _listening() if before.repository == str(repository.resolve())]
    if not found:
        where = f"found in {gettempdir()} (TMPDIR must be that of the server)"
        raise ServerError(f"no server of this user that serves {repository} was {where}")
    for folder, _ in found:
        os.kill(_pid(folder), signal.SIGHUP)
    return [_wait(folder, before) for folder, before in found]


def _listening() -> Iterator[tuple[Path, Outcome]]:
    for folder in folders():
        with suppress(OSError, ValueError, TypeError):
            # What other users named like this is no server of this user.
            if folder.stat().st_uid == os.geteuid() and Path("/proc", str(_pid(folder))).exists():
                yield folder, Outcome(**json.loads((folder / _FILE).read_text(encoding="utf-8")))


def _wait(folder: Path, before: Outcome) -> Outcome:
    while Path("/proc", str(_pid(folder))).exists():
        # The folder is missing while the server is started again.
        with suppress(OSError):
            now = Outcome(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
            # One that was under way when it was asked may have read what the repository held before.
            if now.count > before.begun:
                return now
        time.sleep(_POLL_SECONDS)
    raise ServerError(f"the server of {before.repository} has ended")


def _pid(folder: Path) -> int:
    return int(folder.name.split("-")[2])
