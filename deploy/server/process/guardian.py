"""Run tritonserver where no other user can reach it, and end all of it once it or its parent is gone.

A program of its own that only needs the standard library: `python -I -S guardian.py NAME FOLDER COMMAND...`. The first
line that it prints is the process id of tritonserver. Its standard input is the parent's hand: a byte asks tritonserver
to drain and end, and the end of the input, which also comes when the parent is killed, ends everything at once.
"""

import ctypes
import os
import platform
import resource
import select
import shutil
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = "/dev/shm"
# tritonserver's Python backend makes an empty one at each start, always here, and leaves it behind where it is killed.
ENVIRONMENTS, ENVIRONMENT_PREFIX = "/tmp", "python_env_"
# Of linux/prctl.h, linux/seccomp.h and linux/audit.h.
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 38, 36
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4
# For each machine: its name for the filter, and the numbers of the calls fchmod and seccomp.
_CALLS = {"x86_64": (0xC000003E, 91, 317), "aarch64": (0xC00000B7, 52, 277)}


def main(arguments: list[str]) -> int:
    """Run the command until it ends or must end, remove what it leaves, and return its exit code."""
    name, folder, *command = arguments
    # Orphans of tritonserver become children of this process, which can then wait for their end.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    server = os.fork()
    if server == 0:
        _become(command, folder)
    # Whoever means the whole group, such as systemd, means tritonserver as well: it drains, and this waits for it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _watch(server, woken)
    # Its id is not free for others before it is waited for, so no other group can be hit.
    with suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    # Workers map the regions, and are children by now.
    with suppress(ChildProcessError):
        while True:
            os.wait()
    remove(name, folder)
    return code if code >= 0 else 128 - code


def remove(name: str, folder: str) -> None:
    """Remove the folder of a server that has ended, the environments that are named in it, and its shared memory."""
    for noted in Path(folder).glob(f"{ENVIRONMENT_PREFIX}*"):
        with suppress(OSError):
            Path(ENVIRONMENTS, noted.name).rmdir()
    shutil.rmtree(folder, ignore_errors=True)
    for region in Path(SHARED_MEMORY).glob(f"{name}*"):
        with suppress(OSError):
            region.unlink()


def _watch(server: int, woken: int) -> None:
    """Return when tritonserver has ended or the parent wants it ended at once."""
    while os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        ready = select.select([sys.stdin.fileno(), woken], [], [])[0]
        if woken in ready:
            os.read(woken, 512)
        if sys.stdin.fileno() in ready:
            if not os.read(sys.stdin.fileno(), 512):
                return
            os.kill(server, signal.SIGTERM)


def _become(command: list[str], folder: str) -> None:
    """Turn this process into tritonserver. Does not return."""
    try:
        # Workers look for modules in the current folder as well, where anybody may have put some: it may be /tmp.
        os.chdir(folder)
        print(os.getpid(), flush=True)
        # A group of its own, by which its workers are found whatever became of it.
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.umask(0o077)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        # A dump would hold the images in work.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _keep_files_private()
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        os.execv(command[0], command)
    except BaseException as error:
        # In the form that the parent takes for the reason of a failed start.
        print(f"error: tritonserver cannot be run: {error}", flush=True)
    os._exit(1)


def _keep_files_private() -> None:
    """Make every fchmod that would open a file to other users do nothing, here and in all children.

    tritonserver's Python backend creates shared memory with mode 0644 and undoes the umask with fchmod (that is how
    Boost.Interprocess does it). Changing the mode afterwards would leave a moment in which the memory can be opened,
    and what is opened stays open.

    Raises OSError where the system has no such filter.
    """
    if platform.machine() not in _CALLS:
        raise OSError(f"shared memory cannot be kept private on {platform.machine()}")
    machine, fchmod, seccomp = _CALLS[platform.machine()]
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06  # of classic BPF: what each step does
    steps = [
        (load, 0, 0, 4),  # the machine
        (equal, 0, 5, machine),
        (load, 0, 0, 0),  # the number of the call
        (equal, 0, 3, fchmod),
        (load, 0, 0, 24),  # its second argument, the mode
        (any_bit, 0, 1, 0o077),
        (answer, 0, 0, 0x00050000),  # an error of number 0: the call returns as if it was done
        (answer, 0, 0, 0x7FFF0000),  # go on
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    # Required of a process without privileges that installs a filter.
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Without the last flag older kernels slow down every process that has a filter.
    _call("syscall", *map(ctypes.c_long, (seccomp, _SET_MODE_FILTER, _SPEC_ALLOW)), ctypes.byref(program))


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _call(function: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
