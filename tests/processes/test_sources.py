"""Images and repositories that need a registry, a login or another repository, on four nodes."""

import base64
import json
import os
import secrets
import subprocess
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import pytest

from node.diagnostics.capture import read_capture
from node.sandboxes.containers.container import HOME, TEMPORARY
from node.sandboxes.containers.docker_engine import REPLICA_LABEL
from node.sources.tree import WORKSPACE
from pbft.codec import encode_signed
from scripts.example_repository import write_repository
from tests.node.conftest import things_of
from tests.node.git_servers import HttpsGitServer, SshServer
from tests.node.registry_server import PASSWORD, USER, RegistryServer, unique_name
from tests.node.sources.test_private_sources import processes_with
from tests.processes.conftest import NetworkMaker
from tests.processes.gate import Gate, GitServer
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, ask, pipeline
from tests.secret_files import secret_file

pytestmark = [pytest.mark.processes, pytest.mark.docker]


def change_repository(network: Network, name: str, **changes: object) -> None:
    """Change the one repository's entry in a node's or the client's file."""

    def change(settings: dict[str, Any]) -> None:
        settings["repositories"][0].update(changes)

    network.rewrite(name, change)


def statement_of(network: Network, build: str) -> dict[str, Any]:
    """The agreed statement of a build, from its envelope."""
    envelope = ask(f"{network.gateway_url}/api/v1/builds/{build}/attestation").json()
    value: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return value


def test_a_tag_that_is_moved_while_four_nodes_build(
    docker_engine: docker.DockerClient,
    base_image: str,
    make_network: NetworkMaker,
    tmp_path: Path,
) -> None:
    """Two resolve it before, two after: never green, and the verdict says who used what."""
    name = f"{unique_name()}:1"
    with RegistryServer(tmp_path / "registry", docker_engine) as registry:
        old = registry.push(name, base_image, "old")
        tagged = f"{registry.host}/{name}"
        fixed = f"{tagged.rpartition(':')[0]}@{old}"
        answers = ["nc", "-ll", "-p", "8000", "-e", "echo", "heard"]
        service = {"name": "web", "image": fixed, "command": answers, "ready": {"port": 8000}}
        beside = {
            "image": tagged,
            "commands": ['test "$(nc -w 9 web 8000 </dev/null)" = heard'],
            "services": [service],
        }
        network = make_network(
            {
                "green": pipeline("true", image=tagged),
                "beside": {".pbft-ci.yml": json.dumps(beside)},
            },
            executor="docker",
            overrides={"node": {"images_from": [registry.host]}},
        )
        # the network first: it is closed before its images are taken away
        with network, GitServer(network.repository) as server, Gate(server.connect) as gate:
            for node in ("node2", "node3"):
                change_repository(network, node, fetch_url=server.url(gate.port))
            network.start()
            build = network.post("green")
            network.wait_until(
                lambda: (
                    {b["replica"] for b in network.build(build)["ballots"]} == {"node0", "node1"}
                ),
                "the ballots of the two that reach the git server",
                VERDICT_SECONDS,
            )
            new = registry.push(name, base_image, "new")
            assert new != old
            gate.open()
            view = network.complete(build)
            assert view["verdict"]["outcome"] == "disputed"
            (difference,) = view["differences"]
            assert difference["part"] == "image_digest"
            expected = [
                {"value": old, "replicas": ["node0", "node1"]},
                {"value": new, "replicas": ["node2", "node3"]},
            ]
            assert difference["values"] == expected
            # what is signed and in the ledger says it as well
            statement = json.dumps(statement_of(network, build))
            assert old in statement
            assert new in statement
            page = ask(f"{network.gateway_url}/builds/{build}").body.decode()
            assert old in page
            assert new in page
            # the same once more, now that the tag stands still
            view = network.complete(network.post("green"))
            assert view["verdict"]["outcome"] == "passed"
            assert view["differences"] == []
            # and beside a service in an image of its own: both are agreed on, and signed
            build = network.post("beside")
            view = network.complete(build)
            assert view["verdict"]["outcome"] == "passed", view
            (found,) = statement_of(network, build)["predicate"]["pbftci_verdict"]["found"]
            assert found["imageDigest"] is None
            assert found["images"] == [
                {"name": tagged, "digest": new},
                {"name": fixed, "digest": old},
            ]
            network.settle()


class SecretFiles:
    """Logins in files that are in no folder of the network."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.token = secrets.token_hex(20)
        self.token_file = secret_file(folder / "token", self.token)

    def forms(self, *more: str) -> tuple[bytes, ...]:
        """All that must be nowhere, as it is and as logins are encoded."""
        logins = (f"git:{self.token}", f"{USER}:{PASSWORD}")
        encoded = (base64.b64encode(login.encode()).decode() for login in logins)
        return tuple(text.encode() for text in (self.token, PASSWORD, *encoded, *more))


def assert_none_in(forms: Iterable[bytes], where: str, data: bytes) -> None:
    for form in forms:
        assert form not in data, f"a secret is in {where}"


GO_ON = "/tmp/go-on"


def look_into_containers(
    engine: docker.DockerClient, cluster: bytes, forms: Iterable[bytes]
) -> set[str]:
    """Search what an engine knows of the builds that run, and all that they can see.

    The workspace and the variables of processes are asked for inside. Then they may go on.
    Gives the replicas whose steps were searched.
    """
    forms = tuple(forms)
    looked = set()
    for identity in things_of(engine, cluster):
        try:
            container = engine.containers.get(identity)
            if container.status == "running":
                look_into(container, forms)
                if GO_ON in json.dumps(container.attrs["Config"]):
                    looked.add(container.labels[REPLICA_LABEL])
        except docker.errors.NotFound:
            # it is gone: another one of its build comes, or was looked at
            continue
        except docker.errors.APIError as error:
            # it ended
            if error.status_code != HTTPStatus.CONFLICT:
                raise
    return looked


def look_into(container: Any, forms: tuple[bytes, ...]) -> None:
    """One running container. Raises docker.errors.APIError where it ends meanwhile."""
    assert_none_in(forms, "an inspected container", json.dumps(container.attrs).encode())
    assert_none_in(forms, "a container's files", b"".join(container.export()))
    for command in (
        f"tar -cf - {WORKSPACE} {HOME} {TEMPORARY}",
        "cat /proc/*/environ /proc/*/cmdline /proc/self/mountinfo",
    ):
        output = container.exec_run(["sh", "-c", f"{command} 2>/dev/null"]).output
        if not output:
            # it is ending: its state says so only later. Whoever waits for the search asks again.
            raise docker.errors.NotFound("it ended meanwhile")
        assert_none_in(forms, command, output)
    container.exec_run(["touch", GO_ON])


def test_secrets_are_nowhere_but_in_their_files(
    docker_engine: docker.DockerClient,
    base_image: str,
    make_network: NetworkMaker,
    tmp_path: Path,
) -> None:
    """A private repository over HTTPS and over ssh, a private image, and a search of everything."""
    files = SecretFiles(tmp_path / "secrets")
    name = f"{unique_name()}:1"
    seen_in_processes: list[tuple[str, bytes]] = []
    with RegistryServer(tmp_path / "registry", docker_engine, is_private=True) as registry:
        registry.push(name, base_image, "private")
        logins = registry.auth_file(files.folder / "registries.json")
        commands = ("env", f"while [ ! -e {GO_ON} ]; do sleep 0.1; done", "exit 7")
        network = make_network(
            {"red": pipeline(*commands, image=f"{registry.host}/{name}")},
            executor="docker",
            overrides={"node": {"images_from": [registry.host], "registry_auth_file": str(logins)}},
            is_captured=True,
        )
        with (
            network,
            HttpsGitServer(tmp_path / "https", network.repository.parent, files.token) as https,
            SshServer(tmp_path / "sshd") as sshd,
        ):
            https.on_request = lambda: seen_in_processes.extend(processes_with(files.token))
            key_text = "".join(sshd.user_key_file.read_text().splitlines()[1:-1])
            # a line of the key, as a log would show it, and its bytes from a place that is its own
            forms = files.forms(sshd.user_key_file.read_text().splitlines()[2], key_text[-100:])
            over_https = {
                "fetch_url": f"{https.url}/{network.repository.name}",
                "https_token_file": str(files.token_file),
                "ca_file": str(https.ca_file),
            }
            over_ssh = {
                "fetch_url": sshd.url(network.repository),
                "ssh_key_file": str(sshd.user_key_file),
                "known_hosts_file": str(sshd.known_hosts_file),
            }
            for node in (CLIENT, "node0", "node1"):
                change_repository(network, node, **over_https)
            for node in ("node2", "node3"):
                change_repository(network, node, **over_ssh)
            network.start()
            cluster = bytes.fromhex(network.status("node0")["cluster"])
            build = network.post("red")
            looked: set[str] = set()

            def all_looked_at() -> bool:
                looked.update(look_into_containers(docker_engine, cluster, forms))
                return looked == set(network.node_names)

            network.wait_until(
                all_looked_at, lambda: f"all builds searched: {looked}", VERDICT_SECONDS
            )
            view = network.complete(build)
            assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("failed", 7)
            assert sorted(view["verdict"]["agreeing"]) == list(network.node_names)
            # once more with logins that are wrong now: what is said then is searched too
            files.token_file.write_text("not-the-token-any-more")
            logins.write_text(logins.read_text().replace("auths", "none"))
            network.post("red")
            network.wait_until(
                lambda: (
                    "https_token_file" in network.last_words()
                    or "https_token_file" in json.dumps(network.build(build))
                ),
                "a word about the wrong token",
                VERDICT_SECONDS,
            )
            told = [
                ask(f"{network.gateway_url}{path}").body
                for path in ("/", f"/builds/{build}", f"/api/v1/builds/{build}", "/api/v1/network")
            ]
            told += [network.node(node, "/pbft/log").body for node in network.node_names]
            assert_none_in(forms, "an answer over HTTP", b"".join(told))
            network.close()
    assert seen_in_processes == []
    assert any(value is not None for value in https.authorizations)
    searched = 0
    for path in network.folder.rglob("*"):
        if path.is_file():
            assert_none_in(forms, str(path), path.read_bytes())
            searched += 1
    assert searched > 50
    for node in network.node_names:
        messages = [encode_signed(signed) for _, signed in read_capture(network.capture_file(node))]
        assert messages
        assert_none_in(forms, f"a message of {node}", b"".join(messages))


def commit_with_module(repository: Path, branch: str, files: dict[str, str], module: str) -> None:
    """A commit in a bare repository: these files, and another repository's commit at lib."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        **{"GIT_INDEX_FILE": str(repository / "module-index"), "GIT_CONFIG_GLOBAL": os.devnull},
        **{
            f"GIT_{who}_{what}": "a"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }

    def git(*arguments: str, text: str = "") -> str:
        done = subprocess.run(
            ["git", "--git-dir", str(repository), *arguments],
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    for path, text in files.items():
        blob = git("hash-object", "-w", "--stdin", text=text)
        git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    git("update-index", "--add", "--cacheinfo", f"160000,{module},lib")
    commit = git("commit-tree", "-m", "module", git("write-tree"))
    git("update-ref", f"refs/heads/{branch}", commit)


def test_a_build_with_a_submodule(
    docker_engine: docker.DockerClient, base_image: str, make_network: NetworkMaker
) -> None:
    """One operator does not list it: that replica says what to add, and three are enough."""
    network = make_network({"other": pipeline("true", image=base_image)}, executor="docker")
    library = network.folder / "library.git"
    module = write_repository(library, {"master": {"code": "42"}})["master"]
    files = {
        **pipeline('test "$(cat lib/code)" = 42', image=base_image),
        ".gitmodules": '[submodule "lib"]\n\tpath = lib\n\turl = ../library.git\n',
    }
    commit_with_module(network.repository, "green", files, module)
    for node in ("node0", "node1", "node2"):
        network.rewrite(
            node,
            lambda settings: settings["repositories"].append(
                {"url": str(library), "submodule_of": [str(network.repository)]}
            ),
        )
    network.start()
    view = network.complete(network.post("green"))
    assert view["verdict"]["outcome"] == "passed"
    assert sorted(view["verdict"]["agreeing"]) == ["node0", "node1", "node2"]
    (abstention,) = (b["abstains"] for b in view["ballots"] if b["replica"] == "node3")
    assert f"submodule lib comes from {library.as_uri()}" in abstention
