"""What the table of limits says: of what a build wrote, and of engines that map users."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import pytest

from ci.limits import Limits
from common.configuration.config import RepositoryEntry
from common.finding import State
from node.sandboxes.containers.engine_check import check_engine
from node.sandboxes.containers.engine_client import EngineClient
from node.sandboxes.containers.limits_probe import judge
from scripts.base_image import EXAMPLE_IMAGE, import_busybox
from scripts.docker_engine import daemon_command, ping
from tests.node.conftest import ConfigMaker
from tests.waiting import block_until

HELD = {
    "memory": "137",
    "pids": "2",
    "cpu": "0m0.00s 0m0.00s 0m0.20s 0m0.01s",
    "disk": "1",
    "files": "2",
    "network": "none",
    "NoNewPrivs:": "1",
    "CapEff:": "0000000000000000",
    "CapBnd:": "0000000000000000",
    "root": "sh: can't create /pbft-ci-limit: Read-only file system",
    "open-files": "2",
    "core": "2",
    "deadline": "0",
    "users": "0 200000",
}
FIRST_USER = 200_000
NOBODY = 65_534
ROOTLESS = Path("/usr/share/docker.io/contrib/dockerd-rootless.sh")


def states(facts: dict[str, str]) -> dict[str, State]:
    return {line.subject.removeprefix("limit: "): line.state for line in judge(facts)}


def test_limits_that_all_hold() -> None:
    assert set(states(HELD).values()) == {State.OK}


@pytest.mark.parametrize(
    ("key", "value", "subject"),
    [
        ("memory", "0", "memory"),
        ("pids", "0", "processes"),
        ("cpu", "0m0.00s 0m0.00s 0m1.90s 0m0.01s", "CPU"),
        ("disk", "0", "disk"),
        ("files", "0", "files"),
        ("network", "none eth0", "no network"),
        ("NoNewPrivs:", "0", "no new privileges"),
        ("CapBnd:", "00000000a80425fb", "capabilities"),
        ("root", "written", "read-only root"),
        ("open-files", "0", "open files"),
        ("core", "0", "core files"),
        ("deadline", "7", "deadline"),
    ],
)
def test_a_limit_that_does_not_hold_is_wrong(key: str, value: str, subject: str) -> None:
    found = states(HELD | {key: value})
    assert [name for name, state in found.items() if state is State.WRONG] == [subject]


def test_what_was_not_measured_is_not_said_to_hold() -> None:
    assert set(states({}).values()) == {State.WARNING}
    # the image lacks the program that would break the limit
    assert states(HELD | {"memory": "127"})["memory"] is State.WARNING
    # another reason than the mount: the user may not write there
    refused = "sh: can't create /pbft-ci-limit: Permission denied"
    assert states(HELD | {"root": refused})["read-only root"] is State.WARNING
    assert states(HELD | {"users": "0 0"})["user namespace"] is State.WARNING


@contextmanager
def engine_with_users(tmp_path: Path, is_rootless: bool) -> Iterator[str]:
    """The host of an engine of our own that maps users, made of Debian's packages.

    is_rootless: as a user without rights, by Debian's script; else root's, with userns-remap.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can give an engine a range of users of its own")
    # It sees ranges of users of its own: those of the machine stay as they are.
    ranges = tmp_path / "ranges"
    ranges.write_text(f"nobody:{FIRST_USER}:65536\n")
    # not below tmp_path: the path of a socket has at most 104 characters
    folder = Path(tempfile.mkdtemp(prefix="e."))
    # the mapped root must reach its data
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    variables = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    if is_rootless:
        os.chown(folder, NOBODY, NOBODY)
        # builds have no network: the engine needs no tap device
        variables |= {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        variables["DOCKERD_ROOTLESS_ROOTLESSKIT_NET"] = "host"
        variables["DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER"] = "none"
        user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        _, *options = daemon_command("dockerd", folder, "vfs", has_networks=False)
        options = [option for option in options if "--containerd" not in option]
        command = ["setpriv", *user, "sh", str(ROOTLESS), *options]
    else:
        command = [*daemon_command("dockerd", folder, "overlay2", has_networks=False)]
        command.append("--userns-remap=nobody:nogroup")
    script = 'for file in subuid subgid; do mount --bind "$0" /etc/$file; done; exec "$@"'
    output = tmp_path / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", script, str(ranges), *command],
            env=variables,
            stdout=stream,
            stderr=stream,
        )
    host = f"unix://{folder}/docker.sock"
    try:
        block_until(lambda: process.poll() is not None or ping(host) is None, "the engine answers")
        assert process.poll() is None, output.read_text()[-2000:]
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.docker
@pytest.mark.long
@pytest.mark.parametrize("is_rootless", [False, True], ids=["userns-remap", "rootless"])
def test_an_engine_that_maps_users(
    make_config: ConfigMaker, tmp_path: Path, is_rootless: bool
) -> None:
    if is_rootless and not (ROOTLESS.exists() and shutil.which("rootlesskit")):
        pytest.skip("needs Debian's docker.io, rootlesskit and uidmap")
    with (
        engine_with_users(tmp_path, is_rootless) as host,
        closing(docker.DockerClient(base_url=host, timeout=60)) as client,
    ):
        import_busybox(client, EXAMPLE_IMAGE)
        config = make_config(
            RepositoryEntry("https://git.example/app.git", local_images=(EXAMPLE_IMAGE,)),
            docker_host=host,
            runtime="runc",
        )
        found = check_engine(config, Limits(), b"c" * 32)
        info = client.info()
        assert not client.containers.list(all=True)
    limits = {line.subject.removeprefix("limit: "): line for line in found}
    wrong = {line.subject for line in found if line.state is State.WRONG}
    assert limits["user namespace"].state is State.OK, found
    assert f"user {NOBODY if is_rootless else FIRST_USER} outside" in limits["user namespace"].text
    # without control groups of its own, a rootless engine limits none of these
    without = {"Docker", "limit: memory", "limit: processes", "limit: CPU"}
    assert wrong == (without if is_rootless and info["CgroupDriver"] == "none" else set()), found


@pytest.mark.docker
def test_a_runtime_that_the_engine_does_not_know(
    make_config: ConfigMaker, docker_engine: docker.DockerClient
) -> None:
    found = check_engine(make_config(runtime="kata-none"), Limits(), b"c" * 32)
    (runtime,) = (line for line in found if line.subject == "runtime")
    assert runtime.state is State.WRONG
    assert runtime.text.startswith("kata-none: the engine knows ")
    assert not [line for line in found if line.subject.startswith("limit")]


def test_every_container_of_a_client_has_the_runtime() -> None:
    with closing(EngineClient("unix:///nowhere", version="1.41", runtime="runsc")) as client:
        assert client.create_host_config()["Runtime"] == "runsc"
