"""Which limits of a build hold on this engine and runtime: one build tries to break each. Blocking.

An engine may accept a limit that its runtime, kernel or storage ignores. So nothing here reads a
configuration: three steps beside one keeper, made as those of any build, do what the limit forbids.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import docker
import msgspec

from ci.limits import Limits
from common.finding import Finding, State
from node.outputs.build_log import BuildLog
from node.sandboxes.containers.container import (
    OPEN_FILES_MAX,
    SHARED_BYTES,
    ContainerOrder,
    create_container,
)
from node.sandboxes.containers.container_run import KILLED_EXIT_CODE, ContainerEnd, run_container
from node.sandboxes.containers.docker_engine import EngineResources, Image
from node.sandboxes.containers.workspace import archive_of, keeper_order
from node.sources.tree import WORKSPACE
from node.work.threads import Stop

MEMORY_BYTES = 32 * 2**20
# of the workspace, and half of what is written into it
WORKSPACE_BYTES = 2 * 2**20
WORKSPACE_FILES = 64
PIDS = 32
# so little that a busy machine gives a loop without a limit visibly more
CPUS = 0.1
CPU_SECONDS = 2
# for what ends by itself: a shell such as bash tries again for 15 s to start a process
STEP_SECONDS_MAX = 60.0
DEADLINE_SECONDS = 3.0
# ten times as long as what must have ended waits between two lines
STILL_SECONDS = 2.0
LOG_BYTES_MAX = 2**16
_MARK = "pbft-ci-limit"

# What cannot be tried without a program of ours (a set-user-ID file, a call of the kernel) is asked
# of the kernel inside: /proc shows what is, not what somebody configured.
_TRY_ALL = f"""LC_ALL=C; export LC_ALL
say() {{ echo "{_MARK} $*"; }}
: > {WORKSPACE}/ticks; : > {WORKSPACE}/said
head -c {2 * WORKSPACE_BYTES} /dev/zero > {WORKSPACE}/full 2>/dev/null; say disk $?
: > {WORKSPACE}/full
(i=0; while [ $i -lt {4 * WORKSPACE_FILES} ]; do
  : > {WORKSPACE}/f$i; i=$((i + 1))
done) 2>/dev/null
say files $?
routes=; while read -r device rest; do
  case $device in Iface) routes="$routes none";; *) routes="$routes $device";; esac
done 2>/dev/null < /proc/net/route
say network $routes
while read -r key value; do
  case $key in NoNewPrivs:|CapBnd:|CapEff:) say $key $value;; esac
done < /proc/self/status
(: > /pbft-ci-limit) 2>{WORKSPACE}/said && say root written || say root $(cat {WORKSPACE}/said)
(ulimit -n {OPEN_FILES_MAX + 1}) 2>/dev/null; say open-files $?
(ulimit -c 1) 2>/dev/null; say core $?
read -r inside outside count < /proc/self/uid_map && say users $inside $outside
head -c {4 * (MEMORY_BYTES + SHARED_BYTES)} /dev/zero |
  tail -c {4 * (MEMORY_BYTES + SHARED_BYTES)} >/dev/null 2>&1
say memory $?
"""
_TRY_PROCESSOR = f"""(while :; do :; done) & loop=$!
sleep {CPU_SECONDS}; kill -9 $loop; wait $loop 2>/dev/null
times > {WORKSPACE}/said; echo {_MARK} cpu $(cat {WORKSPACE}/said)
"""
_TRY_PROCESSES = f"""i=0
while [ $i -lt {4 * PIDS} ]; do sleep 60 & i=$((i + 1)); done 2>/dev/null
echo {_MARK} pids 0
"""
_TRY_DEADLINE = f"""
(trap '' TERM HUP INT; while :; do echo tick >> {WORKSPACE}/ticks; sleep 0.2; done) &
while :; do sleep 1; done
"""


def measure_limits(
    client: docker.APIClient, image: Image, *, name: str, labels: Mapping[str, str]
) -> list[Finding]:
    """One line for each limit, whether it holds. The image has sh, cat, head, sleep and tail.

    name, labels: of the containers; none is left. Raises InfrastructureError, OSError and what the
    library raises.
    """
    resources, stop, limits = EngineResources(), Stop(), Limits()
    made = f"size={WORKSPACE_BYTES},nr_inodes={WORKSPACE_FILES}"
    keeper = msgspec.structs.replace(
        keeper_order(image, name, labels, limits=limits),
        new_volumes={WORKSPACE: f"nosuid,nodev,mode=1777,{made}"},
    )
    try:
        keeper_id = create_container(client, keeper)
        resources.containers.append(keeper_id)
        client.start(keeper_id)
        (mount,) = (
            mount
            for mount in client.inspect_container(keeper_id)["Mounts"]
            if mount["Destination"] == WORKSPACE
        )
        step = ContainerOrder(
            image=image,
            name=name,
            labels=labels,
            environment={},
            entrypoint=("sh", "-c"),
            command=(_TRY_ALL,),
            seconds=STEP_SECONDS_MAX,
            memory_bytes=MEMORY_BYTES,
            cpus=1.0,
            pids=PIDS,
            temporary={},
            volumes={WORKSPACE: (mount["Name"], True)},
        )
        facts, end = _run(client, step, resources)
        if "memory" not in facts and end.exit_code == KILLED_EXIT_CODE:
            # runtimes with a kernel of their own end with it
            facts["memory"] = str(KILLED_EXIT_CODE)
        slow = msgspec.structs.replace(
            step, name=f"{name}-2", cpus=CPUS, command=(_TRY_PROCESSOR + _TRY_PROCESSES,)
        )
        more, end = _run(client, slow, resources)
        if "cpu" in more and end.exit_code:
            more["pids"] = str(end.exit_code)
        last = msgspec.structs.replace(
            step, name=f"{name}-3", seconds=DEADLINE_SECONDS, command=(_TRY_DEADLINE,)
        )
        _, end = _run(client, last, resources)
        before = _size(client, keeper_id)
        if end.exit_code is None and before:
            stop.wait(STILL_SECONDS)
            more["deadline"] = str(_size(client, keeper_id) - before)
        return judge(facts | more)
    finally:
        while resources.containers:
            client.remove_container(resources.containers.pop(), force=True, v=True)


def judge(facts: Mapping[str, str]) -> list[Finding]:
    """The lines of the table from what the steps wrote, by the first word of each line."""
    cpu_seconds_max = 2 * CPUS * CPU_SECONDS
    seconds = _seconds(facts.get("cpu", ""))
    used = None if seconds is None else seconds <= cpu_seconds_max
    network = facts.get("network", "").split()
    capabilities = [facts[key] for key in ("CapEff:", "CapBnd:") if key in facts]
    users = facts.get("users", "").split()
    return [
        _row("memory", _fails(facts, "memory"), f"more than {MEMORY_BYTES + SHARED_BYTES} bytes"),
        _row("processes", _fails(facts, "pids"), f"more than {PIDS} processes"),
        _row("CPU", used, f"more than {cpu_seconds_max:g} s of CPU in {CPU_SECONDS} s"),
        _row("disk", _fails(facts, "disk"), f"more than {WORKSPACE_BYTES} bytes in the workspace"),
        _row("files", _fails(facts, "files"), f"more than {WORKSPACE_FILES} files in it"),
        _row("no network", network == ["none"] if network else None, "a route to a network"),
        _row("no new privileges", _is(facts, "NoNewPrivs:", "1"), "set-user-ID programs"),
        _row(
            "capabilities",
            all(int(value, 16) == 0 for value in capabilities) if capabilities else None,
            "capabilities of root",
        ),
        _row(
            "read-only root",
            _is_read_only(facts.get("root", "")),
            "writing to the image's file system",
        ),
        _row("open files", _fails(facts, "open-files"), f"more than {OPEN_FILES_MAX} open files"),
        _row("core files", _fails(facts, "core"), "core files"),
        _row("deadline", _is(facts, "deadline", "0"), "a process that runs on after the time"),
        _users(users),
    ]


def not_measured(reason: str) -> Finding:
    """The line in place of the table."""
    return Finding("limits", State.WARNING, f"not measured: {reason}")


def _row(subject: str, holds: bool | None, what: str) -> Finding:
    subject = f"limit: {subject}"
    if holds is None:
        return Finding(subject, State.WARNING, f"not measured here: {what}")
    if holds:
        return Finding(subject, State.OK, f"holds: the build was refused {what}")
    text = f"does not hold: the build got {what}; use another runtime or engine"
    return Finding(subject, State.WRONG, text)


def _users(found: list[str]) -> Finding:
    """Root in a build should be nobody on the machine; builds run without it as well."""
    subject = "limit: user namespace"
    if len(found) < 2 or found[0] != "0":
        return Finding(subject, State.WARNING, "not measured here: which user root in a build is")
    if found[1] != "0":
        return Finding(subject, State.OK, f"holds: root in a build is user {found[1]} outside")
    text = "does not hold: root in a build is root outside: set userns-remap, if you can"
    return Finding(subject, State.WARNING, text)


def _is_read_only(said: str) -> bool | None:
    """What a write to the root showed. A kernel may look at the user before the mount."""
    if said == "written":
        return False
    return True if "ead-only" in said else None


def _fails(facts: Mapping[str, str], key: str) -> bool | None:
    """Whether what must fail has failed. A program that is not there (127) shows nothing."""
    code = facts.get(key)
    return None if code in (None, "126", "127") else code != "0"


def _is(facts: Mapping[str, str], key: str, value: str) -> bool | None:
    return facts[key] == value if key in facts else None


def _seconds(times: str) -> float | None:
    """The sum of what the shell's `times` wrote, such as `0m0.52s`; None if it is something else.

    The second half is that of the processes that the shell waited for.
    """
    total = 0.0
    for word in times.split():
        minutes, _, rest = word.partition("m")
        try:
            total += 60 * int(minutes) + float(rest.removesuffix("s"))
        except ValueError:
            return None
    return total if times else None


def _run(
    client: docker.APIClient, order: ContainerOrder, resources: EngineResources
) -> tuple[dict[str, str], ContainerEnd]:
    """What a step wrote, by the first word of each line, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        log = BuildLog(Path(folder) / "log", LOG_BYTES_MAX)
        try:
            end = run_container(client, order, log, stop=Stop(), resources=resources)
        finally:
            log.finish()
        lines = log.path.read_text(errors="replace").splitlines()
    marked = [line.partition(f"{_MARK} ")[2] for line in lines if line.startswith(_MARK)]
    return {key: value for key, _, value in (line.partition(" ") for line in marked)}, end


def _size(client: docker.APIClient, keeper: str) -> int:
    """Bytes of the archive of the file that a process goes on writing to."""
    found = archive_of(client, keeper, f"{WORKSPACE}/ticks")
    return 0 if found is None else sum(piece.count(b"tick") for piece in found[0])
