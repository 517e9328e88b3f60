"""Runs one container from start to end: tree handed in, output, time limit, grace. Blocking."""

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import msgspec

from node.outputs.build_log import BuildLog
from node.sandboxes.containers.container import ContainerOrder, create_container
from node.sandboxes.containers.container_output import (
    EARLY_BLOCK_BYTES,
    ContainerOutput,
    TreeNotTaken,
)
from node.sandboxes.containers.docker_engine import EngineResources
from node.sandboxes.sandbox import GRACE_SECONDS
from node.work.threads import Stop, Stopped

# how late a stop or the end of the time may be noticed
POLL_SECONDS = 0.2
# the same once it has closed its output: mostly it has ended then, and each question that gets no
# answer in time costs a connection, and another question
END_POLL_SECONDS = 2.0
CHUNK_BYTES = 64 * 1024
# of the whole tree; a shell that takes longer hangs, or has a crumb of a CPU
TREE_SECONDS_MAX = 60.0
# of the archives before the tree, which may be large: they get time beyond that
EARLY_BYTES_PER_SECOND_MIN = 8 * 2**20
# the engine learns of an out-of-memory kill after the exit: seconds later where it is busy
OUT_OF_MEMORY_SECONDS = 5.0
KILLED_EXIT_CODE = 137


class ContainerEnd(msgspec.Struct, frozen=True):
    """How a container ended; exit_code is None where its time was over."""

    exit_code: int | None
    is_out_of_memory: bool


class EarlyArchive(msgspec.Struct, frozen=True):
    """A tar archive that is unpacked before the tree.

    folder: in the container. length: bytes of all pieces, which are read once.
    """

    folder: str
    length: int
    pieces: Iterable[bytes]


class HandedTree(msgspec.Struct, frozen=True):
    """What a container gets before its commands run.

    archive: a tar file that its entrypoint unpacks from its standard input, as `unpack_script` of
    node.sandboxes.containers.container_output does. early: what comes before it there.
    on_early_taken: called once the container has those. fill: puts something into the volumes of
    the container with that id, which waits for its archives meanwhile.
    """

    archive: Path
    early: tuple[EarlyArchive, ...] = ()
    on_early_taken: Callable[[], None] = lambda: None
    fill: Callable[[str], None] = lambda container: None


def run_container(
    client: docker.APIClient,
    order: ContainerOrder,
    log: BuildLog,
    *,
    stop: Stop,
    resources: EngineResources,
    tree: HandedTree | None = None,
) -> ContainerEnd:
    """Run a container to its end or to the end of its time.

    resources: gets its id; removing it is the caller's.
    tree: what its entrypoint waits for on its standard input; the time begins after that.

    When stopped, the processes in it are asked to end before they are killed. Raises TreeNotTaken,
    Stopped, OSError (log disk full), what the library raises, and what `HandedTree.fill` and the
    pieces of its archives raise.
    """
    assert order.seconds is not None, "what is waited for has a time"
    container_id = create_container(client, order)
    resources.containers.append(container_id)
    stream = client.attach_socket(
        container_id, params={"stdin": int(tree is not None), "stdout": 1, "stderr": 1, "stream": 1}
    )
    # the library hands out a file around the socket, which has to be closed as well
    connection: socket.socket = getattr(stream, "_sock", stream)
    connection.setblocking(False)
    output = ContainerOutput(
        log,
        is_tree_expected=tree is not None,
        on_early_taken=tree.on_early_taken if tree is not None and tree.early else None,
    )
    try:
        stop.check()
        client.start(container_id)
        if tree is not None:
            tree.fill(container_id)
            _hand_in(connection, tree, output, stop=stop)
        ends_at = time.monotonic() + order.seconds
        _read_output(connection, ends_at, output, stop=stop)
        code = _wait(client, container_id, ends_at, stop=stop)
        is_killed = bool(code) and is_out_of_memory(client, container_id, stop)
    except Stopped:
        # with nobody left to read, a program that still writes would not get to its end
        if output.has_begun:
            with suppress(docker.errors.APIError, OSError):
                _end_gently(client, container_id, connection, output=output, log=log)
        raise
    finally:
        stream.close()
        connection.close()
    if code is None:
        # removing it kills it as well; this is sooner
        with suppress(docker.errors.APIError):
            client.kill(container_id)
    return ContainerEnd(code, is_killed)


def can_hand_in(client: docker.APIClient) -> bool:
    """Whether an input can be ended without ending the output: not over TLS."""
    return client.base_url.startswith(("http+docker://localhost", "http://"))


def _hand_in(
    connection: socket.socket, tree: HandedTree, output: ContainerOutput, *, stop: Stop
) -> None:
    """Send the archives, until the container says that it has the tree. Raises TreeNotTaken."""
    early_bytes = sum(early.length for early in tree.early)
    ends_at = time.monotonic() + TREE_SECONDS_MAX + early_bytes / EARLY_BYTES_PER_SECOND_MIN
    poll = select.poll()
    pieces: Iterator[bytes] | None = _pieces(tree)
    piece = memoryview(b"")
    while not output.has_begun:
        stop.check()
        if time.monotonic() >= ends_at:
            raise TreeNotTaken("it was not unpacked in time")
        if pieces is not None and not piece:
            piece = memoryview(next(pieces, b""))
        try:
            if piece:
                piece = piece[connection.send(piece) :]
            elif pieces is not None:
                connection.shutdown(socket.SHUT_WR)
                pieces = None
        except BlockingIOError:
            pass
        except OSError:
            # nobody reads any more; what it said comes first
            piece, pieces = memoryview(b""), None
        if read_some(connection, output) == 0:
            raise TreeNotTaken("the container ended before it was unpacked")
        poll.register(connection, select.POLLIN | (select.POLLOUT if pieces is not None else 0))
        if not output.has_begun:
            poll.poll(1000 * POLL_SECONDS)


def _pieces(tree: HandedTree) -> Iterator[bytes]:
    """What the container reads on its standard input; none of them is empty."""
    for early in tree.early:
        yield from (piece for piece in early.pieces if piece)
        if padding := -early.length % EARLY_BLOCK_BYTES:
            yield bytes(padding)
    with tree.archive.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _read_output(
    connection: socket.socket, ends_at: float, output: ContainerOutput, *, stop: Stop | None
) -> None:
    """Take the output, until the container closes it or its time is over."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while time.monotonic() < ends_at:
        if stop is not None:
            stop.check()
        taken = read_some(connection, output)
        if taken is None:
            poll.poll(1000 * POLL_SECONDS)
        elif not taken:
            return


def read_some(connection: socket.socket, output: ContainerOutput) -> int | None:
    """Take what there is; how many bytes: 0 at the end, None where there are none yet."""
    try:
        data = connection.recv(CHUNK_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    except ConnectionResetError:
        return 0
    output.take(data)
    return len(data)


def _end_gently(
    client: docker.APIClient,
    container_id: str,
    connection: socket.socket,
    *,
    output: ContainerOutput,
    log: BuildLog,
) -> None:
    """Ask all processes of a container to end, and take their last words for a while."""
    client.kill(container_id, signal="SIGTERM")
    log.note(f"asked to stop; {GRACE_SECONDS} s until it is killed")
    _read_output(connection, time.monotonic() + GRACE_SECONDS, output, stop=None)
    # ended by itself, perhaps
    client.kill(container_id)


def _wait(client: docker.APIClient, container_id: str, ends_at: float, *, stop: Stop) -> int | None:
    """The exit code of the ended container, None where its time was over first."""
    while True:
        stop.check()
        # asked once more when the time is over: it may have ended just then
        seconds = max(min(ends_at - time.monotonic(), END_POLL_SECONDS), POLL_SECONDS / 10)
        try:
            # a fraction of a second is as good as a whole one
            answer = client.wait(container_id, timeout=seconds)  # type: ignore[arg-type]
            return int(answer["StatusCode"])
        except docker.errors.APIError:
            raise
        except OSError:
            # It did not answer in time; whether the engine is there at all is asked apart.
            state = client.inspect_container(container_id)["State"]
        if state["Status"] in ("exited", "dead"):
            return int(state["ExitCode"])
        if time.monotonic() >= ends_at:
            return None


def is_out_of_memory(client: docker.APIClient, container_id: str, stop: Stop) -> bool:
    """Whether a container that ended with an error had something killed for lack of memory."""
    late_until = time.monotonic() + OUT_OF_MEMORY_SECONDS
    while True:
        state: dict[str, Any] = client.inspect_container(container_id)["State"]
        if state["OOMKilled"] or state["ExitCode"] != KILLED_EXIT_CODE:
            return bool(state["OOMKilled"])
        if time.monotonic() >= late_until:
            return False
        stop.wait(POLL_SECONDS / 4)
