"""Count the cores that this process has a share in, which in a container are fewer than the machine's."""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# The files of a limit: in version 2 of control groups one of two numbers, in version 1 two of one number.
_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def cores() -> int:
    """Return the number of cores that this process may use at once: by its affinity and by its control groups.

    A quota of two and a half cores counts as two: a third thread would be stopped for a part of each period.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = list(_quotas())
    return max(1, min(allowed, int(min(quotas)))) if quotas else allowed


def processor() -> str:
    """Return the processor's name."""
    # `platform` does not know it on Linux.
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _quotas() -> Iterator[float]:
    """Yield the cores that each control group above this process allows, where it has a limit."""
    for folder in _groups():
        for names in _FILES:
            # Most groups have no limit, and those of a container's host cannot be seen.
            with suppress(OSError, ValueError):
                quota, period = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
                if quota != "max" and float(quota) > 0:
                    yield float(quota) / float(period)


def _groups() -> Iterator[Path]:
    """Yield the folders of the control groups of this process that may limit its cores, up to the root."""
    lines: list[str] = []
    with suppress(OSError):
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    for line in lines:
        # NUMBER:CONTROLLERS:PATH, without controllers in version 2.
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        for part in (group, *group.parents):
            yield _CGROUPS / controllers / part
