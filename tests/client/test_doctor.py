"""client/doctor.py: a report of a gateway has what a bug report needs, and none of its secrets."""

import tarfile
from pathlib import Path

import yaml

from client.main import gateway_main
from client.storage.database import Database
from common.configuration.config import load_client_config
from common.membership.confirmation import read_cluster
from scripts.configuration import DataFolders, Ports, write_configuration
from scripts.free_ports import free_ports
from tests.secret_files import secret_file

MARKER = "c0ffee-marker"


def marked(what: str) -> str:
    return f"{MARKER}-{what}"


def test_a_report_has_all_parts_and_no_secret(tmp_path: Path) -> None:
    *ports, client_port = free_ports(5)
    file = write_configuration(
        tmp_path / "config",
        ["https://example.org/r.git"],
        DataFolders.below(tmp_path),
        ports=Ports(ports, client_port),
    ).client.file
    files = {
        name: str(secret_file(tmp_path / name, marked(name)))
        for name in ("api", "read", "webhook", "https", "status")
    }
    settings = yaml.safe_load(file.read_text()) | {
        "api_token_file": files["api"],
        "read_token_file": files["read"],
        "repositories": [
            {
                "url": "https://127.0.0.1:1/owner/name.git",
                "webhook_secret_file": files["webhook"],
                "https_token_file": files["https"],
                "forge": "gitea",
                "api_url": "https://127.0.0.1:1/api/v1",
                "status_token_file": files["status"],
                "report": "gateway",
            }
        ],
    }
    file.write_text(yaml.safe_dump(settings))
    config = load_client_config(file)
    config.log_file.parent.mkdir(parents=True, exist_ok=True)
    key_line = config.private_key_file.read_text().splitlines()[1]
    said = " ".join(marked(name) for name in files)
    config.log_file.write_text(f"{said} {key_line}\nthe last line\n")
    _, cluster = read_cluster(config.cluster_file)
    Database(config.data_directory, cluster.id, config.name).close()

    output = tmp_path / "report.tar.gz"
    assert gateway_main(["--config", str(file), "doctor", "--output", str(output)]) == 0
    assert output.stat().st_mode & 0o777 == 0o600
    texts = {}
    with tarfile.open(output) as opened:
        for member in opened.getmembers():
            stream = opened.extractfile(member)
            assert stream is not None
            texts[member.name.partition("/")[2]] = stream.read().decode()
    assert set(texts) == {
        "versions.txt", "configuration.json", "check.txt", "sizes.txt", "network.txt",
        "readyz.txt", "metrics.txt", "store.txt", "log.txt",
    }  # fmt: skip
    for name, text in texts.items():
        assert MARKER not in text, f"a secret in {name}"
        assert key_line not in text, name
    assert "repository https://127.0.0.1:1/owner/name.git" in texts["check.txt"]
    assert "next_timestamp: [(1,)]" in texts["store.txt"]
    assert texts["network.txt"].startswith("no answer: ")
    assert texts["log.txt"].endswith("\nthe last line\n")
