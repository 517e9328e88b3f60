"""Artifacts at the gateway: what is agreed on is served, whoever of the agreeing gives it right."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from yarl import URL

from ci.limits import Limits
from ci.operations import Ballot, BuildResult
from client.commands.artifacts import difference_lines
from client.main import main
from client.network import artifact_fetch
from client.views.artifact_view import FileDifference, FoundFile, file_differences
from node.outputs.artifact_store import (
    Collector,
    artifacts_of,
    keep_artifacts,
    kept_artifacts,
    take_from_folder,
)
from node.work.threads import Stop
from tests.ci.builders import FAILED, PASSED, artifact, finding
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import Network, Running
from tests.client.site import Client, post

FILES = {"dist/a b.txt": b"text\n", "dist/app": bytes(600_000), "log": b"\x1b[31m"}


def make_artifacts(folder: Path, files: dict[str, bytes]) -> tuple[Path, BuildResult]:
    """What a node would keep of a build that made these files, and what it would find."""
    for name, content in files.items():
        path = folder / "workspace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    patterns = {name.partition("/")[0] for name in files}
    collector = Collector(folder / "made", artifacts_of(sorted(patterns), Limits()))
    take_from_folder(collector, folder / "workspace", Stop())
    made = collector.finish()
    keep_artifacts(folder / "made", folder / "kept")
    return folder / "kept", finding(artifacts=made)


async def built(
    running: Running, client: Client, tmp_path: Path, *made: dict[str, bytes] | None
) -> str:
    """A build that each node found to make these files (None: red); its id, when all is here."""
    folders = {}
    for node, files in zip(running.network.nodes.values(), made, strict=True):
        found: Ballot = FAILED
        if files is not None:
            folder = tmp_path / node.name
            folder.mkdir()
            folders[node.name], found = make_artifacts(folder, files)
        node.finds = lambda build, found=found: (found, b"log")  # type: ignore[misc]
    _, answer = await post(client, {"branch": "main"})
    build = bytes.fromhex(answer["build"])
    for name, folder in folders.items():
        running.network.nodes[name].artifacts[build] = folder
    await until(lambda: record_of(running, build).collected)
    return str(answer["build"])


async def fetch(client: Client, build: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
    async with client.get(f"/api/v1/builds/{build}/artifacts/{path}") as answer:
        return answer.status, answer.headers, await answer.read()


async def view_of(client: Client, build: str) -> dict[str, Any]:
    async with client.get(f"/api/v1/builds/{build}") as answer:
        return dict(await answer.json())


def copy_of(network: Network, name: str, build: str, path: str) -> Path:
    """A node's own file."""
    folder = network.nodes[name].artifacts[bytes.fromhex(build)]
    (found,) = [item for item in kept_artifacts(folder) or () if item.path == path]
    return folder / found.sha256


async def test_agreed_artifacts_are_listed_and_served(
    running: Running, client: Client, tmp_path: Path
) -> None:
    build = await built(running, client, tmp_path, FILES, FILES, FILES, FILES)
    async with client.get(f"/api/v1/builds/{build}/artifacts") as answer:
        listed = await answer.json()
    assert listed["outcome"] == "passed"
    assert sorted(listed["agreeing"]) == list(running.network.cluster.replica_names)
    assert listed["differences"] == []
    assert [(entry["path"], entry["length"]) for entry in listed["artifacts"]] == [
        (path, len(content)) for path, content in FILES.items()
    ]
    for path, content in FILES.items():
        status, headers, body = await fetch(client, build, path)
        digest = hashlib.sha256(content).hexdigest()
        assert (status, body) == (200, content)
        assert headers["ETag"] == f'"{digest}"'
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Disposition"].startswith("attachment; ")
    async with client.get(
        f"/api/v1/builds/{build}/artifacts/log",
        headers={"If-None-Match": f'"{hashlib.sha256(FILES["log"]).hexdigest()}"'},
    ) as answer:
        assert answer.status == 304
    async with client.get("/builds/" + build) as answer:
        page = await answer.text()
    assert hashlib.sha256(FILES["dist/app"]).hexdigest() in page
    assert f"/api/v1/builds/{build}/artifacts/dist/a%20b.txt" in page


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(b"tExt\n", id="a byte changed"),
        pytest.param(b"text\n and more", id="longer"),
        pytest.param(b"text", id="shorter"),
        pytest.param(None, id="gone"),
    ],
)
async def test_a_lying_copy_is_refused_and_another_replica_is_asked(
    running: Running,
    client: Client,
    tmp_path: Path,
    lie: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build = await built(running, client, tmp_path, FILES, FILES, FILES, FILES)
    first = (await view_of(client, build))["verdict"]["agreeing"][0]
    copy = copy_of(running.network, first, build, "dist/a b.txt")
    if lie is None:
        copy.unlink()
    else:
        copy.write_bytes(lie)
    status, _, body = await fetch(client, build, "dist/a b.txt")
    assert (status, body) == (200, FILES["dist/a b.txt"])
    served = [name for name, node in running.network.nodes.items() if has_served(node.served)]
    assert first in served
    assert len(served) == 2
    if lie == b"tExt\n":
        assert f"the copy of {first} has SHA-256" in caplog.text


def has_served(paths: list[str]) -> bool:
    return any(path.startswith("artifacts of") for path in paths)


async def test_where_nobody_gives_it_right_all_are_named(
    running: Running, client: Client, tmp_path: Path
) -> None:
    build = await built(running, client, tmp_path, FILES, FILES, FILES, FILES)
    names = running.network.cluster.replica_names
    copy_of(running.network, names[0], build, "log").write_bytes(b"12345")
    copy_of(running.network, names[1], build, "log").unlink()
    running.network.nodes[names[2]].is_down = True
    copy_of(running.network, names[3], build, "log").write_bytes(b"1")
    status, _, body = await fetch(client, build, "log")
    assert status == 502
    error = json.loads(body)["error"]
    for name in names:
        assert name in error
    assert "its copy has SHA-256" in error
    assert "has no copy of it" in error
    assert "1 of the 5 bytes" in error


async def test_who_dissents_is_not_asked_and_differences_are_told_by_file(
    running: Running, client: Client, tmp_path: Path
) -> None:
    other = {**FILES, "log": b"lie", "more": b""}
    build = await built(running, client, tmp_path, FILES, other, FILES, FILES)
    names = running.network.cluster.replica_names
    for name in (names[0], names[2]):
        copy_of(running.network, name, build, "log").unlink()
    status, _, body = await fetch(client, build, "log")
    assert (status, body) == (200, FILES["log"])
    assert not has_served(running.network.nodes[names[1]].served)
    view = await view_of(client, build)
    assert view["verdict"]["dissenting"] == [names[1]]
    assert [item["path"] for item in view["artifact_differences"]] == ["log", "more"]
    agreed, lied = view["artifact_differences"][0]["found"]
    assert agreed["replicas"] == [names[0], names[2], names[3]]
    assert lied == {
        "replicas": [names[1]],
        "sha256": hashlib.sha256(b"lie").hexdigest(),
        "length": 3,
    }
    assert view["artifact_differences"][1]["found"][0]["sha256"] is None


async def test_where_all_differ_nothing_is_agreed_on(
    running: Running, client: Client, tmp_path: Path
) -> None:
    made = [{"same": b"1", "random": b"%d" % number} for number in range(4)]
    build = await built(running, client, tmp_path, *made)
    view = await view_of(client, build)
    assert view["verdict"]["outcome"] == "disputed"
    assert view["artifacts"] == []
    (difference,) = view["artifact_differences"]
    assert difference["path"] == "random"
    assert len(difference["found"]) == 4
    status, _, body = await fetch(client, build, "same")
    assert status == 404
    assert "the build is disputed" in json.loads(body)["error"]
    async with client.get("/builds/" + build) as answer:
        page = await answer.text()
    assert "Files that differ" in page
    assert "random" in page


@pytest.mark.parametrize(
    "path", ["nothing", "dist", "..%2F..%2Fetc%2Fpasswd", "index.json", "%00", "dist/%2E%2E/log"]
)
async def test_only_agreed_paths_are_served(
    running: Running, client: Client, tmp_path: Path, path: str
) -> None:
    build = await built(running, client, tmp_path, FILES, FILES, FILES, None)
    base = client.make_url(f"/api/v1/builds/{build}/artifacts")
    async with ClientSession() as session:
        async with session.get(URL(f"{base}/{path}", encoded=True)) as answer:
            assert answer.status == 404
        for name, address in running.network.addresses.items():
            node = f"{address.url}/builds/{build}/artifacts/{path}?opened=1"
            async with session.get(URL(node, encoded=True)) as answer:
                assert answer.status == 404, name


async def test_so_many_are_fetched_at_once(
    running: Running, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = await built(running, client, tmp_path, FILES, FILES, FILES, FILES)
    monkeypatch.setattr(artifact_fetch, "SPOOLED_MAX", 0)
    status, headers, _ = await fetch(client, build, "log")
    assert (status, "Retry-After" in headers) == (503, True)
    assert list((tmp_path / "data" / artifact_fetch.SPOOL_FOLDER).iterdir()) == []


async def test_an_open_build_has_no_artifacts(running: Running, client: Client) -> None:
    for node in running.network.nodes.values():
        node.finds = lambda build: None
    _, answer = await post(client, {"branch": "main"})
    for path in ("", "/x"):
        async with client.get(f"/api/v1/builds/{answer['build']}/artifacts{path}") as response:
            assert response.status == 404
            assert "no verdict yet" in (await response.json())["error"]


def test_differences_are_those_of_green_ballots_alone() -> None:
    one, two = artifact("x", b"1"), artifact("x", b"2")
    made, other = finding(artifacts=(one,)), finding(artifacts=(two,))
    assert file_differences(None, {"a": made, "b": FAILED}) == ()
    assert file_differences(None, {"a": made, "b": made}) == ()
    assert file_differences(None, {"c": made, "a": made, "b": other, "d": PASSED}) == (
        FileDifference(
            "x",
            (
                FoundFile(("a", "c"), one.sha256, 1),
                FoundFile(("b",), two.sha256, 1),
                FoundFile(("d",), None, None),
            ),
        ),
    )


def test_difference_lines_are_safe_to_print() -> None:
    told = [{"path": "a\x1b[31m", "found": [{"replicas": ["r"], "sha256": None, "length": None}]}]
    lines = difference_lines(told)
    assert "\x1b" not in "".join(lines)
    assert "nothing there" in lines[1]


# --- the command line -----------------------------------------------------------------------------


async def command(client: Client, *words: str) -> int:
    url = str(client.make_url("/")).rstrip("/")
    return await asyncio.to_thread(main, [*words, "--gateway", url])


async def test_the_command_lists_and_fetches(
    running: Running, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = await built(running, client, tmp_path, FILES, FILES, FILES, FILES)
    output = tmp_path / "output"
    assert await command(client, "artifacts", build[:12], "--output", str(output)) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"{hashlib.sha256(content).hexdigest()}  {path}" for path, content in FILES.items()
    ]
    assert "passed; agreed on by" in printed.err
    for path, content in FILES.items():
        assert (output / path).read_bytes() == content
    names = sorted(path.name for path in output.rglob("*"))
    assert names == ["a b.txt", "app", "dist", "log"]
    # again, over what is there
    (output / "log").write_bytes(b"old")
    assert await command(client, "artifacts", build, "--output", str(output)) == 0
    assert (output / "log").read_bytes() == FILES["log"]


async def test_the_command_follows_no_link_out_of_the_folder(
    running: Running, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = await built(running, client, tmp_path, FILES, FILES, FILES, FILES)
    output, outside = tmp_path / "output", tmp_path / "outside"
    outside.mkdir()
    output.mkdir()
    (output / "dist").symlink_to(outside)
    assert await command(client, "artifacts", build, "--output", str(output)) != 0
    assert "is a link" in capsys.readouterr().err
    assert list(outside.iterdir()) == []


async def test_status_tells_what_differs(
    running: Running, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [{"random": b"%d" % number} for number in range(4)]
    build = await built(running, client, tmp_path, *made)
    assert await command(client, "status", build) == 5
    printed = capsys.readouterr().out
    assert "differs     random" in printed
    for content in made:
        assert hashlib.sha256(content["random"]).hexdigest() in printed
    assert await command(client, "artifacts", build) == 5
    assert "disputed" in capsys.readouterr().err
