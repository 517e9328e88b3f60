"""client/backup.py: a gateway that comes back from an older backup, on real replicas in memory."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from Crypto.PublicKey import ECC

from ci.builds import OpenBuild
from ci.ledger import VerdictEntry, decode_entry
from ci.operations import Ballot, Delivery, Event
from client.backup import REPLACED_FOLDER
from client.gateway.resolve import FoundCommit, Unreachable
from client.going_over import make_folder
from client.main import gateway_main
from client.storage.build_request import BuildRequest
from client.storage.case_extract import CaseExtract
from client.storage.database import FILE_NAME, FORMAT_VERSION, Database
from client.storage.outbox import Outbox
from common.backups.backup_file import Backup, Header, new_backup
from common.configuration.config import AncestryEntry, load_client_config
from common.membership.confirmation import read_cluster
from common.membership.epochs import in_present_epoch, next_file, read_agreed
from common.membership.link_search import Found
from tests.ci.builders import COMMIT, GATEWAY, finding
from tests.client.cluster_file import write_cluster
from tests.client.commands.epoch_links import lead
from tests.client.running_network import (
    FixedResolver,
    Network,
    Running,
    key_of,
    run_gateway,
)
from tests.forge_server import TOKEN, Answer, ForgeServer
from tests.secret_files import secret_file
from tests.waiting import wait_until

URL = "https://forge.example.org/owner/name.git"
OTHER_COMMIT = "d" * 40
REQUEST = BuildRequest(
    URL,
    "main",
    COMMIT,
    event=Event.PULL_REQUEST,
    ref="refs/pull/1/head",
    delivery=Delivery("gitea", bytes(32)),
    needs_approval=True,
)


def finds_green(build: OpenBuild) -> tuple[Ballot, bytes] | None:
    return finding(commit=build.commit, log="log"), b"log"


def finds_nothing_yet(build: OpenBuild) -> None:
    return None


async def until(condition: Callable[[], bool]) -> None:
    await wait_until(condition, "a restored gateway", 60.0)


class Machine:
    """A gateway's machine: its files, and what its operator does there."""

    def __init__(self, folder: Path, network: Network, forge: ForgeServer) -> None:
        self.folder, self.network = folder, network
        folder.mkdir()
        self.data = folder / "data"
        self.config = folder / "client.yml"
        write_cluster(folder, network.cluster, network.addresses)
        settings = {
            "cluster_file": "cluster.yml",
            "name": GATEWAY,
            "private_key_file": "key.pem",
            "listen": "127.0.0.1:8080",
            "data_directory": "data",
            "log_file": "log/gateway.log",
            "results_file": "log/results.jsonl",
            "repositories": [
                {
                    "url": URL,
                    "unsigned_allowed": True,
                    "forge": forge.forge,
                    "api_url": forge.api_url,
                    "status_token_file": str(secret_file(folder / "token", TOKEN)),
                    "report": "gateway",
                }
            ],
        }
        self.config.write_text(yaml.safe_dump(settings))

    async def live(self, *found: FoundCommit | Unreachable) -> Running:
        """Start the gateway; found: the answers of git servers."""
        reported = load_client_config(self.config).repositories
        return await run_gateway(
            self.network, self.folder, FixedResolver(*found), reported=reported
        )

    def build_all(self, finds: Callable[[OpenBuild], tuple[Ballot, bytes] | None]) -> None:
        for node in self.network.nodes.values():
            node.finds = finds

    def verdicts(self) -> list[VerdictEntry]:
        """Of the network, in order."""
        node = next(iter(self.network.nodes.values()))
        entries = [decode_entry(entry.body) for entry in node.ledger]
        return [entry for entry in entries if isinstance(entry, VerdictEntry)]

    def backup(self, *flags: str) -> Path:
        file = self.folder / "backup.tar"
        file.unlink(missing_ok=True)
        command = ["--config", str(self.config), "backup", "--output", str(file), *flags]
        assert gateway_main(command) == 0
        return file

    def restore(self, file: Path, *flags: str) -> int:
        return gateway_main(["--config", str(self.config), "restore", str(file), *flags])

    def lose_data(self) -> None:
        self.data.rename(self.folder / "dead disk")


@pytest.fixture
def gitea() -> Iterator[ForgeServer]:
    with ForgeServer("gitea") as forge:
        yield forge
    assert forge.wrong == []


@pytest.fixture
def machine(network: Network, tmp_path: Path, gitea: ForgeServer) -> Machine:
    return Machine(tmp_path / "machine", network, gitea)


async def has_verdict(running: Running, *builds: bytes) -> None:
    def all_have() -> bool:
        records = [running.archive.get(build) for build in builds]
        return all(record is not None and record.statement is not None for record in records)

    await until(all_have)


async def test_each_accepted_webhook_gets_one_verdict_and_each_timestamp_one_request(
    machine: Machine, gitea: ForgeServer
) -> None:
    """After the backup the gateway goes on, and asks for more under the next timestamps."""
    machine.build_all(finds_nothing_yet)
    first = await machine.live(Unreachable("its server is down"))
    opened = await first.gateway.submit(URL, "main", COMMIT)
    await until(lambda: len(gitea.statuses) == 1)
    searched = await first.gateway.submit(URL, "later", None)
    backup = machine.backup()
    machine.build_all(finds_green)
    first.gateway._commits._resolver.answers = [FoundCommit(COMMIT)]  # type: ignore[attr-defined]
    await has_verdict(first, opened, searched)
    lost = [await first.gateway.submit(URL, f"b{number}", COMMIT) for number in range(3)]
    await has_verdict(first, *lost)
    await first.close()

    machine.lose_data()
    assert machine.restore(backup) == 0
    # the branch has moved meanwhile, and the replicas have built what it was
    second = await machine.live(FoundCommit(OTHER_COMMIT))
    await has_verdict(second, opened, searched)
    new = await second.gateway.submit(URL, "new", COMMIT)
    await has_verdict(second, new)
    record = second.archive.get(searched)
    assert record is not None
    assert record.commit == COMMIT
    assert second.gateway.unfinished == 0
    verdicts = machine.verdicts()
    await second.close()
    builds = [entry.build for entry in verdicts]
    assert sorted(builds) == sorted(build.hex() for build in (opened, searched, *lost, new))
    timestamps = [asker.timestamp for entry in verdicts for asker in entry.askers]
    assert len(set(timestamps)) == len(timestamps) == len(builds)


async def test_no_status_is_posted_twice(machine: Machine, gitea: ForgeServer) -> None:
    machine.build_all(finds_nothing_yet)
    first = await machine.live()
    opened = await first.gateway.submit(URL, "main", COMMIT)
    await until(lambda: len(gitea.statuses) == 1)
    backup = machine.backup()
    machine.build_all(finds_green)
    await until(lambda: len(gitea.statuses) == 2)
    await first.close()

    machine.lose_data()
    assert machine.restore(backup) == 0
    second = await machine.live()
    await has_verdict(second, opened)
    # a new build of that commit is newer, and posted behind all that waits
    await second.gateway.submit(URL, "main", COMMIT)
    await until(lambda: [status.state for status in gitea.statuses[2:]] == ["pending", "success"])
    await second.close()


async def test_what_waited_to_be_posted_is_posted_by_the_first_life_alone(
    machine: Machine, gitea: ForgeServer
) -> None:
    gitea.answer_with = lambda number: Answer(503, {}) if number == 1 else None
    machine.build_all(finds_nothing_yet)
    first = await machine.live()
    await first.gateway.submit(URL, "main", COMMIT)
    await until(lambda: gitea.requests == 1)
    backup = machine.backup()
    await until(lambda: [status.state for status in gitea.statuses] == ["pending"])
    await first.close()
    machine.lose_data()
    assert machine.restore(backup) == 0
    second = await machine.live()
    assert second.reporter.queue.count() == 0
    await second.close()


async def test_what_waits_for_an_operator_has_its_verdict_posted(
    machine: Machine, gitea: ForgeServer
) -> None:
    """It may wait for days, and nobody else posts it."""
    first = await machine.live()
    build = (await first.gateway.order(REQUEST)).build
    await until(lambda: len(gitea.statuses) == 1)
    backup = machine.backup()
    await first.close()
    machine.lose_data()
    assert machine.restore(backup) == 0
    second = await machine.live()
    await until(lambda: second.gateway.waits_for_approval(build))
    await second.gateway.cancel(build, "no")
    await until(lambda: len(gitea.statuses) == 2)
    await second.close()
    assert [status.state for status in gitea.statuses] == ["pending", "error"]


async def test_of_one_that_was_stopped_before_the_backup_all_is_posted(
    machine: Machine, gitea: ForgeServer
) -> None:
    machine.build_all(finds_nothing_yet)
    first = await machine.live()
    await first.gateway.submit(URL, "main", COMMIT)
    await until(lambda: len(gitea.statuses) == 1)
    await first.close()
    backup = machine.backup()
    machine.lose_data()
    assert machine.restore(backup, "--post-statuses") == 0
    machine.build_all(finds_green)
    second = await machine.live()
    await until(lambda: gitea.statuses[-1].state == "success")
    await second.close()


async def test_logs_come_back_and_what_is_there_stays(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    first = await machine.live()
    build = await first.gateway.submit(URL, "main", COMMIT)
    await until(lambda: (record := first.archive.get(build)) is not None and record.collected)
    extract = CaseExtract({"test_x": "why"}, (("test_y", 1.5),))
    first.archive.write_extracts(build, {"replica-0": extract})
    await first.close()
    backup = machine.backup("--with-logs")
    before = (machine.data / FILE_NAME).read_bytes()
    capsys.readouterr()
    assert machine.restore(backup) == 2
    assert "start the gateway, which needs no backup then" in capsys.readouterr().err
    assert (machine.data / FILE_NAME).read_bytes() == before
    assert machine.restore(backup, "--replace") == 0
    assert (machine.data / REPLACED_FOLDER / FILE_NAME).read_bytes() == before
    machine.lose_data()
    assert machine.restore(backup) == 0
    second = await machine.live()
    names = machine.network.cluster.replica_names
    assert {second.archive.log_file(build, name).read_bytes() for name in names} == {b"log"}
    assert second.archive.read_extracts(build, names) == {"replica-0": extract}
    await second.close()
    for path in machine.data.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_what_nobody_waits_for_goes_into_no_journal_twice(machine: Machine) -> None:
    for node in machine.network.nodes.values():
        node.is_down = True
    first = await machine.live()
    await first.gateway.append("said once")
    build = await first.gateway.submit(URL, "main", COMMIT)
    backup = machine.backup()
    await first.close()
    machine.lose_data()
    assert machine.restore(backup) == 0
    for node in machine.network.nodes.values():
        node.is_down = False
    second = await machine.live()
    assert [row.build for row in Outbox(second.database).unfinished()] == [build]
    await has_verdict(second, build)
    await second.close()


def forged(machine: Machine, good: Path, change: Callable[[Path], None]) -> Path:
    """A backup with right sums whose database is another one."""
    with Backup(good, lambda name: True) as backup:
        header = backup.header
        contents = {stored.name: b"".join(parts) for stored, parts in backup.contents()}
    database = machine.folder / "changed"
    database.write_bytes(contents[f"data/{FILE_NAME}"])
    change(database)
    file = machine.folder / "forged.tar"
    with new_backup(file, header) as writer:
        for name, data in contents.items():
            is_database = name == f"data/{FILE_NAME}"
            writer.add_bytes(name, database.read_bytes() if is_database else data)
    return file


def in_database(statement: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute(statement)

    return change


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4096])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (in_database("UPDATE owner SET name = 'other'"), "belongs to other in cluster"),
        (in_database(f"PRAGMA user_version = {FORMAT_VERSION + 1}"), "this version reads"),
        (cut, "gateway.sqlite"),
        (lambda file: file.write_bytes(b"nonsense" * 1000), "cannot be used"),
    ],
)
async def test_a_database_that_is_not_its_own_is_refused_and_nothing_is_started_on_it(
    machine: Machine,
    change: Callable[[Path], None],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = await machine.live()
    await first.close()
    good = machine.backup()
    machine.lose_data()
    capsys.readouterr()
    assert machine.restore(forged(machine, good, change)) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1
    assert not (machine.data / FILE_NAME).exists()
    assert machine.restore(good) == 0


async def test_a_nodes_backup_is_none_of_a_gateway(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = await machine.live()
    await first.close()
    with Backup(machine.backup(), lambda name: True) as backup:
        header = backup.header
    machine.lose_data()
    other: Header = msgspec.structs.replace(header, kind="node")
    with new_backup(tmp_path / "node.tar", other) as writer:
        writer.add_bytes("configuration/member.yml", machine.config.read_bytes())
    capsys.readouterr()
    assert machine.restore(tmp_path / "node.tar") == 2
    assert "is the backup of a node" in capsys.readouterr().err
    empty = tmp_path / "empty.tar"
    with new_backup(empty, header) as writer:
        writer.add_bytes("configuration/member.yml", machine.config.read_bytes())
    assert machine.restore(empty) == 2
    assert "has no gateway.sqlite" in capsys.readouterr().err


async def test_a_backup_of_any_earlier_epoch_is_restored(machine: Machine) -> None:
    """It is of epoch 1, and the operator has the cluster file of epoch 3."""
    backup = await backup_in_epoch_1(machine)
    machine.lose_data()
    config = load_client_config(machine.config)
    cluster = machine.network.cluster
    for _ in range(3):
        _, cluster = lead(cluster, machine.network.cluster)
    assert cluster.ancestry is not None
    settings = yaml.safe_load(config.cluster_file.read_text())
    settings["ancestry"] = msgspec.to_builtins(AncestryEntry.of(cluster.ancestry))
    config.cluster_file.write_text(yaml.safe_dump(settings))
    assert machine.restore(backup) == 0
    Database(machine.data, cluster.id, GATEWAY).close()


async def backup_in_epoch_1(machine: Machine) -> Path:
    """The configured cluster file is that of epoch 0, which the gateway has left."""
    await (await machine.live()).close()
    link, cluster = lead(machine.network.cluster, machine.network.cluster)
    (machine.folder / "cluster.next.yml").write_text((machine.folder / "cluster.yml").read_text())
    key = ECC.construct(curve="Ed25519", seed=key_of(GATEWAY).seed)
    secret_file(machine.folder / "key.pem", key.export_key(format="PEM"))
    config = load_client_config(machine.config)
    assert cluster.ancestry is not None
    following = read_agreed(next_file(config), cluster.ancestry, cluster.configuration)
    make_folder(config, Found(following, msgspec.msgpack.encode(link), ()))
    Database(machine.data, cluster.id, GATEWAY, ancestors=cluster.ancestors).close()
    return machine.backup()


async def test_a_backup_of_a_later_epoch_is_restored_into_it(machine: Machine) -> None:
    backup = await backup_in_epoch_1(machine)
    machine.lose_data()
    assert machine.restore(backup) == 0
    _, cluster = lead(machine.network.cluster, machine.network.cluster)
    config = load_client_config(machine.config)
    assert read_cluster(in_present_epoch(config).cluster_file)[1].id == cluster.id
    Database(machine.data, cluster.id, GATEWAY).close()
