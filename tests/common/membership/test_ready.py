"""`ready`: a replica of the next epoch signs with the key that it has there."""

from pathlib import Path

import pytest
import yaml

from ci.member_changes import ready_refusal
from common.configuration.keys import generate_key_files, load_public_key, verify
from common.membership.confirmation import read_cluster
from common.membership.ready import read_ready
from node.main import main as node
from tests.common.membership.test_commands import NAMES, assemble, entries, run

__all__ = ["entries"]


def test_each_replica_is_ready_and_the_new_key_too(
    tmp_path: Path, entries: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    present, following = tmp_path / "cluster.yml", tmp_path / "next.yml"
    assert assemble(present, *entries) == 0
    private, public = tmp_path / "new.private.pem", tmp_path / "new.public.pem"
    generate_key_files(private, public)
    settings = yaml.safe_load(present.read_text())
    settings["replicas"][3]["public_key"] = f"ed25519:{load_public_key(public).hex()}"
    following.write_text(yaml.safe_dump(settings))

    def ready(name: str, *flags: str | Path) -> int:
        config = ("--config", tmp_path / name / "node.yml")
        words = ("ready", following, "--cluster", present, "--output", tmp_path / f"{name}.ready")
        return run(node, *config, *words, *flags)

    for name in NAMES[:3]:
        assert ready(name) == 0
    assert ready("dune") == 2
    assert "dune has not the key of" in capsys.readouterr().err
    assert ready("dune", "--key", private) == 0
    readies = [read_ready(tmp_path / f"{name}.ready") for name in NAMES]
    cluster, after = read_cluster(present)[1], read_cluster(following)[1]
    assert ready_refusal(cluster, after, readies, verify=verify) is None

    following.write_text(present.read_text())
    assert ready("acme", "--output", tmp_path / "again") == 2
    assert "has the members of the present epoch already; give the next" in capsys.readouterr().err
