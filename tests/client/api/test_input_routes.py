"""What went into builds, at the gateway: as it was agreed on, and against the last green build."""

import json
from pathlib import Path
from typing import Any

import pytest

from ci.artifact_rules import BILL_OF_MATERIALS
from common.dependencies.lock_file import Tool
from node.dependencies.bill_of_materials import bill_of_materials
from node.dependencies.fetch_messages import Stored
from tests.client.network.test_artifact_fetch import built, command, copy_of, view_of
from tests.client.running_network import Running
from tests.client.site import Client


def files(*packages: str) -> dict[str, bytes]:
    """What a build with these packages makes, `name-version` each."""
    stored = []
    for package in packages:
        name, version = package.split("-")
        digest = f"sha256:{version[-1] * 64}"
        stored.append(Stored(Tool.PIP, name, version, "", f"{package}.tar.gz", digest, 1))
    return {BILL_OF_MATERIALS: bill_of_materials("https://example.org/r", "1" * 40, stored)}


async def inputs(client: Client, build: str, query: str = "") -> tuple[int, dict[str, Any]]:
    async with client.get(f"/api/v1/builds/{build}/inputs{query}") as answer:
        return answer.status, await answer.json()


async def test_inputs_are_listed_and_compared_with_the_last_green_build(
    running: Running, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    before = files("six-1.16", "gone-1.0")
    first = await built(running, client, folders[0], *[before] * 4)
    await built(running, client, folders[1], None, None, None, None)
    now = files("six-1.17", "new-2.0", "<b>-1.1")
    build = await built(running, client, folders[2], *[now] * 4)

    status, found = await inputs(client, build)
    assert status == 200, found
    assert found["counts"] == [["pip", 3]]
    assert [row["name"] for row in found["inputs"]] == ["<b>", "new", "six"]
    assert found["since"]["compared_with"] == first
    changes = {change["name"]: change["kind"] for change in found["since"]["changes"]}
    assert changes == {
        "six": "changed",
        "gone": "removed",
        "new": "added",
        "<b>": "added",
    }
    status, found = await inputs(client, build, "?limit=1&after=1")
    assert [row["name"] for row in found["inputs"]] == ["new"]
    assert found["next"] == 2
    status, found = await inputs(client, build, "?find=SIX-1")
    assert ([row["name"] for row in found["inputs"]], found["next"]) == (["six"], None)
    assert (await inputs(client, build, "?find=" + "x" * 101))[0] == 400

    for path in (f"/builds/{build}", f"/builds/{build}/inputs?find=b"):
        async with client.get(path) as answer:
            page = await answer.text()
        assert answer.status == 200, page
        assert "changed" in page
        assert "&lt;b&gt;" in page
        assert "<b>" not in page

    capsys.readouterr()
    assert await command(client, "inputs", build[:12]) == 0
    assert "changed   pip    six 1.16 -> 1.17" in capsys.readouterr().out
    assert await command(client, "inputs", build, "--changes", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["inputs"]) == 3


async def test_a_list_that_nobody_has_any_more_is_said_to_be_gone(
    running: Running, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    first = await built(running, client, tmp_path / "0", *[files("six-1.16")] * 4)
    build = await built(running, client, tmp_path / "1", *[files("six-1.17")] * 4)
    for name in running.network.nodes:
        copy_of(running.network, name, first, BILL_OF_MATERIALS).write_bytes(b"{}")
    status, found = await inputs(client, build)
    assert status == 200
    assert "no replica gave what was agreed on" in found["since"]["problem"]
    assert found["since"]["changes"] == []
    assert [row["version"] for row in found["inputs"]] == ["1.17"]
    assert (await inputs(client, first))[0] == 503
    async with client.get(f"/builds/{build}") as answer:
        assert "is not known" in await answer.text()


async def test_a_build_without_a_list_has_no_inputs(
    running: Running, client: Client, tmp_path: Path
) -> None:
    build = await built(running, client, tmp_path, *[{"log": b"x"}] * 4)
    status, found = await inputs(client, build)
    assert (status, "no inputs were agreed on" in found["error"]) == (404, True)
    assert (await view_of(client, build))["verdict"]["outcome"] == "passed"
    async with client.get(f"/builds/{build}") as answer:
        assert "What went in" not in await answer.text()
