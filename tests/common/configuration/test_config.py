"""Configuration files: what comes out of good ones, and the line that a bad one gives."""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from ci.seats import seats_of, seats_with_operators
from common.configuration.config import (
    Address,
    ClusterConfig,
    ConfigError,
    check_gateway_listen,
    check_node_listen,
    check_plaintext,
    load_client_config,
    load_cluster_config,
    load_node_config,
)
from common.configuration.keys import generate_key_files, load_public_key

KEY = f"'ed25519:{'a1' * 32}'"
OPERATING = "roles: [gateway, operator]"
CLUSTER = """
replicas:
  - {name: node0, public_key_file: keys/node0.pub.pem, address: "127.0.0.1:10000"}
  - {name: node1, public_key_file: keys/node1.pub.pem, address: 127.0.0.1:10001}
clients:
  - {name: client, public_key_file: keys/client.pub.pem, roles: [gateway, operator]}
"""
NODE = """
cluster_file: cluster.yml
name: node0
private_key_file: keys/node0.key.pem
listen: 127.0.0.1:10000
data_directory: ../data/node0
log_file: /var/log/node0.log
repositories:
  - url: example.git
  - {url: "https://git.example.org/a.git", fetch_url: ../mirror/a.git}
  - {url: "git@git.example.org:a/b.git"}
"""
CLIENT = """
cluster_file: cluster.yml
name: client
private_key_file: keys/client.key.pem
listen: localhost:8080
data_directory: data
log_file: client.log
results_file: results.jsonl
repositories: [{url: "https://git.example.org/a.git", unsigned_allowed: true}]
"""


def written(folder: Path, text: str, name: str = "file.yml") -> Path:
    """A file with this text."""
    file = folder / name
    file.write_text(text)
    return file


def with_keys(folder: Path) -> None:
    """The key files that CLUSTER names."""
    for name in ("node0", "node1", "client"):
        generate_key_files(folder / f"keys/{name}.key.pem", folder / f"keys/{name}.pub.pem")


def error_of(folder: Path, text: str, loader: object = load_node_config) -> str:
    """What the person who typed `text` reads."""
    file = written(folder, text)
    assert callable(loader)
    with pytest.raises(ConfigError) as caught:
        loader(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


def test_a_cluster_file(tmp_path: Path) -> None:
    config = load_cluster_config(
        written(tmp_path, CLUSTER + "limits: {memory_bytes: 5, cpus: 0.5}")
    )
    assert [str(entry.address) for entry in config.replicas] == [
        "127.0.0.1:10000",
        "127.0.0.1:10001",
    ]
    assert config.replicas[0].public_key_file == tmp_path / "keys/node0.pub.pem"
    assert config.clients[0].roles == ("gateway", "operator")
    assert (config.checkpoint_interval, config.window, config.client_window) == (128, 256, 256)
    assert config.limits == {"memory_bytes": 5, "cpus": 0.5}


def test_the_cluster_has_the_keys_of_the_files(tmp_path: Path) -> None:
    config = load_cluster_config(written(tmp_path, CLUSTER))
    with_keys(tmp_path)
    cluster = config.cluster(b"rules")
    assert cluster.replica_names == ("node0", "node1")
    assert cluster.public_key("node1") == load_public_key(tmp_path / "keys/node1.pub.pem")
    assert cluster.roles("client") == ("gateway", "operator")
    assert cluster.genesis.application == b"rules"


def test_an_operator_stands_for_replicas_by_roles_of_the_genesis(tmp_path: Path) -> None:
    """And a file in which none does describes the cluster that it always did."""
    with_keys(tmp_path)
    before = load_cluster_config(written(tmp_path, CLUSTER)).cluster(b"rules")
    assert seats_with_operators(before) == ()
    assert before.genesis.clients[0].roles == ("gateway", "operator")
    text = CLUSTER.replace(OPERATING, f"{OPERATING}, operates: [node1, node0]")
    after = load_cluster_config(written(tmp_path, text)).cluster(b"rules")
    assert seats_of(after, ["client"]) == ("node0", "node1")
    assert after.id != before.id


def test_one_key_for_two_members_is_refused(tmp_path: Path) -> None:
    config = load_cluster_config(written(tmp_path, CLUSTER))
    with_keys(tmp_path)
    keys = tmp_path / "keys"
    (keys / "node1.pub.pem").write_bytes((keys / "node0.pub.pem").read_bytes())
    with pytest.raises(ConfigError, match="two members of the genesis have one public key"):
        config.cluster(b"")


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    config = load_cluster_config(written(tmp_path, CLUSTER))
    with pytest.raises(ConfigError, match=r"keys/node0\.pub\.pem: there is no such public key"):
        config.cluster(b"")


def test_addresses_and_paths_are_not_in_the_genesis(tmp_path: Path) -> None:
    with_keys(tmp_path)
    one = load_cluster_config(written(tmp_path, CLUSTER)).cluster(b"")
    other = load_cluster_config(
        written(tmp_path, CLUSTER.replace("127.0.0.1:1000", "localhost:2000"))
    ).cluster(b"")
    assert one.id == other.id


def test_a_node_file(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    config = load_node_config(written(folder, NODE))
    assert config.file == folder / "file.yml"
    assert config.cluster_file == folder / "cluster.yml"
    assert config.data_directory == tmp_path / "data/node0"
    assert config.log_file == Path("/var/log/node0.log")
    assert config.listen == Address("127.0.0.1", 10000)
    assert [entry.url for entry in config.repositories] == [
        f"file://{folder}/example.git",
        "https://git.example.org/a.git",
        "git@git.example.org:a/b.git",
    ]
    assert [entry.fetched_from for entry in config.repositories][1:] == [
        f"file://{tmp_path}/mirror/a.git",
        "git@git.example.org:a/b.git",
    ]
    assert (config.executor, config.docker_host, config.builds_at_once) == ("docker", None, 2)
    assert (config.allow_dockerfile, config.fault_injection) == (False, None)
    assert (config.view_change_seconds, config.view_change_seconds_max) == (4.0, 64.0)
    assert config.package_proxies.environment == {}
    # what an older file does not say is safe
    assert config.images_from == ("docker.io",)
    assert {entry.local_images for entry in config.repositories} == {()}


@pytest.mark.parametrize(
    "host",
    [
        "unix:///run/user/1000/docker.sock",
        "tcp://127.0.0.1:2375",
        "tcp://[::1]:2375",
        "ssh://ci@engine.example",
        "ssh://engine-1:2222",
    ],
)
def test_where_an_engine_may_be(tmp_path: Path, host: str) -> None:
    text = f"{NODE}docker_host: '{host}'\n"
    assert load_node_config(written(tmp_path, text)).docker_host == host


def test_an_engine_on_another_machine_needs_all_files_of_tls(tmp_path: Path) -> None:
    text = f"{NODE}docker_host: tcp://10.0.0.1:2376\ndocker_tls_folder: tls\n"
    folder = tmp_path / "tls"
    folder.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        assert f"docker_tls_folder: {folder} has no file {name};" in error_of(tmp_path, text)
        (folder / name).touch()
    assert load_node_config(written(tmp_path, text)).docker_tls_folder == folder


def test_the_patience_of_a_node(tmp_path: Path) -> None:
    text = NODE + "view_change_seconds: 0.5\nview_change_seconds_max: 8"
    config = load_node_config(written(tmp_path, text))
    assert (config.view_change_seconds, config.view_change_seconds_max) == (0.5, 8.0)
    assert error_of(tmp_path, NODE + "view_change_seconds: 100") == (
        "view_change_seconds_max: 64 is less than view_change_seconds; at least 100 is allowed"
    )


def test_a_client_file(tmp_path: Path) -> None:
    config = load_client_config(written(tmp_path, CLIENT))
    assert config.results_file == tmp_path / "results.jsonl"
    assert config.listen.url == "http://localhost:8080"
    assert (config.queue_max, config.public_url) == (1000, None)
    assert config.repositories[0].url == "https://git.example.org/a.git"


@pytest.mark.parametrize(
    ("added", "line"),
    [
        (
            "builds_at_onec: 3",
            "builds_at_onec: there is no such key (did you mean builds_at_once?); the keys are: "
            "cluster_file, name, private_key_file, listen, data_directory, log_file, ",
        ),
        ("file: x", "file: there is no such key (did you mean log_file?); the keys are: "),
        ("builds_at_once: 0", "builds_at_once: is 0; a whole number from 1 to 256 is needed"),
        ("builds_at_once: two", "builds_at_once: is 'two'; a whole number from 1 to 256 is needed"),
        ("builds_at_once: true", "builds_at_once: is true; a whole number from 1 to 256 is needed"),
        (
            "executor: dokcer",
            "executor: is 'dokcer' (did you mean docker?); one of docker, process",
        ),
        (
            "fault_injection: odd",
            "fault_injection: is 'odd'; one of allowed, lying, silent, ",
        ),
        (
            "network_hosts: [PyPI.org]",
            "network_hosts[0]: 'PyPI.org' is no host; a full name in small",
        ),
        ("network_hosts: ['*', 10.0.0.1]", "network_hosts[1]: '10.0.0.1' is no host; a full name"),
        ("network_addresses: [10.0.0.1/8]", "network_addresses[0]: 10.0.0.1/8 has host bits set;"),
        ("network_addresses: [pypi.org]", "network_addresses[0]: 'pypi.org' does not appear to be"),
        ("allow_dockerfile: 1", "allow_dockerfile: is 1; true or false is needed"),
        ("docker_host: 5", "docker_host: is 5; unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST"),
        (
            "docker_host: docker.sock",
            "docker_host: is 'docker.sock'; unix:///PATH, tcp://HOST:PORT",
        ),
        (
            "docker_host: 'ssh://-oProxyCommand=x'",
            "docker_host: is 'ssh://-oProxyCommand=x'; unix:",
        ),
        ("runtime: '-x'", "runtime: is '-x'; a runtime as the engine calls it, such as runsc"),
        (
            "runtime: runsc\nexecutor: process",
            "runtime: runsc is for containers, and executor is process; set executor: docker",
        ),
        ("docker_host: 'ssh://-x@host'", "docker_host: is 'ssh://-x@host'; unix:///PATH"),
        (
            "docker_host: tcp://10.0.0.1:2375",
            "docker_host: tcp://10.0.0.1:2375 is on another machine, and without TLS whoever"
            " reaches it is root there; set docker_tls_folder, or use ssh://",
        ),
        (
            "docker_tls_folder: tls",
            "docker_tls_folder: is for an engine at tcp://, and docker_host is not set;",
        ),
        (
            "docker_tls_folder: tls\ndocker_host: ssh://ci@10.0.0.1",
            "docker_tls_folder: is for an engine at tcp://, and docker_host is ssh://ci@10.0.0.1;",
        ),
        ("executor: swarm", "swarm_workers: has 0 workers, and executor is swarm;"),
        (
            "swarm_workers: {a: 'unix:///a'}",
            "swarm_workers: has 1 workers, and executor is docker;",
        ),
        (
            "executor: swarm\nswarm_workers: {a: 'unix:///a', b: 'tcp://10.0.0.1:2376'}",
            "swarm_workers.b: tcp://10.0.0.1:2376 is on another machine, and without TLS",
        ),
        ("executor: swarm\nswarm_workers: {a: b}", "swarm_workers.a: is 'b'; unix:///PATH"),
        (
            "package_proxies: {pip: 'https://user:word@p.example/simple/'}",
            "package_proxies.pip: is 'https://user:word@p.example/simple/'; http:// or https://,"
            " without a login",
        ),
        ("package_proxies: {pip: p.example}", "package_proxies.pip: is 'p.example'; http"),
        ("package_proxies: {gem: 'https://p.example'}", "package_proxies.gem: there is no such"),
        # once this meant any place
        ("images_from:", "images_from: is empty; a list is needed"),
        ("images_from: [https://a.example]", "images_from[0]: is 'https://a.example'; a registry"),
        (
            "images_from: [ghcr.io, python]",
            "images_from[1]: python does not begin with a registry's host as images' names do; did"
            " you mean docker.io/python?",
        ),
        ("images_from: [index.docker.io/team]", "images_from[0]: index.docker.io/team does not"),
        ("view_change_seconds: 0", "view_change_seconds: is 0; a number from 0.1 to 3600"),
        ("view_change_seconds: soon", "view_change_seconds: is 'soon'; a number from 0.1 to"),
        ("abstain_after_seconds:", "abstain_after_seconds: is empty; a whole number from 1 to"),
    ],
)
def test_a_wrong_value_in_a_node_file(tmp_path: Path, added: str, line: str) -> None:
    assert error_of(tmp_path, NODE + added).startswith(line)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("name: node0", "", "name: is missing; up to 64 of: letters, digits, '-', '_', '.' is"),
        ("name: node0", "name: ../x", "name: is '../x'; up to 64 of: letters"),
        ("listen: 127.0.0.1:10000", "listen: 10000", "listen: is 10000; a host and a port as in"),
        ("127.0.0.1:10000", "127.0.0.1", "listen: '127.0.0.1' has no port; a host and a port"),
        ("127.0.0.1:10000", "a:99999", "listen: port 99999 is not between 1 and 65535; a host"),
        ("127.0.0.1:10000", "'a b:1'", "listen: 'a b' is not a host; a host and a port"),
        ("127.0.0.1:10000", "'[::zz]:1'", "listen: '[::zz]' is not an IPv6 address; a host"),
        ("../data/node0", "[a]", "data_directory: is a list; a path is needed"),
        ("url: example.git", "uri: x", "repositories[0].uri: there is no such key (did you mean "),
        ("url: example.git", "fetch_url: x", "repositories[0].url: is missing; text is needed"),
        ("url: example.git", "url: ''", "repositories[0].url: is empty or not printable; a URL"),
        (
            '{url: "git@git.example.org:a/b.git"',
            '{url: "git@git.example.org:a/b.git", submodule_of: ["https://git.example.org/a"]',
            "repositories[2].submodule_of[0]: https://git.example.org/a is not on the list (did you"
            " mean https://git.example.org/a.git?)",
        ),
        (
            "url: example.git",
            "url: example.git\n    local_images: [a:1, 'b c']",
            "repositories[0].local_images[1]: 'b c' is not an image's name with a tag; a name as",
        ),
        ("  - url: example.git", "  - example.git", "repositories[0]: is 'example.git'; a mapping"),
        (
            "git@git.example.org:a/b.git",
            "https://git.example.org/a.git",
            "repositories: https://git.example.org/a.git is there twice; list each once",
        ),
    ],
)
def test_a_wrong_line_in_a_node_file(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert old in NODE
    assert error_of(tmp_path, NODE.replace(old, new)).startswith(line)


def test_whose_submodule_a_repository_may_be(tmp_path: Path) -> None:
    """By a path, as a repository is listed."""
    text = NODE.replace('a/b.git"}', 'a/b.git", submodule_of: [example.git]}')
    found = load_node_config(written(tmp_path, text)).repositories
    assert found[0].submodule_of is None
    assert found[2].submodule_of == (found[0].url,)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CLUSTER + "window: 255", "window: 255 is less than twice checkpoint_interval; at least "),
        (CLUSTER + "limits: [1]", "limits: is a list; a mapping from names to values is needed"),
        (CLUSTER.replace("name: node1", "name: node0"), "name: node0 is there twice; each member"),
        (CLUSTER.replace("name: client", "name: node0"), "name: node0 is there twice; each member"),
        (CLUSTER.replace(":10001", ":10000"), "address: 127.0.0.1:10000 is there twice; each repl"),
        (CLUSTER.replace("node1.pub", "node0.pub"), "public_key: "),
        (
            CLUSTER.replace("public_key_file: keys/node1.pub.pem, ", ""),
            "public_key of node1: is mis",
        ),
        (
            CLUSTER.replace(
                "public_key_file: keys/node1", f"public_key: {KEY}, public_key_file: keys/node1"
            ),
            "public_key of node1: and public_key_file are both there",
        ),
        (
            CLUSTER.replace("_file: keys/node1.pub.pem", ": abc"),
            "replicas[1].public_key: is 'abc'; ed25519: and",
        ),
        (CLUSTER.replace("[gateway,", "[gatewey,"), "clients[0].roles[0]: is 'gatewey' (did you"),
        (
            CLUSTER.replace(OPERATING, "roles: [gateway], operates: [node0]"),
            "operates of client: is there without the role operator; only operators have it",
        ),
        (
            CLUSTER.replace(OPERATING, f"{OPERATING}, operates: [node9]"),
            "operates of client: node9 is no replica of this file; name replicas",
        ),
        (
            CLUSTER.replace(OPERATING, f"{OPERATING}, operates: [node0, node0]"),
            "operates of client: node0 is there twice; each replica is named once",
        ),
        ("replicas: []\nclients: []", "replicas: 0 replicas: there must be at least one; "),
        ("- a", "is a list; a mapping of keys is needed"),
        ("", "is empty; a mapping of keys is needed"),
        ("a: [", "line 1: is not YAML: "),
        ("\x00", "line 1: is not YAML: "),
        ("window: 1\nwindow: 2", 'line 2: is not YAML: the key "window" is there twice; see '),
    ],
)
def test_a_wrong_cluster_file(tmp_path: Path, text: str, line: str) -> None:
    assert error_of(tmp_path, text, load_cluster_config).startswith(line)


def test_a_number_of_replicas_that_the_protocol_cannot_use(tmp_path: Path) -> None:
    entries = "".join(
        f"  - {{name: n{i}, public_key_file: n{i}.pem, address: 'localhost:{i + 1}'}}\n"
        for i in range(5)
    )
    message = error_of(tmp_path, f"replicas:\n{entries}clients: []\n", load_cluster_config)
    assert message.startswith("replicas: 5 replicas tolerate no more faults than 4")


def test_a_client_needs_a_repository(tmp_path: Path) -> None:
    text = re.sub(r"repositories: .*", "repositories: []", CLIENT)
    assert error_of(tmp_path, text, load_client_config) == (
        "repositories: is empty; at least one is needed"
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yml: there is no such file; "):
        load_node_config(tmp_path / "none.yml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_node_config(tmp_path)
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"binary\.yml: line 1: is not YAML: "):
        load_node_config(tmp_path / "binary.yml")


HERE = ("127.0.0.1:1", "127.8.9.1:1", "localhost:1", "[::1]:1")
FOR_OTHERS = ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1")


@pytest.mark.parametrize(
    ("text", "tls"),
    [("", "off"), ("tls: off", "off"), ('tls: "off"', "off"), ("tls: required", "required")],
)
def test_whether_members_speak_tls(tmp_path: Path, text: str, tls: str) -> None:
    assert load_cluster_config(written(tmp_path, CLUSTER + text)).tls == tls


def test_tls_is_not_in_the_genesis(tmp_path: Path) -> None:
    with_keys(tmp_path)
    one = load_cluster_config(written(tmp_path, CLUSTER)).cluster(b"")
    other = load_cluster_config(written(tmp_path, f"{CLUSTER}tls: required")).cluster(b"")
    assert one.id == other.id


def test_no_other_word_about_tls_is_taken(tmp_path: Path) -> None:
    assert error_of(tmp_path, f"{CLUSTER}tls: on", load_cluster_config) == (
        "tls: is true; one of required, off is needed"
    )


def test_members_on_other_machines_need_tls(tmp_path: Path) -> None:
    config = load_cluster_config(written(tmp_path, CLUSTER))
    far = msgspec.structs.replace(config.replicas[1], address=Address.parse("10.0.0.1:1"))
    far_config = msgspec.structs.replace(config, replicas=(config.replicas[0], far))
    check_plaintext(config)
    check_plaintext(msgspec.structs.replace(far_config, tls="required"))
    with pytest.raises(ConfigError, match=r"replicas\[1\].address: 10.0.0.1:1 .*tls: required"):
        check_plaintext(far_config)


def test_a_node_listens_for_other_machines_with_tls_alone(tmp_path: Path) -> None:
    off = load_cluster_config(written(tmp_path, CLUSTER))
    required = msgspec.structs.replace(off, tls="required")
    # of a file from before TLS
    node = load_node_config(written(tmp_path, f"{NODE}plaintext_allowed: true"))
    for here in HERE:
        check_node_listen(msgspec.structs.replace(node, listen=Address.parse(here)), off)
    for listen in map(Address.parse, FOR_OTHERS):
        check_node_listen(msgspec.structs.replace(node, listen=listen), required)
        with pytest.raises(ConfigError, match="tls: required"):
            check_node_listen(msgspec.structs.replace(node, listen=listen), off)


def test_what_a_node_serves_without_tls_is_for_its_own_machine(tmp_path: Path) -> None:
    config = load_node_config(written(tmp_path, f"{NODE}local_listen: 127.0.0.1:9000"))
    assert config.local_listen == Address("127.0.0.1", 9000)
    assert error_of(tmp_path, f"{NODE}local_listen: 10.0.0.1:9000").startswith(
        "local_listen: 10.0.0.1:9000 can be reached by other machines"
    )


def test_a_gateway_listens_for_other_machines_behind_a_proxy_alone(tmp_path: Path) -> None:
    gateway = load_client_config(written(tmp_path, CLIENT))
    for here in HERE:
        check_gateway_listen(msgspec.structs.replace(gateway, listen=Address.parse(here)))
    for listen in map(Address.parse, FOR_OTHERS):
        with pytest.raises(ConfigError, match="plaintext_allowed: true"):
            check_gateway_listen(msgspec.structs.replace(gateway, listen=listen))
        check_gateway_listen(
            msgspec.structs.replace(gateway, listen=listen, plaintext_allowed=True)
        )


@pytest.mark.parametrize("text", ["127.0.0.1:10000", "localhost:1", "[::1]:65535", "a.b-c.org:80"])
def test_an_address_and_its_text_are_inverse(text: str) -> None:
    assert str(Address.parse(text)) == text
    assert Address.parse(text).url == f"http://{text}"


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stands for ci.limits.Limits, which common/ may not import."""

    memory_bytes: Annotated[int, msgspec.Meta(ge=16)] = 20
    cpus: Annotated[float, msgspec.Meta(gt=0, le=8)] = 1.0
    executors: Literal["all", "minimal"] = "all"


def limited(folder: Path, limits: str) -> ClusterConfig:
    """A cluster file with these limits."""
    return load_cluster_config(written(folder, f"{CLUSTER}limits: {{{limits}}}"))


def test_limits_as_the_rules_that_know_them(tmp_path: Path) -> None:
    assert limited(tmp_path, "cpus: 2").limits_as(Rules) == Rules(20, 2.0)
    assert limited(tmp_path, "executors: minimal").limits_as(Rules).executors == "minimal"
    for text, line in (
        ("memory_bytes: 15", "limits.memory_bytes: is 15; a whole number from 16 is needed"),
        ("cpus: 9", "limits.cpus: is 9; a number above 0 to 8 is needed"),
        ("memory_bytes: '16'", "limits.memory_bytes: is '16'; a whole number from 16 is needed"),
        (
            "executors: minimum",
            "limits.executors: is 'minimum' (did you mean minimal?); one of all,",
        ),
        ("memory_byte: 16", "limits.memory_byte: there is no such key (did you mean memory_bytes"),
    ):
        with pytest.raises(ConfigError) as caught:
            limited(tmp_path, text).limits_as(Rules)
        assert str(caught.value).startswith(f"{tmp_path}/file.yml: {line}")


def test_entries_by_name(tmp_path: Path) -> None:
    config = load_cluster_config(written(tmp_path, CLUSTER))
    file = tmp_path / "node9.yml"
    assert config.replica_entry("node1", file) is config.replicas[1]
    assert config.client_entry("client", file) is config.clients[0]
    with pytest.raises(ConfigError) as caught:
        config.replica_entry("nod1", file)
    assert str(caught.value) == (
        f"{file}: name: 'nod1' is not a replica of {config.file} (did you mean node1?); "
        "there are: node0, node1"
    )
