"""The commands that bring a cluster up, as each operator types them."""

import stat
from pathlib import Path

import pytest

from client.main import main as client
from common.configuration.config import load_client_config, load_cluster_config, load_node_config
from common.configuration.keys import load_signing_key
from common.fingerprint import fingerprint_words
from common.membership.confirmation import read_cluster
from node.main import main as node

REPOSITORY = "https://git.example.org/team/product.git"
NAMES = ("acme", "berg", "corp", "dune")


def run(program: object, *arguments: str | Path) -> int:
    assert callable(program)
    return int(program([str(argument) for argument in arguments]))


def init(folder: Path, name: str, number: int, host: str = "127.0.0.1") -> Path:
    """A new replica in a folder of its own; the file of its entry."""
    place = folder / name
    listen = f"127.0.0.1:{10000 + number}"
    flags = ("--name", name, "--folder", place, "--listen", listen, "--repository", REPOSITORY)
    assert run(node, "init", *flags, "--address", f"{host}:{10000 + number}") == 0
    return place / f"{name}.entry.yml"


@pytest.fixture
def entries(tmp_path: Path) -> list[Path]:
    """The entries of four replicas on other machines, a gateway and an operator."""
    found = [
        init(tmp_path, name, number, f"{name}.example.org") for number, name in enumerate(NAMES)
    ]
    flags = ("--listen", "127.0.0.1:8080", "--repository", REPOSITORY)
    assert run(client, "init", "--name", "web", "--folder", tmp_path / "web", *flags) == 0
    seats = [word for name in NAMES[:2] for word in ("--replica", name)]
    operator: list[str | Path] = ["--name", "ann", "--folder", tmp_path / "ann", *seats]
    assert run(client, "operator", "init", *operator) == 0
    return [*found, tmp_path / "web/web.entry.yml", tmp_path / "ann/ann.entry.yml"]


def assemble(output: Path, *entries: Path) -> int:
    return run(client, "cluster", "assemble", *entries, "--output", output)


def test_init_makes_what_a_node_needs_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path, "acme", 1)
    folder = tmp_path / "acme"
    config = load_node_config(folder / "node.yml")
    assert (config.name, str(config.listen)) == ("acme", "127.0.0.1:10001")
    assert [entry.url for entry in config.repositories] == [REPOSITORY]
    assert config.repositories[0].local_images == ()
    assert config.data_directory == folder / "acme.data"
    assert stat.S_IMODE(config.private_key_file.stat().st_mode) == 0o600
    key = load_signing_key(config.private_key_file).public_key
    assert key.hex() in (folder / "acme.entry.yml").read_text()
    explained = (folder / "node.yml").read_text()
    assert explained.count("\n#") > 40, "the comments of the example are there"

    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    flags = ("--name", "acme", "--folder", folder, "--listen", "127.0.0.1:1")
    assert run(node, "init", *flags, "--repository", REPOSITORY) == 2
    assert "node.yml: exists already; move it away" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_a_member_writes_may_be_kept_apart_from_its_configuration(tmp_path: Path) -> None:
    """A service, or a container, finds its configuration read-only."""
    flags = ("--listen", "127.0.0.1:1", "--repository", REPOSITORY, "--data-folder", "/var/x")
    assert run(node, "init", "--name", "acme", "--folder", tmp_path, *flags) == 0
    acme = load_node_config(tmp_path / "node.yml")
    assert (acme.data_directory, acme.log_file) == (
        Path("/var/x/acme.data"),
        Path("/var/x/acme.log"),
    )
    assert run(client, "init", "--name", "web", "--folder", tmp_path, *flags) == 0
    web = load_client_config(tmp_path / "client.yml")
    assert (web.data_directory, web.log_file) == (Path("/var/x/web.data"), Path("/var/x/web.log"))
    assert web.results_file == Path("/var/x/results.jsonl")


def test_init_makes_a_gateway_with_a_secret_for_each_forge(tmp_path: Path) -> None:
    other = "https://git.example.org/team/other.git"
    flags = ("--listen", "127.0.0.1:8080", "--repository", REPOSITORY, "--repository", other)
    assert run(client, "init", "--name", "web", "--folder", tmp_path, *flags) == 0
    config = load_client_config(tmp_path / "client.yml")
    files = [entry.webhook_secret_file for entry in config.repositories]
    assert files == [tmp_path / "webhook-secret-1", tmp_path / "webhook-secret-2"]
    secrets = {file.read_text() for file in files if file is not None}
    assert len(secrets) == 2
    assert all(len(secret.strip()) == 64 for secret in secrets)
    assert not any(entry.unsigned_allowed for entry in config.repositories)


def test_a_node_and_a_gateway_in_one_folder_share_nothing(tmp_path: Path) -> None:
    """As docs/BRING_UP.md makes them: the second would not start beside the first."""
    for program, name, port in ((node, "acme", 1), (client, "web", 2)):
        flags = ("--listen", f"127.0.0.1:{port}", "--repository", REPOSITORY)
        assert run(program, "init", "--name", name, "--folder", tmp_path, *flags) == 0
    replica, gateway = (
        load_node_config(tmp_path / "node.yml"),
        load_client_config(tmp_path / "client.yml"),
    )
    assert replica.data_directory != gateway.data_directory
    assert replica.log_file != gateway.log_file
    assert replica.private_key_file != gateway.private_key_file


def test_what_makes_no_right_configuration_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--name", "web", "--folder", tmp_path, "--listen", "192.0.2.1:8080")
    assert run(client, "init", *flags, "--repository", REPOSITORY) == 2
    assert "listen: 192.0.2.1:8080 can be reached by other machines" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_key_with_a_passphrase_needs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passphrase, short = tmp_path / "passphrase", tmp_path / "short"
    for file, text in ((passphrase, "correct horse"), (short, "horse")):
        file.write_text(text)
        file.chmod(0o600)
    flags = ("--listen", "127.0.0.1:10000", "--repository", REPOSITORY)
    member = ("--name", "acme", "--folder", tmp_path / "acme", "--passphrase-file")
    assert run(node, "init", *member, short, *flags) == 2
    assert "the passphrase has 5 characters; at least 8 are needed" in capsys.readouterr().err
    assert run(node, "init", *member, passphrase, *flags) == 0
    config = load_node_config(tmp_path / "acme/node.yml")
    assert config.private_key_passphrase_file == passphrase
    assert b"ENCRYPTED PRIVATE KEY" in config.private_key_file.read_bytes()
    assert assemble(tmp_path / "acme/cluster.yml", tmp_path / "acme/acme.entry.yml") == 0
    capsys.readouterr()

    passphrase.write_text("wrong horse")
    assert run(node, "confirm", "00" * 32, "--config", config.file) == 2
    assert "acme.private.pem: cannot be decrypted" in capsys.readouterr().err
    text = config.file.read_text()
    config.file.write_text(text.replace("private_key_passphrase_file:", "# none:"))
    assert run(node, "confirm", "00" * 32, "--config", config.file) == 2
    assert "private_key_passphrase_file: is missing, and" in capsys.readouterr().err


def test_the_same_entries_give_the_same_file_in_any_order(
    tmp_path: Path, entries: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one.yml", tmp_path / "other.yml"
    assert assemble(one, *entries) == 0
    assert assemble(other, *reversed(entries)) == 0
    assert one.read_bytes() == other.read_bytes()
    config = load_cluster_config(one)
    assert [entry.name for entry in config.replicas] == list(NAMES)
    assert {entry.name: entry.roles for entry in config.clients} == {
        "ann": ("operator",), "web": ("gateway",)
    }  # fmt: skip
    assert {entry.name: entry.operates for entry in config.clients} == {
        "ann": NAMES[:2], "web": ()
    }  # fmt: skip
    capsys.readouterr()
    assert run(client, "cluster", "fingerprint", one) == 0
    shown = capsys.readouterr().out
    _, cluster = read_cluster(one)
    assert cluster.id.hex() in shown
    assert all(f" {word}" in shown for word in fingerprint_words(cluster.id))
    assert "4 replicas, of which 1 may lie or fail" in shown
    assert "build_seconds_max: 120" in shown
    assert f" operator, operator of {NAMES[0]}, operator of {NAMES[1]}  ed25519" in shown


def test_members_speak_tls_unless_all_are_on_one_machine(
    tmp_path: Path, entries: list[Path]
) -> None:
    far, near = tmp_path / "far.yml", tmp_path / "near.yml"
    assert assemble(far, *entries) == 0
    assert load_cluster_config(far).tls == "required"
    assert assemble(near, init(tmp_path, "here", 4), *entries[len(NAMES) : -1]) == 0
    assert load_cluster_config(near).tls == "off"


def test_rules_come_from_another_cluster_file(tmp_path: Path, entries: list[Path]) -> None:
    first, second = tmp_path / "first.yml", tmp_path / "second.yml"
    assert assemble(first, *entries) == 0
    text = first.read_text()
    first.write_text(text.replace("build_seconds_max: 120", "build_seconds_max: 600"))
    flags = ("--output", second, "--rules", first)
    assert run(client, "cluster", "assemble", *entries, *flags) == 0
    assert second.read_bytes() == first.read_bytes()


def test_entries_that_make_no_cluster_are_refused(
    tmp_path: Path, entries: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "cluster.yml"
    twin = init(tmp_path / "twin", "acme", 9)
    same_address = init(tmp_path, "east", 0, "acme.example.org")
    fifth = init(tmp_path, "west", 8)
    for more, wrong in (
        (twin, f"name: acme is also in {entries[0]}"),
        (same_address, f"address: acme.example.org:10000 is also in {entries[0]}"),
        (fifth, "the entries are of 5 replicas"),
    ):
        assert assemble(output, *entries, more) == 2
        assert wrong in capsys.readouterr().err
    assert not output.exists()


def test_a_node_starts_only_on_the_cluster_that_was_confirmed(
    tmp_path: Path, entries: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config_file, cluster_file = tmp_path / "acme/node.yml", tmp_path / "acme/cluster.yml"
    assert assemble(cluster_file, *entries) == 0
    _, cluster = read_cluster(cluster_file)
    capsys.readouterr()
    assert run(node, "--config", config_file) == 2
    assert "cluster_fingerprint: is missing, and" in capsys.readouterr().err

    # what another operator read out is of another cluster, or was misheard
    assert run(node, "confirm", "ab" * 32, "--config", config_file) == 2
    assert f"has the fingerprint {cluster.id.hex()}, not {'ab' * 32}" in capsys.readouterr().err
    assert run(node, "confirm", "zoo", "zoo", "--config", config_file) == 2
    assert "the fingerprint has 2 words instead of 24" in capsys.readouterr().err
    assert load_node_config(config_file).cluster_fingerprint is None
    words = fingerprint_words(cluster.id)
    assert run(node, "--config", config_file, "confirm", *words) == 0
    assert load_node_config(config_file).cluster_fingerprint == cluster.id.hex()
    assert stat.S_IMODE(config_file.stat().st_mode) == 0o600

    # one limit changes: it is another cluster
    text = cluster_file.read_text()
    cluster_file.write_text(text.replace("build_seconds_max: 120", "build_seconds_max: 121"))
    capsys.readouterr()
    assert run(node, "--config", config_file) == 2
    assert f"cluster_fingerprint: is {cluster.id.hex()}, and that of" in capsys.readouterr().err


def test_a_gateway_starts_only_on_the_cluster_that_was_confirmed(
    tmp_path: Path, entries: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config_file, cluster_file = tmp_path / "web/client.yml", tmp_path / "web/cluster.yml"
    assert assemble(cluster_file, *entries) == 0
    _, cluster = read_cluster(cluster_file)
    capsys.readouterr()
    assert run(client, "--config", config_file) == 2
    assert "cluster_fingerprint: is missing, and" in capsys.readouterr().err
    assert run(client, "confirm", cluster.id.hex(), "--config", config_file) == 0
    assert load_client_config(config_file).cluster_fingerprint == cluster.id.hex()


def test_an_operator_answers_whether_the_words_are_the_same(
    tmp_path: Path,
    entries: list[Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config_file, cluster_file = tmp_path / "acme/node.yml", tmp_path / "acme/cluster.yml"
    assert assemble(cluster_file, *entries) == 0
    assert run(node, "confirm", "--config", config_file) == 2
    assert "no terminal to ask" in capsys.readouterr().err
    answers = iter(("y", "yes"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert run(node, "confirm", "--config", config_file) == 1
    assert load_node_config(config_file).cluster_fingerprint is None
    assert "* acme" in capsys.readouterr().out
    assert run(node, "confirm", "--config", config_file) == 0
    assert load_node_config(config_file).cluster_fingerprint is not None


def test_a_cluster_of_this_machine_needs_no_confirmation(tmp_path: Path) -> None:
    entry = init(tmp_path, "acme", 1)
    assert assemble(tmp_path / "acme/cluster.yml", entry) == 0
    config_file = tmp_path / "acme/node.yml"
    assert load_node_config(config_file).cluster_fingerprint is None
    # it goes on to what is checked next, which is that the folder of its data can be used
    (tmp_path / "acme/acme.data").write_text("not a folder")
    assert run(node, "--config", config_file) == 1
