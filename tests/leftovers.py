"""What a run of tests must not leave behind: processes, mounts, and things on the Docker engine.

A process is known by a variable of its environment, which all that the tests start inherits and
which /proc shows as it was at the start. Namespaces live as long as a process or a mount does. On
the engine it is what was not there before, so nothing else should build there meanwhile for long.
"""

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from node.sandboxes.containers.docker_engine import CLUSTER_LABEL
from node.sandboxes.containers.hosts_file import VOLUME

# Who really has no engine says so.
WITHOUT_DOCKER = "PBFT_CI_WITHOUT_DOCKER"
# `ip netns add` mounts this folder over itself on its first use on a machine, and never unmounts it
# (ip-netns(8)). A namespace that is left has a mount of its own in it.
NAMES_OF_NAMESPACES = "/run/netns"
RUN_VARIABLE = "PBFT_CI_TEST_RUN"
# What ends by itself does so within seconds; on a busy machine it takes longer.
WAIT_SECONDS = 90.0
POLL_SECONDS = 0.2
# The library's own helper of a process that has used others; it lives as long as that process.
ENDS_WITH_US = b"multiprocessing.resource_tracker"
COMMAND_CHARACTERS_MAX = 200


class Leftovers:
    """A plugin of pytest for whoever starts the workers, or runs the tests alone."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(8)
        os.environ[RUN_VARIABLE] = self._mark
        self._mounts = mounts()
        self._engine = _engine()
        self._things = things_on(self._engine)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run where something of it is left after WAIT_SECONDS."""
        end = time.monotonic() + WAIT_SECONDS
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        if not left:
            return
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        report = pytest.CollectReport("what the tests left", "failed", "\n".join(left), [])
        reporter.stats.setdefault("error", []).append(report)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _left(self) -> list[str]:
        return [
            *(f"process {pid}: {command}" for pid, command in processes(self._mark).items()),
            *(f"mount {place}" for place in sorted(mounts() - self._mounts)),
            *(what for thing, what in things_on(self._engine).items() if thing not in self._things),
        ]


def processes(mark: str) -> dict[int, str]:
    """The commands of processes that were started with this mark, but for our own, by pid."""
    wanted = f"{RUN_VARIABLE}={mark}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                if ENDS_WITH_US not in command:
                    found[int(folder.name)] = command.decode("utf-8", "replace").strip()
        except OSError:
            continue  # it has ended, or is not ours to look into
    found.pop(os.getpid(), None)
    return {pid: command[:COMMAND_CHARACTERS_MAX] for pid, command in found.items()}


def mounts(mountinfo: str | None = None) -> frozenset[str]:
    """Where something is mounted; a namespace that has a name is a mount, too.

    mountinfo: text as /proc/self/mountinfo has it (proc(5)); None: that file's.
    """
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    return frozenset(line.split(" ")[4] for line in text.splitlines()) - {NAMES_OF_NAMESPACES}


def _engine() -> docker.DockerClient | None:
    """The engine that tests use; None where there is none, which its tests will say."""
    if os.environ.get(WITHOUT_DOCKER) == "1":
        return None
    try:
        return docker.from_env(timeout=180)
    except docker.errors.DockerException:
        return None


def things_on(engine: docker.DockerClient | None) -> dict[str, str]:
    """What is on the engine, in words, by id: containers, networks, volumes, and nobody's images.

    Images that have a name or a cluster's label are kept for the next build, by rules of their own;
    so is the one volume with the file of node.sandboxes.containers.hosts_file.
    """
    if engine is None:
        return {}
    api = engine.api
    return {
        entry.get("Id") or entry["Name"]: _in_words(kind, entry)
        for kind, listed in (
            ("container", api.containers(all=True)),
            ("image", [image for image in api.images(all=True) if _is_nobodys(image)]),
            ("network", api.networks()),
            ("volume", [entry for entry in api.volumes()["Volumes"] or () if not _is_kept(entry)]),
        )
        for entry in listed
    }


def _is_nobodys(image: Mapping[str, Any]) -> bool:
    names = [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]
    is_named = any(not name.startswith("<none>") for name in names)
    return not is_named and CLUSTER_LABEL not in (image["Labels"] or {})


def _is_kept(volume: Mapping[str, Any]) -> bool:
    return bool(volume["Name"] == VOLUME)


def _in_words(kind: str, entry: Mapping[str, Any]) -> str:
    what = " ".join(str(entry.get(key, "")) for key in ("Names", "Image", "Command", "Labels"))
    return f"{kind} {entry.get('Id') or entry['Name']} {what}"
