"""Runs one command and kills all that the command started, even if the node is killed meanwhile.

A program of its own, `python -I -S build_supervisor.py COMMAND...`, which imports nothing of ours.
The rule: its standard input is a pipe whose other end only the node holds. When the pipe closes,
because the node closed it or died, the supervisor kills all that the command started. It does the
same when the command ends. It also finds processes that left the command's group or were orphaned,
because the kernel makes them its children. It passes SIGTERM on to the command's group; a SIGTERM
that arrives before the command has begun is passed on when the command begins.

Each step of a build starts a supervisor, so it imports little: subprocess would cost as much as
Python, and so would the enumerations of signal, contextlib and types together.
"""

import ctypes
import os
import select
import sys
import time

# A type checker takes every name like this one for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
else:
    # what signal wraps into enumerations
    import _signal as signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# A process that hangs in the kernel dies when it comes back.
KILL_SECONDS = 5.0
KILL_POLL_SECONDS = 0.01
SIGNAL_CODE = 128
# What a shell gives where it finds no such program.
NOT_FOUND_CODE = 127

_libc = ctypes.CDLL(None, use_errno=True)


def main(command: list[str]) -> int:
    """Run the command; its exit code, 128 + n where signal n ended it."""
    pid: int | None = None
    noted: list[int] = []

    def hand_on(number: int, _: "FrameType | None") -> None:
        # Without its number nobody would find the command, which may run already: an exit here
        # would leave behind what it started.
        if pid is None:
            noted.append(number)
        else:
            _send(pid, number)

    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGTERM, hand_on)
    _control(PR_SET_CHILD_SUBREAPER, 1)
    pid = start(command)
    for number in noted:
        _send(pid, number)
    _wait(pid, child_ended)
    code = os.waitstatus_to_exitcode(_kill_all(pid))
    return code if code >= 0 else SIGNAL_CODE - code


def start(command: list[str]) -> int:
    """Begin the command in a session of its own; its process number, once the program runs."""
    # The kernel closes the command's end as its program begins.
    has_begun, begins = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            # Should this supervisor be killed, the command is not to go on without it.
            _control(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            # Python ignores both, and a program goes on ignoring what is ignored as it begins.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            os.execvp(command[0], command)  # noqa: S606 (a list, and no shell)
        finally:
            os._exit(NOT_FOUND_CODE)
    os.close(begins)
    os.read(has_begun, 1)
    os.close(has_begun)
    return pid


def _control(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _send(group: int, number: int) -> None:
    """Send a signal to a process group, if it is still there."""
    try:  # noqa: SIM105 - contextlib would cost more than the rest
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _wait(pid: int, child_ended: int) -> None:
    """Return when the process has ended, or the node's end of our standard input is closed."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLIN)
    poll.register(child_ended, select.POLLIN)
    while not _has_ended(pid):
        ready = {descriptor for descriptor, _ in poll.poll()}
        if sys.stdin.fileno() in ready:
            return
        os.read(child_ended, 4096)


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; others that did are collected."""
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if ended.si_pid == pid:
            # Not collected yet, so its number and its group's are nobody else's.
            return True
        os.waitpid(ended.si_pid, 0)
    return False


def _kill_all(pid: int) -> int:
    """Kill the process's group, then all that is left below us, until nothing is.

    Gives how the process ended, as os.waitpid does.
    """
    _send(pid, signal.SIGKILL)
    status: int | None = None
    until = time.monotonic() + KILL_SECONDS
    while time.monotonic() < until:
        # Until it has, its children are not ours. So this is asked first.
        if status is None and _has_ended(pid):
            # From here on its number, and that of its group, may become another's.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            status = os.waitpid(pid, 0)[1]
        if status is not None and not _has_children():
            return status
        for child in _children():
            try:  # noqa: SIM105 - as above
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(KILL_POLL_SECONDS)
    return os.waitpid(pid, 0)[1] if status is None else status


def _has_children() -> bool:
    """Whether a process is left below us; those that ended are collected."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> set[int]:
    """The processes whose parent we are, those included that wait to be collected."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="latin-1") as file:
                    text = file.read()
            except OSError:
                continue
            # The name in parentheses may hold anything; behind it are the state and the parent.
            if int(text.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry))
    return found


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    # Nothing is buffered here, and Python would take its time to take itself apart.
    os._exit(exit_code)
