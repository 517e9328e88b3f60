"""node/doctor.py: a report of a node has what a bug report needs, and none of its secrets."""

import base64
import tarfile
from pathlib import Path

import pytest
import yaml

from common.configuration.config import load_node_config
from common.configuration.keys import new_private_key, public_key_text
from common.membership.confirmation import read_cluster
from node import main
from node.storage.store import DATABASE_NAME, Store
from scripts.configuration import DataFolders, Ports, write_configuration
from scripts.free_ports import free_ports
from tests.secret_files import secret_file

MARKER = "c0ffee-marker"
PARTS = {
    "versions.txt", "configuration.json", "check.txt", "sizes.txt", "status.txt", "readyz.txt",
    "metrics.txt", "store.txt", "caches.txt", "log.txt",
}  # fmt: skip


def marked(what: str) -> str:
    return f"{MARKER}-{what}"


def secretive_node(folder: Path) -> tuple[Path, str]:
    """A node's configuration with each kind of secret, and a log that says all of them.

    Gives the file, and a line of the private key.
    """
    configuration = write_configuration(
        folder / "config",
        ["https://example.org/r.git"],
        DataFolders.below(folder),
        ports=Ports(free_ports(4)),
        executor="process",
    )
    file = configuration.nodes[0].file
    passphrase = secret_file(folder / "passphrase", marked("passphrase"))
    key_file = folder / "encrypted.pem"
    public_key = new_private_key(key_file, marked("passphrase").encode())
    cluster = yaml.safe_load(configuration.cluster.file.read_text())
    cluster["replicas"][0] = {
        "name": "node0",
        "address": str(configuration.cluster.replicas[0].address),
        "public_key": public_key_text(public_key),
    }
    configuration.cluster.file.write_text(yaml.safe_dump(cluster))
    auth = base64.b64encode(f"robot:{marked('registry')}".encode()).decode()
    settings = yaml.safe_load(file.read_text()) | {
        "private_key_file": str(key_file),
        "private_key_passphrase_file": str(passphrase),
        "read_token_file": str(secret_file(folder / "read", marked("read"))),
        "registry_auth_file": str(
            secret_file(folder / "logins", f'{{"auths": {{"ghcr.io": {{"auth": "{auth}"}}}}}}')
        ),
        "repositories": [
            {
                "url": "https://127.0.0.1:1/owner/name.git",
                "https_user": "robot",
                "https_token_file": str(secret_file(folder / "https", marked("https"))),
                "forge": "gitea",
                "api_url": "https://127.0.0.1:1/api/v1",
                "status_token_file": str(secret_file(folder / "status", marked("status"))),
            },
            {
                "url": "ssh://git@127.0.0.1:1/x.git",
                "ssh_key_file": str(secret_file(folder / "ssh", f"{marked('ssh')}\n")),
                "known_hosts_file": str(secret_file(folder / "known", "127.0.0.1 ssh-rsa AAAA\n")),
            },
            {
                "url": "https://127.0.0.1:1/third.git",
                "fetch_url": f"https://robot:{marked('url')}@127.0.0.1:1/third.git",
            },
        ],
    }
    file.write_text(f"# {marked('comment')}\n{yaml.safe_dump(settings)}")
    key_line = key_file.read_text().splitlines()[1]
    basic = base64.b64encode(f"robot:{marked('https')}".encode()).decode()
    config = load_node_config(file)
    config.log_file.parent.mkdir(parents=True, exist_ok=True)
    config.log_file.write_text(
        f"git said: https://robot:{marked('https')}@host, Authorization: Basic {basic}\n"
        f"{marked('read')} {marked('status')} {marked('ssh')} {marked('passphrase')}\n"
        f"{marked('registry')} {auth} https://a:{marked('url')}@host\n{key_line}\nthe last line\n"
    )
    _, cluster_read = read_cluster(config.cluster_file)
    Store(config.data_directory, cluster_read.id, config.name).close()
    return file, key_line


def texts_in(archive: Path) -> dict[str, str]:
    """The parts of a report by their names."""
    with tarfile.open(archive) as opened:
        found = {}
        for member in opened.getmembers():
            stream = opened.extractfile(member)
            assert stream is not None
            found[member.name.partition("/")[2]] = stream.read().decode()
        return found


def test_a_report_has_all_parts_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, key_line = secretive_node(tmp_path)
    output = tmp_path / "report.tar.gz"
    database = load_node_config(file).data_directory / DATABASE_NAME
    before = database.read_bytes()
    assert main.main(["--config", str(file), "doctor", "--output", str(output)]) == 0
    assert database.read_bytes() == before
    printed = capsys.readouterr().out
    assert output.stat().st_mode & 0o777 == 0o600
    texts = texts_in(output)
    assert set(texts) == PARTS
    assert all(name in printed for name in PARTS)
    for name, text in {**texts, "screen": printed}.items():
        assert MARKER not in text, f"a secret in {name}"
        assert base64.b64encode(MARKER.encode()).decode()[:12] not in text, name
        assert base64.b64encode(f"robot:{MARKER}".encode()).decode()[:16] not in text, name
        assert key_line not in text, name
    assert "OpenSSL: OpenSSL" in texts["versions.txt"]
    assert "msgspec: 0." in texts["versions.txt"]
    assert '"https_token_file":' in texts["configuration.json"]
    assert "disk space" in texts["check.txt"]
    assert "redo-log" in texts["sizes.txt"]
    assert texts["status.txt"].startswith("no answer: ")
    assert texts["store.txt"].startswith("format: [('")
    assert texts["log.txt"].endswith("\nthe last line\n")


def test_without_a_right_configuration_it_reports_why(tmp_path: Path) -> None:
    file = tmp_path / "node.yml"
    file.write_text("nmae: node0\n")
    command = ["--config", str(file), "doctor", "--output", str(tmp_path)]
    assert main.main(command) == 0
    (output,) = tmp_path.glob("pbft-ci-node-doctor-*.tar.gz")
    texts = texts_in(output)
    assert set(texts) == {"versions.txt", "configuration.txt"}
    assert "did you mean name?" in texts["configuration.txt"]


def test_where_a_secret_cannot_be_known_the_log_stays_here(tmp_path: Path) -> None:
    file, _ = secretive_node(tmp_path)
    (tmp_path / "encrypted.pem").unlink()
    (tmp_path / "encrypted.pem").mkdir()
    output = tmp_path / "report.tar.gz"
    assert main.main(["--config", str(file), "doctor", "--output", str(output)]) == 0
    texts = texts_in(output)
    assert set(texts) == {"versions.txt", "configuration.json", "left-out.txt"}
    assert "encrypted.pem cannot be read" in texts["left-out.txt"]
    assert not [name for name, text in texts.items() if MARKER in text]


def test_what_cannot_be_collected_says_so(tmp_path: Path) -> None:
    file, _ = secretive_node(tmp_path)
    config = load_node_config(file)
    config.log_file.unlink()
    for stored in config.data_directory.iterdir():
        stored.unlink()
    output = tmp_path / "report.tar.gz"
    assert main.main(["--config", str(file), "doctor", "--output", str(output)]) == 0
    texts = texts_in(output)
    assert set(texts) == PARTS
    assert texts["log.txt"].startswith("cannot be collected: FileNotFoundError")
    assert texts["store.txt"].startswith("cannot be collected: OperationalError")
